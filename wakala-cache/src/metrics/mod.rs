//! Metrics of Redis servers, as a source.

mod info;
mod metric;
mod queue;
mod sentinel;
mod site;
mod topology;
mod visit;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use wakala_core::{
    Error, Fresh, Look, Looks, MetricQuery, MetricsSource, Permission, Result, RunContext, Sample,
};

use self::metric::{Asked, At};
pub use self::queue::RedisQueue;
use self::site::{Lookout, Seen, Site, summary};
use crate::config::{NodeAddress, RedisAccess};
use crate::permissions::{command, sentinel_command};

/// As long as one node may take unless said otherwise.
const LIMIT: Duration = Duration::from_secs(5);
const PROBES: u32 = 10;
/// Growth is measured from a look that is at most so old, or four windows.
const OLDEST_BASE: Duration = Duration::from_secs(60);

/// Metrics of a Redis server, of a master behind Sentinels, or of a cluster, as a
/// [`MetricsSource`](wakala_core::MetricsSource). Cheap to clone; clones share what was seen. Valkey is meant too.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use wakala_core::guard;
/// # use wakala_cache::{NodeAddress, RedisAccess, RedisMetrics, RedisQueue};
/// # fn example() {
/// let access = RedisAccess::new().with_user("wakala", "secret");
/// let source = RedisMetrics::cluster("orders", [NodeAddress::new("redis-0.redis", 6379)], access)
///     .with_queue(RedisQueue::list("message:queue"));
/// let guard = guard::metric(Arc::new(source), "redis.memory_used_ratio").below(0.85).with_min_coverage(1.0);
/// # }
/// ```
///
/// # Metrics
///
/// | name | unit | what |
/// |---|---|---|
/// | `redis.clients_blocked` | count | clients that wait for something, such as the next entry of a list |
/// | `redis.clients_connected` | count | clients, replicas not included |
/// | `redis.clients_limit` | count | `maxclients` |
/// | `redis.clients_used_ratio` | ratio | of the fullest node: what `maxclients` limits, of it |
/// | `redis.commands_per_second` | /s | growth |
/// | `redis.connections_per_second` | /s | new connections, growth |
/// | `redis.connections_rejected_per_second` | /s | refused because of `maxclients`, growth |
/// | `redis.evictions_per_second` | /s | keys given up because of `maxmemory`, growth |
/// | `redis.expirations_per_second` | /s | keys whose time was over, growth |
/// | `redis.hit_ratio` | ratio | reads of keys that there were, of all, growth |
/// | `redis.keys` | count | keys, expired ones that were not yet removed included |
/// | `redis.main_thread_used_ratio` | ratio | of the busiest node: the thread that runs the commands, of one core, growth |
/// | `redis.memory_fragmentation_ratio` | ratio | of the worst node; means little on small ones |
/// | `redis.memory_limit_bytes` | B | `maxmemory` |
/// | `redis.memory_resident_bytes` | B | as the system counts it |
/// | `redis.memory_used_bytes` | B | as Redis counts it |
/// | `redis.memory_used_ratio` | ratio | of the fullest node: what `maxmemory` limits, of it |
/// | `redis.nodes` | count | nodes that answered; the coverage tells of how many |
/// | `redis.ping_p50_seconds`, `redis.ping_p99_seconds` | s | of the slowest node: of own [pings](Self::with_pings) |
/// | `redis.queue_depth` | count | what waits for workers, as [`RedisQueue`] tells |
/// | `redis.queue_pending` | count | what a worker of a consumer group was given and has not acknowledged |
/// | `redis.reads_hit_per_second`, `redis.reads_missed_per_second` | /s | growth |
/// | `redis.replicas` | count | replicas that are connected |
/// | `redis.replication_lag_bytes` | B | of the replica that is furthest behind |
/// | `redis.replication_lag_seconds` | s | since the last acknowledgement of the replica that was silent longest |
///
/// Those of queues take the label `queue`, by [its name](RedisQueue::name). All others take `node` (`host:port`) and `role`:
/// `master`, `replica`, `any`. Masters are meant unless a role or a node is asked for, and the only server where there is
/// one. Lags are those that masters see; of `replica`s alone (also of an only server that is one), those that they
/// themselves see, in seconds since they heard of their master.
///
/// # What is counted
///
/// Sums, and the worst, are over all nodes. The sample's [coverage](wakala_core::Coverage) tells how many it is made of:
/// of the nodes (of the queues, of the replicas) that there should be, those that answered and have the value. None of
/// them is no sample, and never a zero: a server without `maxmemory` has no limit and no ratio, a group whose lag the
/// server cannot tell has no depth. That none at all answers is an error that says why. Why some did not is told by
/// [`unanswered`](Self::unanswered).
///
/// The nodes of a cluster are those that most of its nodes know, found at each look, first by the seeds; a dead master
/// whose place was taken does not count. The master behind Sentinels is the one of their newest configuration, and must
/// say itself that it is one. A queue is found where its slot is, also while that is moved.
///
/// Growth is measured between two looks at least [a window](Self::with_window) apart, over nodes that were not started
/// anew, nor their statistics set back, in between; never since their start. Where there is no earlier look of the last
/// minute (nor of four windows), as at the first call, the call makes one, sleeps for what is left of a window and makes
/// another. A ratio without anything to divide by has no sample.
///
/// # What it costs
///
/// Of each node one round trip for everything (`INFO`, `CLUSTER NODES`, the lengths of queues) and then one for each ping,
/// all nodes at the same time, over one connection each that is kept; of Sentinels one, before. A look at a cluster asks
/// again where it learns of further nodes. Each node has [5 seconds](Self::with_limit) each time. A connection that was
/// lost since the last look is made anew, once; nothing else is repeated. All that ask while a look is under way, or
/// within a second [after it](Self::with_reuse), share it, and its error. The last 720 looks, of at most an hour, are
/// kept in memory for [`range`](wakala_core::MetricsSource::range).
///
/// # Errors
///
/// `InvalidConfig` for a name, a label or a queue that there is none of, with those that there are, and for seeds that are
/// not of one cluster. What is wrong with all nodes asked, where that is the same (`Denied` for a user who may not run a
/// command, which is named; `InvalidConfig` for a server that is no node of a cluster; `NotFound` for a master that the
/// Sentinels do not know; `DeadlineExceeded` for a server that is frozen), and `Unavailable` otherwise.
#[derive(Clone, Debug)]
pub struct RedisMetrics {
    name: Arc<str>,
    site: Site,
    access: RedisAccess,
    queues: Vec<RedisQueue>,
    pings: u32,
    limit: Duration,
    reuse: Duration,
    window: Duration,
    ping_window: Duration,
    lookout: Arc<Lookout>,
    looks: Looks<Seen>,
}

impl RedisMetrics {
    /// Metrics of one server, called `name` in errors. Nothing is sent yet.
    pub fn server(name: impl Into<String>, address: NodeAddress, access: RedisAccess) -> Self {
        Self::new(name, Site::Server(address), access)
    }

    /// Metrics of the server that the Sentinels know as `master`, and of its replicas. The Sentinels want no password;
    /// those that do want [`with_sentinel_access`](Self::with_sentinel_access).
    pub fn sentinel(
        name: impl Into<String>,
        master: impl Into<String>,
        sentinels: impl IntoIterator<Item = NodeAddress>,
        access: RedisAccess,
    ) -> Self {
        let sentinels = sentinels.into_iter().collect();
        Self::new(
            name,
            Site::Sentinel { master: master.into(), sentinels, access: RedisAccess::new() },
            access,
        )
    }

    /// Metrics of the nodes of a cluster, of which some are known.
    pub fn cluster(
        name: impl Into<String>,
        seeds: impl IntoIterator<Item = NodeAddress>,
        access: RedisAccess,
    ) -> Self {
        Self::new(name, Site::Cluster(seeds.into_iter().collect()), access)
    }

    fn new(name: impl Into<String>, site: Site, access: RedisAccess) -> Self {
        let name: Arc<str> = name.into().into();
        let lookout = Lookout::new(site.clone(), access.clone(), Vec::new(), (PROBES, LIMIT), subject(&name));
        Self {
            name,
            site,
            access,
            queues: Vec::new(),
            pings: PROBES,
            limit: LIMIT,
            reuse: Duration::from_secs(1),
            window: Duration::from_secs(5),
            ping_window: Duration::from_secs(60),
            lookout: Arc::new(lookout),
            looks: Looks::default(),
        }
    }

    /// What is asked is another thing: what was seen before is no longer shared.
    fn renewed(mut self) -> Self {
        let Self { site, access, queues, .. } = self.clone();
        self.lookout =
            Arc::new(Lookout::new(site, access, queues, (self.pings, self.limit), subject(&self.name)));
        self.looks = Looks::default();
        self
    }

    /// Who we are to the Sentinels, which have passwords and users of their own.
    #[must_use]
    pub fn with_sentinel_access(mut self, sentinel: RedisAccess) -> Self {
        if let Site::Sentinel { access, .. } = &mut self.site {
            *access = sentinel;
        }
        self.renewed()
    }

    /// Looks at a queue too. One of a name that there is already takes the place of that.
    #[must_use]
    pub fn with_queue(mut self, queue: RedisQueue) -> Self {
        self.queues.retain(|known| known.name() != queue.name());
        self.queues.push(queue);
        self.renewed()
    }

    /// How many pings each node gets at each look, one after the other; 10 as given. With none there is no latency.
    #[must_use]
    pub fn with_pings(mut self, pings: u32) -> Self {
        self.pings = pings;
        self.renewed()
    }

    /// Of which time before a look the pings count; a minute as given. The 99th percentile of fewer than 100 is the
    /// slowest.
    #[must_use]
    pub fn with_ping_window(mut self, window: Duration) -> Self {
        self.ping_window = window;
        self
    }

    /// How long one node may take, a new connection (nine tenths of it at most) included; 5 seconds as given.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self.renewed()
    }

    /// How long a look serves those who ask after its end; a second as given.
    #[must_use]
    pub fn with_reuse(mut self, reuse: Duration) -> Self {
        self.reuse = reuse;
        self
    }

    /// Over which time growth is measured at least; 5 seconds as given. The first call that asks for growth takes as
    /// long.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window.max(Duration::from_millis(1));
        self
    }

    /// Why nodes or queues are missing from the newest look; `None` where all answered, and before the first look. Asks
    /// nobody.
    pub async fn unanswered(&self) -> Option<String> {
        let looks = self.looks.kept(&RunContext::detached()).await.ok()?;
        let Seen { nodes, queues } = &looks.last()?.seen;
        let mut texts: Vec<_> =
            nodes.iter().filter_map(|node| Some(node.outcome.as_ref().err()?.text.clone())).collect();
        // A queue of a node that did not answer says the same once more.
        for failure in queues.iter().filter_map(|queue| queue.as_ref().err()) {
            if !texts.contains(&failure.text) {
                texts.push(failure.text.clone());
            }
        }
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn asked(&self, operation: &'static str, query: &MetricQuery) -> Result<Asked> {
        let subject = subject(&self.name);
        let nobody = match &self.site {
            Site::Server(_) => false,
            Site::Sentinel { sentinels, .. } => sentinels.is_empty(),
            Site::Cluster(seeds) => seeds.is_empty(),
        };
        if nobody {
            return Err(
                Error::invalid(operation, "there is nobody to ask; give at least one address").on(subject)
            );
        }
        Asked::new((operation, &subject), query, &self.queues, matches!(self.site, Site::Server(_)))
    }

    async fn look(&self, cx: &RunContext, operation: &'static str, fresh: Fresh) -> Result<Arc<Look<Seen>>> {
        self.looks.take(cx, (operation, &subject(&self.name)), fresh, self.lookout.look(operation)).await
    }

    /// The newest earlier look that growth may be measured from.
    fn base<'a>(&self, looks: &'a [Arc<Look<Seen>>], look: &Look<Seen>) -> Option<&'a Look<Seen>> {
        let age = |base: &Look<Seen>| look.begun.saturating_duration_since(base.begun);
        let base = looks.iter().rev().find(|base| age(base) >= self.window)?;
        (age(base) <= self.oldest_base()).then_some(base.as_ref())
    }

    fn oldest_base(&self) -> Duration {
        OLDEST_BASE.max(self.window.saturating_mul(4))
    }

    fn sample(&self, asked: &Asked, kept: &[Arc<Look<Seen>>], look: &Look<Seen>) -> Option<Sample> {
        let age = |other: &Look<Seen>| look.begun.saturating_duration_since(other.begun);
        let end = kept.partition_point(|other| other.begun <= look.begun);
        let start = kept[..end].partition_point(|other| age(other) > self.ping_window);
        let base = self.base(kept, look).map(|base| &base.seen);
        asked.sample(At { look, base, recent: &kept[start..end] })
    }

    /// The look that the newest sample is made of, and all before it.
    async fn looks(
        &self,
        cx: &RunContext,
        operation: &'static str,
        asked: &Asked,
    ) -> Result<(Arc<Look<Seen>>, Vec<Arc<Look<Seen>>>)> {
        let mut look = self.look(cx, operation, Fresh::Within(self.reuse)).await?;
        self.answered(operation, asked, &look.seen)?;
        let mut kept = self.looks.kept(cx).await?;
        if asked.needs_two() && self.base(&kept, &look).is_none() {
            // The oldest that will do by then.
            let most = self.oldest_base().saturating_sub(self.window);
            let first = kept.iter().find(|base| look.begun.saturating_duration_since(base.begun) <= most);
            let due = first.map_or(look.begun, |first| first.begun) + self.window;
            cx.sleep(due.saturating_duration_since(Instant::now())).await?;
            look = self.look(cx, operation, Fresh::Since(due)).await?;
            self.answered(operation, asked, &look.seen)?;
            kept = self.looks.kept(cx).await?;
        }
        Ok((look, kept))
    }

    /// Fails where none of those that are asked for answered.
    fn answered(&self, operation: &'static str, asked: &Asked, seen: &Seen) -> Result<()> {
        let Some(failures) = asked.failures(seen) else { return Ok(()) };
        let (kind, retry, text) = summary(failures.into_iter());
        let message = format!("nothing that was asked answers: {text}");
        Err(Error::new(kind, operation, message).on(subject(&self.name)).with_retry(retry))
    }
}

fn subject(name: &str) -> String {
    format!("redis {name}")
}

#[async_trait]
impl MetricsSource for RedisMetrics {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        const OPERATION: &str = "latest";
        let asked = self.asked(OPERATION, query)?;
        let (look, kept) = self.looks(cx, OPERATION, &asked).await?;
        Ok(self.sample(&asked, &kept, &look))
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        const OPERATION: &str = "range";
        let asked = self.asked(OPERATION, query)?;
        let (_, kept) = self.looks(cx, OPERATION, &asked).await?;
        let begin = cx.window_begin(window);
        let looks = kept.iter().filter(|look| look.time >= begin);
        Ok(looks.filter_map(|look| self.sample(&asked, &kept, look)).collect())
    }

    /// The commands that it runs, and the keys that it reads; nothing of it is spare.
    fn permissions(&self) -> Vec<Permission> {
        let in_cluster = matches!(self.site, Site::Cluster(_));
        let mut permissions = vec![command("info")];
        permissions.extend((self.pings > 0).then(|| command("ping")));
        permissions.extend((self.access.database != 0).then(|| command("select")));
        permissions.extend(in_cluster.then(|| command("cluster|nodes")));
        permissions.extend(self.queues.iter().flat_map(|queue| queue.permissions(in_cluster)));
        if let Site::Sentinel { .. } = self.site {
            permissions.extend(sentinel::COMMANDS.map(sentinel_command));
        }
        permissions.sort();
        permissions.dedup();
        permissions
    }
}
