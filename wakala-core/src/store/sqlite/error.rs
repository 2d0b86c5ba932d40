//! SQLite's errors as ours.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::{Error, ErrorKind, Retry};

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is committed: what was done so far is rolled back.
    Before,
    /// `COMMIT` failed. The change is not in force, and the next write that succeeds puts itself in its place. But the log
    /// may have it in full by then (a failed `fsync`, or no room for the index of the log, comes after it was written), and
    /// if the process ends without another write, whoever recovers the log finds it.
    Commit,
}

/// Why a call ended: we refuse it, or SQLite fails.
#[derive(Debug)]
pub(super) enum Stop {
    Refused(Error),
    Sqlite(rusqlite::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Stop {
    pub(super) fn into_error(self, operation: &'static str, path: &Path) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::Sqlite(error) => failed(operation, path, Stage::Before, error),
        }
    }
}

/// What a failure of SQLite means to a caller.
pub(super) fn failed(operation: &'static str, path: &Path, stage: Stage, error: rusqlite::Error) -> Error {
    let (kind, what) = meaning(&error);
    let retry = match (kind, stage) {
        (ErrorKind::Unavailable, Stage::Before) => Retry::Safe { after: None },
        (ErrorKind::Unavailable, Stage::Commit) => Retry::ObserveFirst,
        _ => Retry::Never,
    };
    let message = match retry {
        Retry::ObserveFirst => {
            format!("{what}; load the run before trying again, for this may have been written")
        }
        _ => what.to_owned(),
    };
    Error::new(kind, operation, message).with_retry(retry).on(super::subject(path)).with_source(error)
}

fn meaning(error: &rusqlite::Error) -> (ErrorKind, &'static str) {
    use ErrorKind::{Denied, InvalidConfig, Unavailable, Unexpected};

    let Some(code) = error.sqlite_error_code() else {
        return (
            Unexpected,
            "what the database holds is not what was written; look at it with a copy of the files",
        );
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (Unavailable, "another process keeps the database locked; end it, or try again later")
        }
        ErrorCode::DiskFull => (Unavailable, "the disk is full; make room"),
        ErrorCode::SystemIoFailure => (
            Unavailable,
            "the disk cannot be read or written; look at the system's log and at the room that is left",
        ),
        ErrorCode::CannotOpen => (
            Unavailable,
            "the database or a file beside it cannot be opened; look at the folder's permissions and at the room that is \
             left",
        ),
        ErrorCode::OutOfMemory => (Unavailable, "there is no memory left"),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            (Denied, "the database may not be written; look at its permissions and at those of its folder")
        }
        ErrorCode::NotADatabase => (
            Unexpected,
            "this is no SQLite database: another program's file, or its beginning is damaged; keep a copy of it with its \
             -wal and -shm files",
        ),
        ErrorCode::DatabaseCorrupt => (
            Unexpected,
            "the database is damaged; stop all who use it, keep a copy of it with its -wal and -shm files, and read what is \
             left of it with `sqlite3 … .recover`; each run's hashes tell what holds",
        ),
        ErrorCode::TooBig => (InvalidConfig, "a text is larger than SQLite takes"),
        _ => (Unexpected, "the database answers as no run store does; somebody changed its tables"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
    }

    #[test]
    fn a_failed_commit_may_have_happened_and_all_before_it_has_not() {
        let path = Path::new("/x/runs.db");
        for code in [rusqlite::ffi::SQLITE_FULL, rusqlite::ffi::SQLITE_IOERR_FSYNC] {
            let error = failed("append", path, Stage::Before, sqlite(code));
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe { after: None }));
            let error = failed("append", path, Stage::Commit, sqlite(code));
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst));
            assert!(error.to_string().starts_with("append on run store /x/runs.db: the disk "), "{error}");
            assert!(error.to_string().contains("load the run before trying again"), "{error}");
        }
    }

    #[test]
    fn damage_is_final() {
        for stage in [Stage::Before, Stage::Commit] {
            let corrupt = sqlite(rusqlite::ffi::SQLITE_CORRUPT_INDEX);
            let strange = rusqlite::Error::IntegralValueOutOfRange(0, -1);
            for error in [corrupt, strange] {
                let error = failed("load", Path::new("runs.db"), stage, error);
                assert_eq!((error.kind(), error.retry()), (ErrorKind::Unexpected, Retry::Never));
            }
        }
    }
}
