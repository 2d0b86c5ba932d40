//! Where the nodes are, and one look at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::queue::{Depth, RedisQueue};
use super::sentinel::{Named, ask};
use super::topology::{Member, View};
use super::visit::{NodeLook, QueueOutcome, Visit, Visited, visit};
use crate::client::Node;
use crate::config::{NodeAddress, RedisAccess};
use crate::error::Call;

/// So often nodes are asked in one look that were not known when it began: the members of a cluster, then the owners of
/// queues whose slots have moved, then those to whom they are about to move.
const WAVES: u32 = 4;

/// How the nodes are found.
#[derive(Clone, Debug)]
pub(super) enum Site {
    Server(NodeAddress),
    Sentinel { master: String, sentinels: Vec<NodeAddress>, access: RedisAccess },
    Cluster(Vec<NodeAddress>),
}

/// What was seen at one look.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) nodes: Vec<SeenNode>,
    /// In the order in which they were given.
    pub(super) queues: Vec<Result<Depth, Failure>>,
}

/// One node of it.
#[derive(Debug)]
pub(super) struct SeenNode {
    pub(super) address: NodeAddress,
    pub(super) is_replica: bool,
    /// How many replicas it should have, as others say.
    pub(super) replicas: u32,
    pub(super) outcome: Result<NodeLook, Failure>,
}

/// Why something is missing.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) retry: Retry,
    pub(super) text: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { kind: error.kind(), retry: error.retry(), text: error.chain() }
    }
}

/// What all have in common, where that is so.
pub(super) fn summary<'a>(failures: impl Iterator<Item = &'a Failure>) -> (ErrorKind, Retry, String) {
    let failures: Vec<_> = failures.collect();
    let text = failures.iter().map(|failure| failure.text.as_str()).collect::<Vec<_>>().join("; ");
    match &failures[..] {
        [first, others @ ..] if others.iter().all(|other| other.kind == first.kind) => {
            (first.kind, first.retry, text)
        }
        _ => (ErrorKind::Unavailable, Retry::Safe { after: None }, text),
    }
}

/// How a look is taken, and the connections and the members that are kept between looks. One look at a time.
#[derive(Debug)]
pub(super) struct Lookout {
    site: Site,
    access: RedisAccess,
    queues: Vec<RedisQueue>,
    probes: u32,
    limit: Duration,
    subject: String,
    nodes: Mutex<BTreeMap<NodeAddress, Node>>,
    members: Mutex<View>,
}

impl Lookout {
    pub(super) fn new(
        site: Site,
        access: RedisAccess,
        queues: Vec<RedisQueue>,
        (probes, limit): (u32, Duration),
        subject: String,
    ) -> Self {
        let (nodes, members) = (Mutex::default(), Mutex::default());
        Self { site, access, queues, probes, limit, subject, nodes, members }
    }

    pub(super) async fn look(&self, operation: &'static str) -> Result<Seen> {
        match &self.site {
            Site::Server(address) => Ok(self.look_at_server(operation, address).await),
            Site::Sentinel { master, sentinels, access } => {
                let named = self.find_master(operation, master, sentinels, access).await?;
                Ok(self.look_at_master(operation, named).await)
            }
            Site::Cluster(seeds) => self.look_at_cluster(operation, seeds).await,
        }
    }

    async fn look_at_server(&self, operation: &'static str, address: &NodeAddress) -> Seen {
        let all = (0..self.queues.len()).map(|queue| (queue, false)).collect();
        let visited =
            self.visit(operation, address, Visit { whole: true, in_cluster: false, queues: all }).await;
        let mut queues = self.unknown(&visited.look);
        for (queue, outcome) in visited.queues {
            queues[queue] = outcome.settled();
        }
        let is_replica = visited.look.as_ref().is_ok_and(|look| look.facts.is_replica);
        let node = SeenNode { address: address.clone(), is_replica, replicas: 0, outcome: visited.look };
        Seen { nodes: vec![node], queues }
    }

    /// Asks all at the same time, and waits for most of them: one that does not answer holds nothing up.
    async fn find_master(
        &self,
        operation: &'static str,
        master: &str,
        sentinels: &[NodeAddress],
        access: &RedisAccess,
    ) -> Result<Named> {
        let mut asked: FuturesUnordered<_> = sentinels
            .iter()
            .map(|address| {
                let node = self.node(address, access);
                async move { ask(operation, &node, master, self.limit).await }
            })
            .collect();
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        while let Some(outcome) = asked.next().await {
            match outcome {
                Ok(named) => answers.push(named),
                Err(error) => failures.push(Failure::from(error)),
            }
            if answers.len() * 2 > sentinels.len() {
                break;
            }
        }
        // The newest configuration is the right one, as among Sentinels.
        answers.into_iter().max_by_key(|named| named.epoch).ok_or_else(|| {
            let (kind, retry, text) = summary(failures.iter());
            Error::new(kind, operation, format!("no Sentinel answers: {text}"))
                .on(&self.subject)
                .with_retry(retry)
        })
    }

    async fn look_at_master(&self, operation: &'static str, named: Named) -> Seen {
        let all: Vec<_> = (0..self.queues.len()).map(|queue| (queue, false)).collect();
        let addresses =
            std::iter::once((&named.master, all)).chain(named.replicas.iter().map(|a| (a, Vec::new())));
        let visits = addresses.map(async |(address, queues)| {
            let visited =
                self.visit(operation, address, Visit { whole: true, in_cluster: false, queues }).await;
            (address.clone(), visited)
        });
        let mut nodes = Vec::new();
        let mut queues = Vec::new();
        for (place, (address, mut visited)) in join_all(visits).await.into_iter().enumerate() {
            let is_master = place == 0;
            if is_master && visited.look.as_ref().is_ok_and(|look| look.facts.is_replica) {
                visited.look = Err(Failure {
                    kind: ErrorKind::Unavailable,
                    retry: Retry::Safe { after: None },
                    text: format!(
                        "{operation} on redis {address}: the Sentinels name it as the master, and it says that it is a \
                         replica; try again after the failover"
                    ),
                });
            }
            if is_master {
                queues = self.unknown(&visited.look);
                if visited.look.is_ok() {
                    for (queue, outcome) in visited.queues {
                        queues[queue] = outcome.settled();
                    }
                }
            }
            let replicas =
                if is_master { u32::try_from(named.replicas.len()).unwrap_or(u32::MAX) } else { 0 };
            nodes.push(SeenNode { address, is_replica: !is_master, replicas, outcome: visited.look });
        }
        Seen { nodes, queues }
    }

    async fn look_at_cluster(&self, operation: &'static str, seeds: &[NodeAddress]) -> Result<Seen> {
        let mut members = self.members().clone();
        let mut todo: BTreeSet<NodeAddress> = if members.0.is_empty() {
            seeds.iter().cloned().collect()
        } else {
            members.0.keys().cloned().collect()
        };
        let mut looks: BTreeMap<NodeAddress, Result<NodeLook, Failure>> = BTreeMap::new();
        let mut views = Vec::new();
        let mut queues: Vec<Option<Result<Depth, Failure>>> = vec![None; self.queues.len()];
        let mut places: Vec<Option<(NodeAddress, bool)>> =
            self.queues.iter().map(|queue| Some((members.owner_of(queue.slot())?.clone(), false))).collect();
        let mut tried: Vec<BTreeSet<NodeAddress>> = vec![BTreeSet::new(); self.queues.len()];

        for _ in 0..WAVES {
            let visits = self.visits(&todo, &looks, &queues, &places);
            if visits.is_empty() {
                break;
            }
            let visits = visits.into_iter().map(async |(address, visit)| {
                let visited = self.visit(operation, &address, visit.clone()).await;
                (address, visit, visited)
            });
            for (address, visit, visited) in join_all(visits).await {
                for (queue, _) in &visit.queues {
                    tried[*queue].insert(address.clone());
                }
                for (queue, outcome) in visited.queues {
                    match outcome {
                        QueueOutcome::Known(depth) => queues[queue] = Some(depth),
                        QueueOutcome::Elsewhere { address, asking, .. } => {
                            places[queue] = Some((address, asking))
                        }
                    }
                }
                if let Err(failure) = &visited.look {
                    for (queue, _) in &visit.queues {
                        queues[*queue] = Some(Err(failure.clone()));
                    }
                }
                views.extend(visited.view);
                if visit.whole {
                    looks.insert(address, visited.look);
                }
            }
            let agreed = View::agreed(&views);
            for (place, queue) in self.queues.iter().enumerate() {
                // The owner that it was known to have may be gone, and another one in its place.
                let lacking = matches!(queues[place], Some(Err(_))) || places[place].is_none();
                let owner =
                    agreed.owner_of(queue.slot()).filter(|owner| lacking && !tried[place].contains(*owner));
                if let Some(owner) = owner {
                    places[place] = Some((owner.clone(), false));
                    queues[place] = None;
                }
            }
            todo = agreed.0.keys().chain(seeds.iter().filter(|_| views.is_empty())).cloned().collect();
            members = agreed;
        }
        self.settle(operation, members, looks, &views, queues)
    }

    /// Whom to ask for what in the next wave.
    fn visits(
        &self,
        todo: &BTreeSet<NodeAddress>,
        looks: &BTreeMap<NodeAddress, Result<NodeLook, Failure>>,
        queues: &[Option<Result<Depth, Failure>>],
        places: &[Option<(NodeAddress, bool)>],
    ) -> BTreeMap<NodeAddress, Visit> {
        let new = todo.iter().filter(|address| !looks.contains_key(*address));
        let mut visits: BTreeMap<_, _> = new
            .map(|address| (address.clone(), Visit { whole: true, in_cluster: true, queues: Vec::new() }))
            .collect();
        for (queue, place) in places.iter().enumerate() {
            if let (None, Some((address, asking))) = (&queues[queue], place) {
                let visit = visits.entry(address.clone());
                visit
                    .or_insert(Visit { whole: false, in_cluster: true, queues: Vec::new() })
                    .queues
                    .push((queue, *asking));
            }
        }
        visits
    }

    fn settle(
        &self,
        operation: &'static str,
        members: View,
        mut looks: BTreeMap<NodeAddress, Result<NodeLook, Failure>>,
        views: &[View],
        queues: Vec<Option<Result<Depth, Failure>>>,
    ) -> Result<Seen> {
        if members.0.is_empty() && !views.is_empty() {
            let message = "most of the seeds know nothing of each other; give those of one cluster only";
            return Err(Error::invalid(operation, message).on(&self.subject));
        }
        let not_asked = || Failure {
            kind: ErrorKind::Unavailable,
            retry: Retry::Safe { after: None },
            text: format!(
                "{operation} on {}: it changed more often than it was asked; ask again",
                self.subject
            ),
        };
        // Without a node that knows the others, what is wrong with the nodes is wrong with the queues.
        let lost = if members.0.is_empty() {
            let (kind, retry, text) = summary(looks.values().filter_map(|look| look.as_ref().err()));
            Failure { kind, retry, text }
        } else {
            not_asked()
        };
        let nodes = if members.0.is_empty() {
            let unknown =
                Member { is_replica: false, failed: false, epoch: 0, slots: Vec::new(), replicas: 0 };
            looks.into_iter().map(|(address, outcome)| seen(address, &unknown, outcome)).collect()
        } else {
            // Another node has taken the place of a dead master that owns nothing.
            let counted = members
                .0
                .iter()
                .filter(|(_, member)| member.is_replica || !member.failed || !member.slots.is_empty());
            let nodes = counted.map(|(address, member)| {
                let outcome = looks.remove(address).unwrap_or_else(|| Err(not_asked()));
                seen(address.clone(), member, outcome)
            });
            nodes.collect()
        };
        let queues = queues.into_iter().map(|queue| queue.unwrap_or_else(|| Err(lost.clone()))).collect();
        // Those that are gone keep no connection.
        self.nodes().retain(|address, _| members.0.is_empty() || members.0.contains_key(address));
        if !members.0.is_empty() {
            *self.members() = members;
        }
        Ok(Seen { nodes, queues })
    }

    async fn visit(&self, operation: &'static str, address: &NodeAddress, visit_: Visit) -> Visited {
        let call = Call { operation, subject: format!("redis {address}"), writes: false };
        let node = self.node(address, &self.access);
        visit(&call, &node, &visit_, &self.queues, (self.probes, self.limit)).await
    }

    /// What is known of the queues of a node that did not answer.
    fn unknown(&self, look: &Result<NodeLook, Failure>) -> Vec<Result<Depth, Failure>> {
        let outcome = look.as_ref().map(|_| Depth::default()).map_err(Clone::clone);
        vec![outcome; self.queues.len()]
    }

    fn node(&self, address: &NodeAddress, access: &RedisAccess) -> Node {
        let make = || {
            let access = access.clone();
            // A connection that is not to be had shall be told as that, and not as an answer that did not come.
            let limit = access.connect_limit.min(self.limit / 10 * 9);
            Node::new(address.clone(), access.with_connect_limit(limit))
        };
        self.nodes().entry(address.clone()).or_insert_with(make).clone()
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeAddress, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn members(&self) -> std::sync::MutexGuard<'_, View> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seen(address: NodeAddress, member: &Member, outcome: Result<NodeLook, Failure>) -> SeenNode {
    // It knows that it was promoted before the others do.
    let is_replica = outcome.as_ref().map_or(member.is_replica, |look| look.facts.is_replica);
    SeenNode { address, is_replica, replicas: member.replicas, outcome }
}
