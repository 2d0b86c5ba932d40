use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a test server could not be started or used.
///
/// Meant for the person who reads a failed test: it names the server, says what happened and what to do. `Debug`
/// prints the same sentences as `Display`, because that is what a failed `unwrap` shows.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TestbedError {
    /// A running server refused or failed a call that the testbed made.
    #[error("{what}: {source}")]
    Api {
        /// The call and its object.
        what: String,
        /// The client's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the caller asked for makes no sense; nothing was started.
    #[error("{0}")]
    Invalid(String),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// The action and its object.
        what: String,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The server's binaries are not there.
    #[error("{what} is not in {}; run {command} once and try again", folder.display())]
    NotBuilt {
        /// The binary or folder that is missing.
        what: String,
        /// Where it was looked for.
        folder: PathBuf,
        /// The command, from the root of the repository, that puts it there.
        command: &'static str,
    },
    /// A server ended, or did not become ready in time. Everything started with it has been stopped.
    #[error(
        "{server} {reason}; the end of its log:\n{log_tail}\nIf its binary is damaged, remove its folder and run {command}"
    )]
    Start {
        /// Name of the server.
        server: String,
        /// What it did instead of becoming ready.
        reason: String,
        /// The last lines that it wrote.
        log_tail: String,
        /// The command, from the root of the repository, that builds the server.
        command: &'static str,
    },
    /// A server that a package of the system brought ended, or did not become ready in time. It has been stopped.
    #[error("{server} {reason}; the end of its log:\n{log_tail}")]
    Server {
        /// Name of the server.
        server: String,
        /// What it did instead of becoming ready.
        reason: String,
        /// The last lines that it wrote.
        log_tail: String,
    },
    /// A condition did not come true in time.
    #[error("{what}: not so after {waited:?}; last seen: {last}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// What was seen at the last look.
        last: String,
    },
}

impl fmt::Debug for TestbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TestbedError {
    #[cfg(any(feature = "kubernetes", feature = "postgres", feature = "redis"))]
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    #[cfg(any(feature = "kubernetes", feature = "postgres", feature = "redis"))]
    pub(crate) fn api<E>(what: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let what = what.into();
        move |source| Self::Api { what, source: source.into() }
    }
}
