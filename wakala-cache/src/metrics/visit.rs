//! One node, at one look.

use std::time::Duration;

use redis::{Pipeline, ServerError, Value};
use tokio::time::{Instant, timeout};
use wakala_core::Result;

use super::info::Facts;
use super::queue::{Depth, RedisQueue};
use super::site::Failure;
use super::topology::{View, redirection};
use crate::client::{Answer, Node};
use crate::config::NodeAddress;
use crate::error::Call;

/// What a node is asked for.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    /// Facts and pings too, and not only queues.
    pub(super) whole: bool,
    pub(super) in_cluster: bool,
    /// By their places; the flag says that the node is about to get its slot.
    pub(super) queues: Vec<(usize, bool)>,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Visited {
    pub(super) look: Result<NodeLook, Failure>,
    /// The nodes that it knows.
    pub(super) view: Option<View>,
    pub(super) queues: Vec<(usize, QueueOutcome)>,
}

/// What is kept of it.
#[derive(Clone, Debug)]
pub(super) struct NodeLook {
    pub(super) at: Instant,
    pub(super) facts: Facts,
    pub(super) pings: Vec<Duration>,
}

#[derive(Debug)]
pub(super) enum QueueOutcome {
    Known(Result<Depth, Failure>),
    /// Its slot is at another node, or about to be.
    Elsewhere {
        address: NodeAddress,
        asking: bool,
        refusal: Failure,
    },
}

impl QueueOutcome {
    /// Where nobody follows.
    pub(super) fn settled(self) -> Result<Depth, Failure> {
        match self {
            Self::Known(depth) => depth,
            Self::Elsewhere { refusal, .. } => Err(refusal),
        }
    }
}

/// One round trip for all that is asked for, and then one for each ping.
pub(super) async fn visit(
    call: &Call,
    node: &Node,
    visit: &Visit,
    queues: &[RedisQueue],
    (probes, limit): (u32, Duration),
) -> Visited {
    match timeout(limit, ask(call, node, visit, queues, (probes, limit))).await {
        Ok(Ok(visited)) => visited,
        Ok(Err(error)) => Visited { look: Err(error.into()), view: None, queues: Vec::new() },
        Err(_) => {
            // What was asked is answered some time, before what would be asked next.
            node.close().await;
            Visited { look: Err(call.no_answer_within(limit).into()), view: None, queues: Vec::new() }
        }
    }
}

async fn ask(
    call: &Call,
    node: &Node,
    visit: &Visit,
    queues: &[RedisQueue],
    (probes, limit): (u32, Duration),
) -> Result<Visited> {
    let mut pipeline = Pipeline::new();
    if visit.whole {
        pipeline.cmd("INFO");
        if visit.in_cluster {
            pipeline.cmd("CLUSTER").arg("NODES");
        }
    }
    for (queue, asking) in &visit.queues {
        queues[*queue].ask(*asking, &mut pipeline);
    }
    let at = Instant::now();
    let mut answers = node.look(call, pipeline, limit).await?.into_iter();
    let mut next = || answers.next().ok_or_else(|| call.odd_answer("less than it was asked"));
    let (mut facts, mut view) = (Facts::default(), None);
    if visit.whole {
        facts = Facts::read(call, &text(call, "INFO", next()?)?)?;
        if visit.in_cluster {
            view = Some(View::read(call, &text(call, "CLUSTER NODES", next()?)?, node.address())?);
        }
    }
    let mut depths = Vec::new();
    for (queue, asking) in &visit.queues {
        let asked = if *asking { next()? } else { Ok(Value::Okay) };
        let answer = next()?;
        let outcome = match asked {
            Err(refusal) => QueueOutcome::Known(Err(call.refused("ASKING", &refusal).into())),
            Ok(_) => depth(call, node, &queues[*queue], &answer, visit.in_cluster),
        };
        depths.push((*queue, outcome));
    }
    let mut pings = Vec::new();
    for _ in 0..if visit.whole { probes } else { 0 } {
        let sent = std::time::Instant::now();
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("PING");
        if let Some(Err(refusal)) = node.look(call, pipeline, limit).await?.first() {
            return Err(call.refused("PING", refusal));
        }
        pings.push(sent.elapsed());
    }
    Ok(Visited { look: Ok(NodeLook { at, facts, pings }), view, queues: depths })
}

fn depth(call: &Call, node: &Node, queue: &RedisQueue, answer: &Answer, in_cluster: bool) -> QueueOutcome {
    let depth = queue.read(call, answer).map_err(Failure::from);
    match (answer, depth) {
        (Err(refusal), Err(failure)) if in_cluster => match follow(node, refusal) {
            Some((address, asking)) => QueueOutcome::Elsewhere { address, asking, refusal: failure },
            None => QueueOutcome::Known(Err(failure)),
        },
        (_, depth) => QueueOutcome::Known(depth),
    }
}

fn follow(node: &Node, refusal: &ServerError) -> Option<(NodeAddress, bool)> {
    let asking = match refusal.code() {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    Some((redirection(refusal.details()?, node.address())?, asking))
}

fn text(call: &Call, command: &str, answer: Answer) -> Result<String> {
    match answer {
        // Names of hosts and of functions may be anything.
        Ok(Value::BulkString(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(Value::VerbatimString { text, .. }) => Ok(text),
        Ok(other) => Err(call.odd_answer(format!("{command} with {other:?}"))),
        Err(refusal) => Err(call.refused(command, &refusal)),
    }
}
