//! Why a stream ends, and what that means for whoever reads it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use wakala_core::{Error, ErrorKind, Retry};

/// An error message of the server's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerError {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) detail: String,
}

impl ServerError {
    /// Of the body of an `ErrorResponse`; what is missing or malformed in it is left empty.
    pub(super) fn parse(body: &[u8]) -> Self {
        let mut error = Self::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = text,
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message.trim_end_matches('.'))?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail.trim_end_matches('.'))?;
        }
        write!(f, " (SQLSTATE {})", self.code)
    }
}

impl StdError for ServerError {}

/// What went wrong on the connection.
#[derive(Debug)]
pub(super) enum Failure {
    Config(&'static str),
    Io(io::Error),
    Login(String),
    Protocol(String),
    Server(ServerError),
    /// Nothing came from the server for so long, though it was asked.
    Silent(Duration),
    Tls(Box<dyn StdError + Send + Sync>),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

impl Failure {
    pub(super) fn unexpected(tag: u8, when: &str) -> Self {
        Self::Protocol(format!("a message of kind {:?} in {when}", char::from(tag)))
    }

    /// As wakala has it. Reading changes nothing, so whatever may pass is safe to try again.
    pub(super) fn into_error(self, slot: &str) -> Error {
        let error = |kind, retry, message: String| {
            Error::new(kind, "change_stream", message).on(format!("slot {slot}")).with_retry(retry)
        };
        let safe = Retry::Safe { after: None };
        match self {
            Self::Config(why) => error(ErrorKind::InvalidConfig, Retry::Never, why.to_owned()),
            Self::Io(cause) => error(
                ErrorKind::Unavailable,
                safe,
                "the connection to the server was lost, or not to be had".to_owned(),
            )
            .with_source(cause),
            Self::Login(why) => error(ErrorKind::Denied, Retry::Never, why),
            Self::Protocol(what) => error(
                ErrorKind::Unexpected,
                Retry::Never,
                format!(
                    "{what}, which this version does not know; is it a PostgreSQL that is listening there?"
                ),
            ),
            Self::Silent(limit) => error(
                ErrorKind::Unavailable,
                safe,
                format!("nothing came from the server for {limit:?}, though it was asked; is its host up?"),
            ),
            Self::Tls(cause) => {
                error(ErrorKind::Unavailable, safe, "the encryption with the server failed".to_owned())
                    .with_source(cause)
            }
            Self::Server(answer) => {
                let (kind, retry, advice) = meaning(&answer);
                error(kind, retry, format!("{answer}{advice}")).with_source(answer)
            }
        }
    }
}

pub(super) const START_OVER: &str =
    "; what the slot kept is gone, so the copy must start over: give this move up, and begin a new one";

/// What an answer of the server's means, and what to do.
fn meaning(answer: &ServerError) -> (ErrorKind, Retry, &'static str) {
    let safe = Retry::Safe { after: None };
    let says = |words: &str| answer.message.contains(words) || answer.detail.contains(words);
    match answer.code.as_str() {
        // In the words of 14 to 18; "requested WAL segment … has already been removed" has the code of a missing file.
        "55000" if says("invalidated") || says("can no longer") => {
            (ErrorKind::Conflict, Retry::Never, START_OVER)
        }
        _ if says("requested WAL segment") && says("already been removed") => {
            (ErrorKind::Conflict, Retry::Never, START_OVER)
        }
        "55000" if says("wal_level") => {
            (ErrorKind::InvalidConfig, Retry::Never, "; set wal_level = logical and restart the server")
        }
        "55006" => (
            ErrorKind::Conflict,
            safe,
            "; another process reads this stream: wait for it, or end that process",
        ),
        "42710" => (ErrorKind::Conflict, Retry::Never, "; whose is it?"),
        "42704" if says("replication slot") => (
            ErrorKind::NotFound,
            Retry::Never,
            "; without it changes are lost, so the copy must start over: give this move up, and begin a new one",
        ),
        "42704" => (ErrorKind::NotFound, Retry::Never, "; it must be there since before the slot"),
        "42501" => (ErrorKind::Denied, Retry::Never, "; give the role REPLICATION"),
        code if code.starts_with("28") => {
            (ErrorKind::Denied, Retry::Never, "; see pg_hba.conf and the password")
        }
        "53300" => (ErrorKind::Unavailable, safe, "; see max_wal_senders and max_connections"),
        "3D000" => (ErrorKind::NotFound, Retry::Never, ""),
        "0A000" => (ErrorKind::Unsupported, Retry::Never, ""),
        "25006" => (ErrorKind::Unavailable, safe, ""),
        code if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => {
            (ErrorKind::Unavailable, safe, "; open the stream again")
        }
        code if code.starts_with("40") => (ErrorKind::Conflict, safe, ""),
        code if code.starts_with("22") || code.starts_with("42") => {
            (ErrorKind::InvalidConfig, Retry::Never, "")
        }
        _ => (ErrorKind::Unexpected, Retry::Never, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, message: &str, detail: &str) -> Error {
        let body = format!("SERROR\0VERROR\0C{code}\0M{message}\0D{detail}\0\0");
        Failure::from(ServerError::parse(body.as_bytes())).into_error("s")
    }

    #[test]
    fn answers_of_all_versions_are_understood() {
        use ErrorKind::{Conflict, Denied, InvalidConfig, NotFound, Unavailable, Unexpected};
        let safe = Retry::Safe { after: None };
        let cases = [
            ("42704", "replication slot \"s\" does not exist", "", NotFound, Retry::Never),
            ("42704", "publication \"p\" does not exist", "", NotFound, Retry::Never),
            ("55006", "replication slot \"s\" is active for PID 12", "", Conflict, safe),
            (
                "55000",
                "cannot read from logical replication slot \"s\"",
                "This slot has been invalidated because it exceeded the maximum reserved size.",
                Conflict,
                Retry::Never,
            ),
            ("55000", "can no longer get changes from replication slot \"s\"", "", Conflict, Retry::Never),
            (
                "55000",
                "can no longer access replication slot \"s\"",
                "This replication slot has been invalidated due to \"wal_removed\".",
                Conflict,
                Retry::Never,
            ),
            ("58P01", "requested WAL segment 0A has already been removed", "", Conflict, Retry::Never),
            ("42710", "replication slot \"s\" already exists", "", Conflict, Retry::Never),
            ("55000", "logical decoding requires wal_level >= logical", "", InvalidConfig, Retry::Never),
            ("42501", "must be superuser or replication role to start walsender", "", Denied, Retry::Never),
            ("28P01", "password authentication failed", "", Denied, Retry::Never),
            (
                "53300",
                "number of requested standby connections exceeds max_wal_senders",
                "",
                Unavailable,
                safe,
            ),
            ("57P01", "terminating connection due to administrator command", "", Unavailable, safe),
            ("57P03", "the database system is starting up", "", Unavailable, safe),
            ("XX000", "what", "", Unexpected, Retry::Never),
        ];
        for (code, message, detail, kind, retry) in cases {
            let error = error(code, message, detail);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{message}");
            assert!(error.to_string().contains(message), "{error}");
        }
        assert_eq!(ServerError::parse(b"").code, "");
    }
}
