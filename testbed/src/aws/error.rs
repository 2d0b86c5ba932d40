use std::path::PathBuf;

/// Why the AWS testbed could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call was answered, but not with success. Nothing was created.
    #[error("{operation} of {subject}: HTTP {status}: {body}")]
    Answer {
        /// The operation as the API names it.
        operation: &'static str,
        /// The cluster or node group it was about.
        subject: String,
        /// The HTTP status.
        status: u16,
        /// The body as it came.
        body: String,
    },
    /// The call was not answered at all; moto may have ended.
    #[error("{operation} of {subject}: no answer from moto")]
    NoAnswer {
        /// The operation as the API names it.
        operation: &'static str,
        /// The cluster or node group it was about.
        subject: String,
        /// What the HTTP client met.
        source: reqwest::Error,
    },
    /// None of the variables that say where the moto environment lies is set.
    #[error("cannot tell where moto is installed: set HOME, XDG_CACHE_HOME or WAKALA_CACHE_DIR")]
    NoCacheFolder,
    /// moto is not installed, or an older list of requirements was.
    #[error("moto is not installed in {}: run ./scripts/install-moto", folder.display())]
    NotInstalled {
        /// Where `scripts/install-moto` puts it.
        folder: PathBuf,
    },
    /// A server could not be started.
    #[error("the AWS testbed did not start: {reason}")]
    Start {
        /// What was being done and what happened, with the end of moto's log where there is one.
        reason: String,
    },
}

/// [`std::result::Result`] with the AWS testbed's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
