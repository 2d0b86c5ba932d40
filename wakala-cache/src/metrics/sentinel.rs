//! What a Sentinel says of the master that it watches.

use std::time::Duration;

use redis::{Pipeline, Value};
use wakala_core::Result;

use crate::client::{Answer, Node};
use crate::config::NodeAddress;
use crate::error::Call;

/// The commands that it is asked by.
pub(super) const COMMANDS: [&str; 3] =
    ["sentinel|get-master-addr-by-name", "sentinel|master", "sentinel|replicas"];

/// The master and its replicas, as one Sentinel has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) master: NodeAddress,
    pub(super) replicas: Vec<NodeAddress>,
    /// Grows by each failover.
    pub(super) epoch: u64,
}

/// Asks one Sentinel.
pub(super) async fn ask(
    operation: &'static str,
    node: &Node,
    master: &str,
    limit: Duration,
) -> Result<Named> {
    let call = Call { operation, subject: format!("sentinel {}", node.address()), writes: false };
    let mut pipeline = Pipeline::new();
    for command in ["GET-MASTER-ADDR-BY-NAME", "MASTER", "REPLICAS"] {
        pipeline.cmd("SENTINEL").arg(command).arg(master);
    }
    let answers = node.look(&call, pipeline, limit).await?;
    let [address, fields, replicas] = &answers[..] else {
        return Err(call.odd_answer("less than it was asked"));
    };
    // This one knows what is wrong with a name.
    let fields = Fields::of(values(&call, "SENTINEL MASTER", fields)?);
    let address = values(&call, "SENTINEL GET-MASTER-ADDR-BY-NAME", address)?;
    let odd = || call.odd_answer("SENTINEL with an address that is none");
    let [host, port] = address else { return Err(odd()) };
    let master = NodeAddress::new(
        word(host).ok_or_else(odd)?,
        word(port).and_then(|p| p.parse().ok()).ok_or_else(odd)?,
    );
    let mut found = Vec::new();
    for replica in values(&call, "SENTINEL REPLICAS", replicas)? {
        let Value::Array(fields) = replica else { return Err(odd()) };
        let fields = Fields::of(fields);
        let host = fields.get("ip").ok_or_else(odd)?;
        let port = fields.get("port").and_then(|port| port.parse().ok()).ok_or_else(odd)?;
        let address = NodeAddress::new(host, port);
        // One that was promoted a moment ago is still told as a replica.
        if address != master {
            found.push(address);
        }
    }
    let epoch = fields
        .get("config-epoch")
        .and_then(|epoch| epoch.parse().ok())
        .ok_or_else(|| call.odd_answer("SENTINEL MASTER without config-epoch"))?;
    Ok(Named { master, replicas: found, epoch })
}

fn values<'a>(call: &Call, command: &str, answer: &'a Answer) -> Result<&'a [Value]> {
    match answer {
        Ok(Value::Array(values)) => Ok(values),
        Ok(other) => Err(call.odd_answer(format!("{command} with {other:?}"))),
        Err(refusal) => Err(call.refused(command, refusal)),
    }
}

fn word(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Names and values in turn.
struct Fields<'a>(&'a [Value]);

impl<'a> Fields<'a> {
    fn of(values: &'a [Value]) -> Self {
        Self(values)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.chunks_exact(2).find(|pair| word(&pair[0]) == Some(name)).and_then(|pair| word(&pair[1]))
    }
}
