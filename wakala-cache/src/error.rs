//! Where the client's errors become wakala's: the only place that knows them.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisError, ServerError, Value};
use tokio_rustls::rustls;
use wakala_core::{Error, ErrorKind, Retry};

/// Commands that are several, told apart by their second word.
const CONTAINERS: [&str; 12] = [
    "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "LATENCY", "MEMORY", "OBJECT", "SENTINEL",
    "XGROUP", "XINFO",
];

/// One call to a node, as its errors name it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// As the code names it: `latest`.
    pub(crate) operation: &'static str,
    /// The object, for people: `redis 10.0.0.1:6379`.
    pub(crate) subject: String,
    /// Whether it changes anything, so that a lost answer leaves its fate open.
    pub(crate) writes: bool,
}

/// What an error of the server's says about the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It had no effect, and would fail again.
    Refused,
    /// It had no effect, and may succeed later.
    NotNow,
    /// It may have taken effect.
    Unknown,
}

/// What is known of a connection that was lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opening {
    /// The first that the server said on it, as far as it was kept.
    pub(crate) words: Vec<u8>,
    /// How TLS ended, where it ended by an error.
    pub(crate) tls: Option<rustls::Error>,
    pub(crate) has_tls: bool,
}

/// The command's name without its arguments, which may be secrets.
pub(crate) fn name_of(command: &Cmd) -> String {
    let mut words = command.args_iter().filter_map(|argument| match argument {
        redis::Arg::Simple(bytes) => Some(String::from_utf8_lossy(bytes).to_uppercase()),
        _ => None,
    });
    let name = words.next().unwrap_or_default();
    match words.next() {
        Some(second) if CONTAINERS.contains(&name.as_str()) => format!("{name} {second}"),
        _ => name,
    }
}

impl Call {
    fn error(&self, kind: ErrorKind, retry: Retry, message: impl Into<String>) -> Error {
        Error::new(kind, self.operation, message.into()).on(&self.subject).with_retry(retry)
    }

    /// What a call without an answer leaves: reads may simply be repeated.
    fn if_lost(&self) -> Retry {
        if self.writes { Retry::ObserveFirst } else { Retry::Safe { after: None } }
    }

    fn effect(&self) -> &'static str {
        if self.writes { "; it may have taken effect" } else { "" }
    }

    /// No connection to the node's port.
    pub(crate) fn unreachable(&self, error: io::Error) -> Error {
        let message = "the node cannot be reached; is it up, and its address right?";
        self.error(ErrorKind::Unavailable, Retry::Safe { after: None }, message).with_source(error)
    }

    /// No connection that can be used within its time.
    pub(crate) fn no_connection_within(&self, limit: Duration, has_tls: bool) -> Error {
        let hint = if has_tls { ", and does it speak TLS at this port?" } else { "?" };
        let message =
            format!("no connection after {limit:?}; is the node up, not frozen or overloaded{hint}");
        self.error(ErrorKind::DeadlineExceeded, Retry::Safe { after: None }, message)
    }

    /// A command without an answer within its time.
    pub(crate) fn no_answer_within(&self, limit: Duration) -> Error {
        let message =
            format!("no answer after {limit:?}{}; is the node frozen or overloaded?", self.effect());
        self.error(ErrorKind::DeadlineExceeded, self.if_lost(), message)
    }

    /// TLS could not be agreed on; no command was sent.
    pub(crate) fn no_tls(&self, error: io::Error) -> Error {
        match tls_error(&error) {
            Some(cause) => self.tls(cause).with_source(error),
            None => {
                let message =
                    "the node closed the connection instead of speaking TLS; does it, at this port?";
                self.error(ErrorKind::Unavailable, Retry::Safe { after: None }, message).with_source(error)
            }
        }
    }

    fn tls(&self, cause: &rustls::Error) -> Error {
        let message = match cause {
            rustls::Error::InvalidMessage(_) => {
                "the node does not speak TLS at this port; name the port that does, or leave out with_tls"
                    .to_owned()
            }
            rustls::Error::InvalidCertificate(_) => format!(
                "its certificate is not believed ({cause}); name its authority by RedisTls, or its name by with_server_name"
            ),
            rustls::Error::AlertReceived(_) => {
                format!(
                    "the node refuses our TLS ({cause}); does it want a certificate, by RedisTls::with_certificate?"
                )
            }
            _ => format!("TLS cannot be agreed on ({cause}); compare the settings of both sides"),
        };
        self.error(ErrorKind::InvalidConfig, Retry::Never, message)
    }

    /// The connection was lost, and with it the answer.
    pub(crate) fn lost(&self, error: RedisError, opening: &Opening) -> Error {
        // A server may take part in TLS, and refuse it only then.
        if let Some(cause) = error.source().and_then(tls_error).or(opening.tls.as_ref()) {
            return self.tls(cause).with_source(error);
        }
        // A server without a free place says so and closes; that is no answer to the command.
        if let Some(said) = refusal_in(&opening.words) {
            return self.refused("a new connection", &said);
        }
        if error.kind() == redis::ErrorKind::Parse {
            return self.odd_answer("no Redis protocol").with_source(error);
        }
        let hint = match (opening.words.is_empty(), opening.has_tls) {
            (true, false) => "; it never said anything, so it may expect TLS: give it by with_tls",
            (true, true) => {
                "; it said nothing after TLS: does it want a certificate, by RedisTls::with_certificate?"
            }
            (false, _) => "",
        };
        let message = format!("the connection to the node was lost{}{hint}", self.effect());
        self.error(ErrorKind::Unavailable, self.if_lost(), message).with_source(error)
    }

    /// The server's own refusal of `command`.
    pub(crate) fn refused(&self, command: &str, answer: &ServerError) -> Error {
        let (code, text) = (answer.code(), answer.details().unwrap_or_default().trim_end_matches('.'));
        let (kind, fate, advice) = meaning(code, text);
        let retry = match fate {
            Fate::Refused => Retry::Never,
            Fate::NotNow => Retry::Safe { after: None },
            Fate::Unknown => self.if_lost(),
        };
        let advice = if retry == Retry::ObserveFirst { "it may have taken effect" } else { advice };
        // What was passed on by another server, its name for itself included.
        let message = format!("{command}: {text} ({code}); {advice}");
        self.error(kind, retry, message)
    }

    /// The answer is not what this version knows.
    pub(crate) fn odd_answer(&self, what: impl std::fmt::Display) -> Error {
        let message =
            format!("the node answered {what}, which this version does not know; is it a Redis or Valkey?");
        self.error(ErrorKind::Unexpected, self.if_lost(), message)
    }
}

/// The cause that an error of the system's wraps.
pub(crate) fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of these two is that of what they wrap, which itself would be passed over.
        next = if let Some(wrapper) = error.downcast_ref::<io::Error>() {
            wrapper.get_ref().map(|inner| inner as &(dyn StdError + 'static))
        } else if let Some(wrapper) = error.downcast_ref::<Arc<dyn StdError + Send + Sync>>() {
            Some(&**wrapper)
        } else {
            error.source()
        };
    }
    None
}

fn refusal_in(words: &[u8]) -> Option<ServerError> {
    match redis::parse_redis_value(words) {
        Ok(Value::ServerError(error)) => Some(error),
        _ => None,
    }
}

/// What the server's answer means, and what to do.
fn meaning(code: &str, text: &str) -> (ErrorKind, Fate, &'static str) {
    use ErrorKind::{Conflict, Denied, InsufficientCapacity, InvalidConfig, Unavailable, Unexpected};
    use Fate::{NotNow, Refused, Unknown};
    match code {
        "NOAUTH" => (Denied, Refused, "give a password by RedisAccess::with_password or with_user"),
        "WRONGPASS" => {
            (Denied, Refused, "correct the user or the password, or let the user log in by ACL SETUSER … on")
        }
        "NOPERM" => (Denied, Refused, "allow it to the user by ACL SETUSER, as redis_acl writes it"),
        "DENIED" => (Denied, Refused, "let the node take connections from here"),
        "LOADING" => (Unavailable, NotNow, "it reads its data after a start; try again when it has"),
        "BUSY" => (Unavailable, NotNow, "a script or function keeps it busy; wait for its end"),
        "MASTERDOWN" => (Unavailable, NotNow, "this replica has lost its master; try again when it is back"),
        "CLUSTERDOWN" => (Unavailable, NotNow, "try again when all slots are owned and reachable"),
        "TRYAGAIN" => (Unavailable, NotNow, "the slot is being moved; try again"),
        "NOREPLICAS" => (Unavailable, NotNow, "try again when enough replicas are connected"),
        "MISCONF" => (Unavailable, NotNow, "it cannot write to its disk; free or mend that"),
        "NOGOODSLAVE" | "INPROG" => (Unavailable, NotNow, "look at the Sentinels' log"),
        // MIGRATE could not tell what the other side did.
        "IOERR" => (Unavailable, Unknown, "try again"),
        "OOM" => (InsufficientCapacity, NotNow, "its memory is used up; raise maxmemory, or let it evict"),
        "READONLY" => (Conflict, Refused, "it is a replica now; find the master anew"),
        "MOVED" | "ASK" => (Conflict, Refused, "the slot is somewhere else; find its owner anew"),
        "BUSYKEY" => (Conflict, Refused, "the target has that key already; compare both"),
        "EXECABORT" => (Conflict, Refused, "nothing of the transaction was done"),
        "CROSSSLOT" => (InvalidConfig, Refused, "give keys of one slot only"),
        "WRONGTYPE" => (InvalidConfig, Refused, "the key holds something else; name the right key"),
        "ERR" => plain(&text.to_lowercase()),
        _ => (Unexpected, Refused, "this version does not know that"),
    }
}

/// What is told by words only; lower case.
fn plain(text: &str) -> (ErrorKind, Fate, &'static str) {
    use ErrorKind::{InvalidConfig, NotFound, Unavailable, Unexpected, Unsupported};
    use Fate::{NotNow, Refused};
    let has = |words: &str| text.contains(words);
    if has("max number of clients") {
        (Unavailable, NotNow, "raise maxclients, or let fewer clients in")
    } else if has("cluster support disabled") {
        (InvalidConfig, Refused, "it is not a node of a cluster; treat it as a server of its own")
    } else if has("without any password configured") || has("no password is set") {
        (InvalidConfig, Refused, "its default user has no password; leave the password out, or name a user")
    } else if has("no such master") {
        (NotFound, Refused, "the Sentinels watch no master of that name; correct the name")
    } else if has("no such key") {
        (NotFound, Refused, "there is no such key")
    } else if has("db index is out of range") || has("select is not allowed in cluster mode") {
        (InvalidConfig, Refused, "choose a database that it has by with_database")
    } else if has("unknown command") || has("unknown subcommand") || has("unknown, or wrong number") {
        (
            Unsupported,
            Refused,
            "a server of that sort or version cannot do it, or somebody renamed the command",
        )
    } else {
        (Unexpected, Refused, "nothing was changed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(writes: bool) -> Call {
        Call { operation: "latest", subject: "redis a:1".to_owned(), writes }
    }

    fn said(line: &str) -> ServerError {
        refusal_in(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn refusals_are_known_by_their_codes_and_words() {
        use ErrorKind::{
            Conflict, Denied, InsufficientCapacity, InvalidConfig, NotFound, Unavailable, Unexpected,
            Unsupported,
        };
        let safe = Retry::Safe { after: None };
        let cases = [
            ("NOAUTH Authentication required.", Denied, Retry::Never),
            ("WRONGPASS invalid username-password pair or user is disabled.", Denied, Retry::Never),
            ("NOPERM User a has no permissions to run the 'info' command", Denied, Retry::Never),
            ("LOADING Redis is loading the dataset in memory", Unavailable, safe),
            ("MASTERDOWN Link with MASTER is down", Unavailable, safe),
            ("CLUSTERDOWN Hash slot not served", Unavailable, safe),
            ("IOERR error or timeout reading to target instance", Unavailable, Retry::ObserveFirst),
            ("OOM command not allowed when used memory > 'maxmemory'.", InsufficientCapacity, safe),
            ("READONLY You can't write against a read only replica.", Conflict, Retry::Never),
            ("MOVED 3999 127.0.0.1:6381", Conflict, Retry::Never),
            ("BUSYKEY Target key name already exists.", Conflict, Retry::Never),
            ("CROSSSLOT Keys in request don't hash to the same slot", InvalidConfig, Retry::Never),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                InvalidConfig,
                Retry::Never,
            ),
            ("ERR This instance has cluster support disabled", InvalidConfig, Retry::Never),
            ("ERR max number of clients reached", Unavailable, safe),
            ("ERR No such master with that name", NotFound, Retry::Never),
            ("ERR no such key", NotFound, Retry::Never),
            ("ERR unknown command 'CLUSTER', with args beginning with: ", Unsupported, Retry::Never),
            ("ERR Unknown subcommand or wrong number of arguments", Unsupported, Retry::Never),
            ("ERR unknown subcommand 'MIGRATESLOTS'. Try CLUSTER HELP.", Unsupported, Retry::Never),
            ("ERR AUTH <password> called without any password configured", InvalidConfig, Retry::Never),
            ("ERR something new", Unexpected, Retry::Never),
            ("NEW something", Unexpected, Retry::Never),
        ];
        for (line, kind, retry) in cases {
            let error = call(true).refused("INFO", &said(line));
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{line}: {error}");
            assert!(error.to_string().starts_with("latest on redis a:1: INFO: "), "{error}");
        }
        assert_eq!(call(false).refused("MIGRATE", &said("IOERR x")).retry(), safe);
    }

    #[test]
    fn only_a_write_that_may_have_happened_is_to_be_observed() {
        let limit = Duration::from_secs(1);
        let safe = Retry::Safe { after: None };
        let closed = || RedisError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        let opening = Opening { words: b"+OK\r\n".to_vec(), ..Opening::default() };
        assert_eq!(call(true).no_answer_within(limit).retry(), Retry::ObserveFirst);
        assert_eq!(call(false).no_answer_within(limit).retry(), safe);
        assert_eq!(call(true).lost(closed(), &opening).retry(), Retry::ObserveFirst);
        assert_eq!(call(false).lost(closed(), &opening).retry(), safe);
        assert_eq!(call(true).no_connection_within(limit, false).retry(), safe);
        assert_eq!(call(true).unreachable(io::ErrorKind::ConnectionRefused.into()).retry(), safe);
        assert!(!call(true).lost(closed(), &opening).to_string().contains("TLS"));
        assert!(call(true).lost(closed(), &Opening::default()).to_string().contains("TLS"));
    }

    #[test]
    fn what_a_server_says_before_it_closes_is_heard() {
        let closed = RedisError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        let opening =
            Opening { words: b"-ERR max number of clients reached\r\n".to_vec(), ..Opening::default() };
        let error = call(true).lost(closed, &opening);
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Unavailable, Retry::Safe { after: None }),
            "{error}"
        );
        assert!(error.to_string().contains("maxclients"), "{error}");
    }

    #[test]
    fn names_of_commands_have_no_arguments() {
        let name = |words: &[&str]| {
            let mut command = Cmd::new();
            for word in words {
                command.arg(*word);
            }
            name_of(&command)
        };
        assert_eq!(name(&["auth", "user", "secret"]), "AUTH");
        assert_eq!(name(&["cluster", "nodes"]), "CLUSTER NODES");
        assert_eq!(name(&["XINFO", "GROUPS", "key"]), "XINFO GROUPS");
        assert_eq!(name(&[]), "");
    }

    #[test]
    fn a_cause_of_tls_is_found_through_its_wrappers() {
        let cause = || rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, cause());
        assert_eq!(tls_error(&wrapped), Some(&cause()));
        let opening = Opening { tls: Some(cause()), ..Opening::default() };
        let closed = RedisError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(call(true).lost(closed, &opening).kind(), ErrorKind::InvalidConfig);
        let error = call(true).lost(RedisError::from(wrapped), &Opening::default());
        assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidConfig, Retry::Never), "{error}");
    }
}
