//! Where the client's errors become wakala's: the only place that knows them.

use std::error::Error as StdError;
use std::time::Duration;

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::error::{DbError, Severity};
use wakala_core::{Error, ErrorKind, Retry};

/// One call to the server, as its errors name it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// As the code names it: `append`.
    pub(crate) operation: &'static str,
    /// The object, for people.
    pub(crate) subject: String,
    /// Whether it changes anything, so that a lost answer leaves its fate open.
    pub(crate) writes: bool,
}

/// How far a call got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There was no connection yet: nothing was sent.
    Connecting,
    /// The statement was sent, or may have been.
    Sent,
}

/// What an error of the server's says about the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It had no effect, and would fail again.
    Refused,
    /// It had no effect, and may succeed later.
    NotNow,
    /// It may have taken effect.
    Unknown,
}

/// Whether the server rolled the statement back for the sake of another transaction, so that it may succeed at once.
#[cfg(any(feature = "run-store", feature = "shards"))]
pub(crate) fn gave_way(error: &tokio_postgres::Error) -> bool {
    // 23505 is a race that our own functions look for first: the next time they see who won it.
    matches!(error.code().map(|code| code.code()), Some("40001" | "40P01" | "23505"))
}

impl Call {
    fn error(&self, kind: ErrorKind, retry: Retry, message: impl Into<String>) -> Error {
        Error::new(kind, self.operation, message.into()).on(&self.subject).with_retry(retry)
    }

    /// What a call without an answer leaves: reads may simply be repeated.
    fn if_lost(&self) -> Retry {
        if self.writes { Retry::ObserveFirst } else { Retry::Safe { after: None } }
    }

    fn retry(&self, fate: Fate) -> Retry {
        match fate {
            Fate::Refused => Retry::Never,
            Fate::NotNow => Retry::Safe { after: None },
            Fate::Unknown => self.if_lost(),
        }
    }

    /// The pool gave no connection, so nothing was sent.
    pub(crate) fn no_connection(&self, error: PoolError) -> Error {
        let safe = Retry::Safe { after: None };
        match error {
            PoolError::Timeout(TimeoutType::Wait) => {
                let message = "no connection of the pool became free in time; give the pool more of them";
                self.error(ErrorKind::Unavailable, safe, message).with_source(error)
            }
            PoolError::Timeout(_) => {
                let message = "no connection in time; is the server up, and its address right?";
                self.error(ErrorKind::Unavailable, safe, message).with_source(error)
            }
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                self.client(error, Phase::Connecting)
            }
            PoolError::Closed => {
                let message = "the connection pool was closed; make another with an open one";
                self.error(ErrorKind::InvalidConfig, Retry::Never, message).with_source(error)
            }
            PoolError::NoRuntimeSpecified => {
                let message = "the connection pool has time-outs but no runtime; build it with one";
                self.error(ErrorKind::InvalidConfig, Retry::Never, message).with_source(error)
            }
            PoolError::PostCreateHook(_) => {
                let message = "a hook of the connection pool refused a new connection";
                self.error(ErrorKind::Unavailable, safe, message).with_source(error)
            }
        }
    }

    /// No connection within the time of the call.
    pub(crate) fn no_connection_within(&self, limit: Duration) -> Error {
        let message = format!("no connection after {limit:?}; is the server up, and the pool large enough?");
        self.error(ErrorKind::DeadlineExceeded, Retry::Safe { after: None }, message)
    }

    /// A statement without an answer within the time of the call.
    pub(crate) fn no_answer_within(&self, limit: Duration) -> Error {
        let effect = if self.writes { "; it may have taken effect" } else { "" };
        let message = format!("no answer after {limit:?}{effect}");
        self.error(ErrorKind::DeadlineExceeded, self.if_lost(), message)
    }

    /// There is no connection to send anything on.
    #[cfg(feature = "mover")]
    pub(crate) fn unreachable(&self, error: tokio_postgres::Error) -> Error {
        self.client(error, Phase::Connecting)
    }

    /// The statement failed, or its answer was lost.
    pub(crate) fn failed(&self, error: tokio_postgres::Error) -> Error {
        self.client(error, Phase::Sent)
    }

    /// The statement gave way to others as often as it was tried.
    #[cfg(any(feature = "run-store", feature = "shards"))]
    pub(crate) fn gave_up(&self, error: tokio_postgres::Error, attempts: u32) -> Error {
        let message =
            format!("other transactions were in the way {attempts} times; find out which, or try later");
        self.error(ErrorKind::Conflict, Retry::Exhausted, message).with_source(in_words(error))
    }

    /// The answer is not what this version knows.
    pub(crate) fn odd_answer(&self, what: impl std::fmt::Display) -> Error {
        let message =
            format!("the server answered {what}, which this version does not know; was its schema changed?");
        self.error(ErrorKind::Unexpected, self.if_lost(), message)
    }

    fn client(&self, error: tokio_postgres::Error, phase: Phase) -> Error {
        let Some(answer) = error.as_db_error() else {
            let (retry, message) = match phase {
                Phase::Connecting => (Retry::Safe { after: None }, "the server cannot be reached"),
                Phase::Sent if self.writes => {
                    (self.if_lost(), "the connection to the server was lost; it may have taken effect")
                }
                Phase::Sent => (self.if_lost(), "the connection to the server was lost"),
            };
            return self.error(ErrorKind::Unavailable, retry, message).with_source(error);
        };
        let (kind, fate) = classify(answer.code().code(), answer.message(), is_fatal(answer), phase);
        let retry = self.retry(fate);
        let advice = match (kind, retry) {
            (_, Retry::ObserveFirst) => "it may have taken effect",
            (ErrorKind::Denied, _) => "give the role what it needs, as the functions …_permissions say",
            (ErrorKind::InvalidConfig, _) if schema_is_missing(answer) => {
                "run migrate once, or correct the name of the schema"
            }
            (ErrorKind::InvalidConfig, _) => "correct that",
            (ErrorKind::Unavailable, _) => "the server cannot do it now",
            (ErrorKind::Unexpected, _) => "this version does not know it",
            _ => "nothing has changed",
        };
        let (code, text) = (answer.code().code(), answer.message().trim_end_matches('.'));
        let hint = answer.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let message = format!("{text}{hint}; {advice} (SQLSTATE {code})");
        self.error(kind, retry, message).with_source(in_words(error))
    }
}

/// The server's own words, which the client's error hides in its source.
fn in_words(error: tokio_postgres::Error) -> Box<dyn StdError + Send + Sync> {
    match error.as_db_error() {
        Some(answer) => Box::new(answer.clone()),
        None => Box::new(error),
    }
}

fn schema_is_missing(answer: &DbError) -> bool {
    matches!(answer.code().code(), "3F000" | "42P01" | "42883" | "42703")
}

/// Whether the connection ends with this answer.
fn is_fatal(answer: &DbError) -> bool {
    // The first is the word of all languages, which PgBouncer does not send.
    match answer.parsed_severity() {
        Some(severity) => severity != Severity::Error,
        None => answer.severity() != "ERROR",
    }
}

/// What the server's answer means.
///
/// An `ERROR` is an answer to the statement, which was rolled back. With `FATAL` the connection ends, and the statement
/// may have been committed just before; only some codes say that it was not.
fn classify(code: &str, message: &str, fatal: bool, phase: Phase) -> (ErrorKind, Fate) {
    let (kind, fate) = kind_of(code, message);
    match phase {
        Phase::Connecting if fate == Fate::Unknown => (kind, Fate::NotNow),
        Phase::Sent if fatal && !begins_nothing(code) => (kind, Fate::Unknown),
        _ => (kind, fate),
    }
}

/// Whether the code, though fatal, is about the login (which PgBouncer passes on in the place of an answer), about a
/// session that was idle, or about a transaction that was given up.
fn begins_nothing(code: &str) -> bool {
    let codes = ["08001", "08004", "08P01", "25P03", "25P04", "3D000", "53300", "57P03", "57P05", "58000"];
    code.starts_with("28") || codes.contains(&code)
}

fn kind_of(code: &str, message: &str) -> (ErrorKind, Fate) {
    use ErrorKind::{
        Conflict, DeadlineExceeded, Denied, InvalidConfig, NotFound, Unavailable, Unexpected, Unsupported,
    };
    use Fate::{NotNow, Refused, Unknown};
    match code {
        // PgBouncer says most of what it has to say as a protocol violation.
        "08P01" => pgbouncer(message),
        // The connection could not be made, or was refused.
        "08001" | "08004" => (Unavailable, NotNow),
        // The connection was lost, and with it what became of the statement; 40003 and 08007 say so outright.
        "40003" => (Unavailable, Unknown),
        _ if code.starts_with("08") => (Unavailable, Unknown),
        // 57P01 also ends the wait for a standby, after the commit; 57P02 is a crash, 57P04 a dropped database.
        "57P01" | "57P02" | "57P04" => (Unavailable, Unknown),
        // Starting up, shutting down or recovering; or the session was idle, so nothing of ours was read.
        "57P03" | "57P05" | "25P03" => (Unavailable, NotNow),
        // statement_timeout, or somebody cancelled it.
        "57014" | "25P04" => (DeadlineExceeded, NotNow),
        // A deadlock or a serialisation failure that was not retried here.
        _ if code.starts_with("40") => (Conflict, NotNow),
        // lock_timeout, or an object in use.
        "55P03" | "55006" => (Conflict, NotNow),
        // A standby, or a server that was made read-only.
        "25006" => (Unavailable, NotNow),
        // Out of connections, memory (locks are part of it), disk or file handles.
        _ if code.starts_with("53") => (Unavailable, NotNow),
        // The system beneath the server failed: a file, a disk. New versions of PgBouncer use 58000 for their own.
        "58000" => pgbouncer(message),
        _ if code.starts_with("58") => (Unavailable, NotNow),
        // Somebody else made the same thing at the same time.
        "23505" | "42P06" | "42P07" | "42723" | "42710" => (Conflict, NotNow),
        // No password, a wrong one, no entry in pg_hba.conf; or a missing privilege.
        "42501" => (Denied, Refused),
        _ if code.starts_with("28") => (Denied, Refused),
        "3D000" => (NotFound, Refused),
        // 0A000 is a server that is too old.
        "0A000" => (Unsupported, Refused),
        // A missing object, a value or a size that no column takes, a setting that rules the statement out.
        "3F000" | "42P01" | "42883" | "42703" | "55000" => (InvalidConfig, Refused),
        _ if code.starts_with("22") || code.starts_with("54") => (InvalidConfig, Refused),
        // What the functions of a shard say: another owner, another mover.
        _ if code.starts_with("WK") => (Conflict, Refused),
        // A broken constraint of ours, a syntax error, damaged data: this program's fault or the schema's.
        _ => (Unexpected, Refused),
    }
}

/// PgBouncer's own errors, known by their words.
fn pgbouncer(message: &str) -> (ErrorKind, Fate) {
    // No server connection was given to the client, so the statement was not passed on.
    const NOT_PASSED_ON: [&str; 8] = [
        "client_login_timeout",
        "database is being",
        "no more connections allowed",
        "pgbouncer cannot connect to server",
        "pgbouncer is shutting down",
        "query_wait_timeout",
        "server login has been failing",
        "the database system is",
    ];
    if message.starts_with("no such database") {
        (ErrorKind::NotFound, Fate::Refused)
    } else if message.contains("password authentication failed") || message.contains("no such user") {
        (ErrorKind::Denied, Fate::Refused)
    } else if NOT_PASSED_ON.iter().any(|words| message.contains(words)) {
        (ErrorKind::Unavailable, Fate::NotNow)
    } else {
        (ErrorKind::Unavailable, Fate::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_the_order_is_considered() {
        use ErrorKind::{
            Conflict, DeadlineExceeded, Denied, InvalidConfig, NotFound, Unavailable, Unexpected, Unsupported,
        };
        let cases = [
            ("08000", Unavailable, Fate::Unknown),
            ("08001", Unavailable, Fate::NotNow),
            ("08003", Unavailable, Fate::Unknown),
            ("08004", Unavailable, Fate::NotNow),
            ("08006", Unavailable, Fate::Unknown),
            ("08007", Unavailable, Fate::Unknown),
            ("0A000", Unsupported, Fate::Refused),
            ("22021", InvalidConfig, Fate::Refused),
            ("23503", Unexpected, Fate::Refused),
            ("23505", Conflict, Fate::NotNow),
            ("25006", Unavailable, Fate::NotNow),
            ("25P03", Unavailable, Fate::NotNow),
            ("28P01", Denied, Fate::Refused),
            ("28000", Denied, Fate::Refused),
            ("3D000", NotFound, Fate::Refused),
            ("3F000", InvalidConfig, Fate::Refused),
            ("40001", Conflict, Fate::NotNow),
            ("40003", Unavailable, Fate::Unknown),
            ("40P01", Conflict, Fate::NotNow),
            ("42501", Denied, Fate::Refused),
            ("42601", Unexpected, Fate::Refused),
            ("42P01", InvalidConfig, Fate::Refused),
            ("53100", Unavailable, Fate::NotNow),
            ("53200", Unavailable, Fate::NotNow),
            ("53300", Unavailable, Fate::NotNow),
            ("54000", InvalidConfig, Fate::Refused),
            ("55000", InvalidConfig, Fate::Refused),
            ("55P03", Conflict, Fate::NotNow),
            ("57014", DeadlineExceeded, Fate::NotNow),
            ("57P01", Unavailable, Fate::Unknown),
            ("57P02", Unavailable, Fate::Unknown),
            ("57P03", Unavailable, Fate::NotNow),
            ("57P05", Unavailable, Fate::NotNow),
            ("58030", Unavailable, Fate::NotNow),
            ("XX001", Unexpected, Fate::Refused),
        ];
        for (code, kind, fate) in cases {
            assert_eq!(kind_of(code, "words"), (kind, fate), "{code}");
        }
    }

    #[test]
    fn pgbouncer_is_known_by_its_words() {
        let cases = [
            ("query_wait_timeout", ErrorKind::Unavailable, Fate::NotNow),
            ("server conn crashed?", ErrorKind::Unavailable, Fate::Unknown),
            ("no such database: shop", ErrorKind::NotFound, Fate::Refused),
            ("no more connections allowed (max_client_conn)", ErrorKind::Unavailable, Fate::NotNow),
            ("SASL authentication failed", ErrorKind::Unavailable, Fate::Unknown),
        ];
        for (words, kind, fate) in cases {
            assert_eq!(kind_of("08P01", words), (kind, fate), "{words}");
        }
    }

    #[test]
    fn the_end_of_the_connection_leaves_open_what_an_answer_would_not() {
        let fate = |code, fatal, phase| classify(code, "", fatal, phase).1;
        assert_eq!(fate("53200", false, Phase::Sent), Fate::NotNow);
        assert_eq!(fate("53200", true, Phase::Sent), Fate::Unknown);
        assert_eq!(fate("XX000", true, Phase::Sent), Fate::Unknown);
        assert_eq!(fate("57P05", true, Phase::Sent), Fate::NotNow);
        assert_eq!(fate("28P01", true, Phase::Sent), Fate::Refused);
        assert_eq!(fate("57P01", true, Phase::Sent), Fate::Unknown);
        assert_eq!(fate("57P01", true, Phase::Connecting), Fate::NotNow);
        assert_eq!(fate("28P01", true, Phase::Connecting), Fate::Refused);
    }

    #[test]
    fn only_a_write_that_may_have_happened_is_to_be_observed() {
        let call = |writes| Call { operation: "append", subject: "run a".to_owned(), writes };
        let limit = Duration::from_secs(1);
        assert_eq!(call(true).no_answer_within(limit).retry(), Retry::ObserveFirst);
        assert_eq!(call(false).no_answer_within(limit).retry(), Retry::Safe { after: None });
        assert_eq!(call(true).no_connection_within(limit).retry(), Retry::Safe { after: None });
        assert_eq!(call(true).no_connection(PoolError::Closed).retry(), Retry::Never);
        let waited = call(true).no_connection(PoolError::Timeout(TimeoutType::Wait));
        assert_eq!((waited.kind(), waited.retry()), (ErrorKind::Unavailable, Retry::Safe { after: None }));
    }
}
