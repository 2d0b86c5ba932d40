//! What waits for workers.

use redis::{Cmd, Pipeline, ServerError, Value};
use wakala_core::{Permission, Result};

use crate::error::{Call, name_of};
use crate::permissions::{command, read};
use crate::slot::slot_of;

/// Something in Redis that producers fill and workers empty.
///
/// ```
/// use wakala_cache::RedisQueue;
///
/// let jobs = RedisQueue::list("message:queue").with_name("messages");
/// let billing = RedisQueue::group("orders", "billing");
/// assert_eq!((jobs.name(), billing.name()), ("messages", "orders/billing"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct RedisQueue {
    name: String,
    key: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    List,
    Stream,
    /// By the name of the group.
    Group(Vec<u8>),
}

/// How much waits; `None` where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Depth {
    /// Not yet given to a worker.
    pub(super) waiting: Option<f64>,
    /// Given to one, and not yet done.
    pub(super) pending: Option<f64>,
}

impl RedisQueue {
    /// A list: its depth is its length (`LLEN`). One that does not exist is empty, since an empty list does not exist.
    pub fn list(key: impl Into<Vec<u8>>) -> Self {
        Self::new(key.into(), Kind::List)
    }

    /// A stream without regard to groups: its depth is the number of its entries (`XLEN`), those that were read included.
    pub fn stream(key: impl Into<Vec<u8>>) -> Self {
        Self::new(key.into(), Kind::Stream)
    }

    /// A consumer group of a stream: its depth is its lag, the entries that no consumer of it was given yet; pending are those
    /// that one was given and has not acknowledged (`XINFO GROUPS`).
    ///
    /// The server does not know the lag of a group for which entries in the middle of the stream were deleted, or that
    /// was set to an id in its middle; nor does one before version 7. There is no depth then, and not none.
    pub fn group(key: impl Into<Vec<u8>>, group: impl Into<Vec<u8>>) -> Self {
        let (key, group) = (key.into(), group.into());
        let name = format!("{}/{}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&group));
        Self { name, ..Self::new(key, Kind::Group(group)) }
    }

    fn new(key: Vec<u8>, kind: Kind) -> Self {
        Self { name: String::from_utf8_lossy(&key).into_owned(), key, kind }
    }

    /// What the label `queue` calls it: its key, or `key/group`, unless said otherwise.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What the label `queue` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn slot(&self) -> u16 {
        slot_of(&self.key)
    }

    fn command(&self) -> Cmd {
        let mut command = match self.kind {
            Kind::List => redis::cmd("LLEN"),
            Kind::Stream => redis::cmd("XLEN"),
            Kind::Group(_) => redis::cmd("XINFO").arg("GROUPS").to_owned(),
        };
        command.arg(&self.key);
        command
    }

    /// Asks for it; after `asking` also a node that is about to get its slot.
    pub(super) fn ask(&self, asking: bool, pipeline: &mut Pipeline) {
        if asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(self.command());
    }

    pub(super) fn read(&self, call: &Call, answer: &Result<Value, ServerError>) -> Result<Depth> {
        let value = match answer {
            Ok(value) => value,
            // Of a stream that does not exist nothing is known, not even that it is empty.
            Err(refusal) if is_absent(refusal) => return Ok(Depth::default()),
            Err(refusal) => return Err(call.refused(&name_of(&self.command()), refusal)),
        };
        match (&self.kind, value) {
            (Kind::List | Kind::Stream, Value::Int(length)) => {
                Ok(Depth { waiting: Some(*length as f64), pending: None })
            }
            (Kind::Group(wanted), Value::Array(groups)) => {
                let group = groups.iter().filter_map(Fields::of).find(
                    |group| matches!(group.get("name"), Some(Value::BulkString(name)) if name == wanted),
                );
                let number = |name| match group.as_ref()?.get(name)? {
                    Value::Int(number) => Some(*number as f64),
                    _ => None,
                };
                Ok(Depth { waiting: number("lag"), pending: number("pending") })
            }
            (_, other) => Err(call.odd_answer(format!("{} with {other:?}", name_of(&self.command())))),
        }
    }

    /// `in_cluster`: where the slot may be on its way to another node.
    pub(super) fn permissions(&self, in_cluster: bool) -> Vec<Permission> {
        let name = match self.kind {
            Kind::List => "llen",
            Kind::Stream => "xlen",
            Kind::Group(_) => "xinfo|groups",
        };
        let mut permissions = vec![command(name), read(&self.key)];
        permissions.extend(in_cluster.then(|| command("asking")));
        permissions
    }
}

fn is_absent(refusal: &ServerError) -> bool {
    refusal.code() == "ERR" && refusal.details().is_some_and(|text| text.contains("no such key"))
}

/// Names and values in turn.
struct Fields<'a>(&'a [Value]);

impl<'a> Fields<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(values) => Some(Self(values)),
            _ => None,
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0
            .chunks_exact(2)
            .find(|pair| matches!(&pair[0], Value::BulkString(own) if own == name.as_bytes()))
            .map(|pair| &pair[1])
    }
}
