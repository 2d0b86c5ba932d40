//! What a server tells of itself: the answer to `INFO`.

use std::collections::HashMap;

use wakala_core::Result;

use crate::error::Call;

/// One server, at one look. What a version does not tell, or what does not apply, is `None`.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Another one after each start.
    pub(super) run_id: String,
    pub(super) is_replica: bool,
    pub(super) clients: Option<f64>,
    pub(super) blocked: Option<f64>,
    pub(super) max_clients: Option<f64>,
    /// All that `maxclients` limits: clients, replicas, nodes of the cluster.
    pub(super) places_taken: Option<f64>,
    pub(super) memory: Option<f64>,
    pub(super) resident: Option<f64>,
    /// `maxmemory`, where there is one.
    pub(super) memory_limit: Option<f64>,
    /// What `maxmemory` limits: without the buffers of replicas and the append-only file.
    pub(super) memory_limited: Option<f64>,
    pub(super) fragmentation: Option<f64>,
    pub(super) keys: f64,
    pub(super) replicas: Vec<Lag>,
    /// How far it is behind itself, where it is a replica.
    pub(super) own_lag: Option<Lag>,
    pub(super) counters: Counters,
}

/// How far a copy is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Lag {
    pub(super) seconds: Option<f64>,
    pub(super) bytes: Option<f64>,
}

/// Totals since the start of the server, or since somebody set them back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) commands: f64,
    pub(super) connections: f64,
    pub(super) rejected: f64,
    pub(super) evicted: f64,
    pub(super) expired: f64,
    pub(super) hits: f64,
    pub(super) misses: f64,
    /// Seconds on the processor of the thread that runs the commands; since version 6.2.
    pub(super) main_thread: Option<f64>,
}

impl Facts {
    pub(super) fn read(call: &Call, text: &str) -> Result<Self> {
        let fields: HashMap<&str, &str> =
            text.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let number =
            |name: &str| fields.get(name).and_then(|text| text.parse::<f64>().ok()).filter(|n| n.is_finite());
        let needed = |name: &str| {
            number(name).ok_or_else(|| call.odd_answer(format!("INFO without the number {name}")))
        };
        let run_id = *fields.get("run_id").ok_or_else(|| call.odd_answer("INFO without run_id"))?;
        let role = *fields.get("role").ok_or_else(|| call.odd_answer("INFO without role"))?;
        let is_replica = role == "slave";
        let (clients, memory) = (number("connected_clients"), number("used_memory"));
        let others = number("connected_slaves").unwrap_or(0.0) + number("cluster_connections").unwrap_or(0.0);
        let main_thread = match (number("used_cpu_sys_main_thread"), number("used_cpu_user_main_thread")) {
            (Some(system), Some(user)) => Some(system + user),
            _ => None,
        };
        Ok(Self {
            run_id: run_id.to_owned(),
            is_replica,
            clients,
            blocked: number("blocked_clients"),
            max_clients: number("maxclients"),
            places_taken: clients.map(|clients| clients + others),
            memory,
            resident: number("used_memory_rss"),
            // 0 is no limit.
            memory_limit: number("maxmemory").filter(|limit| *limit > 0.0),
            memory_limited: memory
                .map(|used| (used - number("mem_not_counted_for_evict").unwrap_or(0.0)).max(0.0)),
            fragmentation: number("mem_fragmentation_ratio"),
            keys: keys(&fields),
            replicas: replicas(&fields, number("master_repl_offset")),
            own_lag: is_replica.then(|| own_lag(&fields, number)),
            counters: Counters {
                commands: needed("total_commands_processed")?,
                connections: needed("total_connections_received")?,
                rejected: needed("rejected_connections")?,
                evicted: needed("evicted_keys")?,
                expired: needed("expired_keys")?,
                hits: needed("keyspace_hits")?,
                misses: needed("keyspace_misses")?,
                main_thread,
            },
        })
    }
}

/// `db0:keys=1,expires=0,avg_ttl=0`, one line a database that is not empty.
fn keys(fields: &HashMap<&str, &str>) -> f64 {
    let databases = fields.iter().filter(|(name, _)| {
        name.strip_prefix("db")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    });
    databases.filter_map(|(_, line)| part(line, "keys")).fold(0.0, |sum, keys| sum + keys)
}

/// `slave0:ip=127.0.0.1,port=6380,state=online,offset=14,lag=0`; one that is not online has no copy to be behind with.
fn replicas(fields: &HashMap<&str, &str>, offset: Option<f64>) -> Vec<Lag> {
    let lines = (0..).map_while(|number| fields.get(format!("slave{number}").as_str()));
    lines
        .map(|line| {
            if !line.contains("state=online") {
                return Lag::default();
            }
            let bytes =
                offset.zip(part(line, "offset")).map(|(sent, acknowledged)| (sent - acknowledged).max(0.0));
            // Before its first acknowledgement it has none.
            Lag { seconds: part(line, "lag").filter(|seconds| *seconds >= 0.0), bytes }
        })
        .collect()
}

fn own_lag(fields: &HashMap<&str, &str>, number: impl Fn(&str) -> Option<f64>) -> Lag {
    let is_up = fields.get("master_link_status").is_some_and(|status| *status == "up");
    let since = if is_up { "master_last_io_seconds_ago" } else { "master_link_down_since_seconds" };
    Lag { seconds: number(since).filter(|seconds| *seconds >= 0.0), bytes: None }
}

fn part(line: &str, name: &str) -> Option<f64> {
    line.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

impl Counters {
    /// `None` where they have begun anew.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
        let grown = Self {
            commands: self.commands - before.commands,
            connections: self.connections - before.connections,
            rejected: self.rejected - before.rejected,
            evicted: self.evicted - before.evicted,
            expired: self.expired - before.expired,
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            main_thread: self.main_thread.zip(before.main_thread).map(|(now, then)| (now - then).max(0.0)),
        };
        let Self { commands, connections, rejected, evicted, expired, hits, misses, main_thread: _ } = grown;
        let growths = [commands, connections, rejected, evicted, expired, hits, misses];
        growths.iter().all(|growth| *growth >= 0.0).then_some(grown)
    }
}

#[cfg(test)]
mod tests {
    use wakala_core::ErrorKind;

    use super::*;

    const BASE: &str = "# Server\r\nrun_id:abc\r\nrole:master\r\nconnected_clients:7\r\nused_memory:1000\r\nmaxmemory:0\r\n\
        total_commands_processed:1\r\ntotal_connections_received:2\r\nrejected_connections:3\r\nevicted_keys:4\r\n\
        expired_keys:5\r\nkeyspace_hits:6\r\nkeyspace_misses:7\r\n";

    fn read(more: &str) -> Facts {
        let call = Call { operation: "latest", subject: "redis a:1".to_owned(), writes: false };
        Facts::read(&call, &format!("{BASE}{more}")).unwrap()
    }

    #[test]
    fn what_is_not_told_is_not_known() {
        let facts = read("");
        assert_eq!((facts.memory_limit, facts.max_clients, facts.counters.main_thread), (None, None, None));
        assert_eq!((facts.keys, facts.replicas.as_slice(), facts.own_lag), (0.0, &[][..], None));
        assert_eq!(facts.places_taken, Some(7.0));
        let call = Call { operation: "latest", subject: "redis a:1".to_owned(), writes: false };
        for (name, text) in [
            ("run_id", "role:master"),
            ("role", "run_id:a"),
            (
                "evicted_keys",
                "run_id:a\nrole:master\ntotal_commands_processed:1\ntotal_connections_received:1\nrejected_connections:1",
            ),
        ] {
            let error = Facts::read(&call, text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unexpected);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn limits_and_databases_are_read() {
        let facts = read(
            "maxmemory:2000\r\nmem_not_counted_for_evict:100\r\nmaxclients:50\r\nconnected_slaves:2\r\ncluster_connections:10\r\n\
             db0:keys=3,expires=1,avg_ttl=0\r\ndb12:keys=4,expires=0,avg_ttl=0\r\nmem_fragmentation_ratio:nan\r\n",
        );
        assert_eq!((facts.memory_limit, facts.memory_limited), (Some(2000.0), Some(900.0)));
        assert_eq!((facts.places_taken, facts.max_clients, facts.keys), (Some(19.0), Some(50.0), 7.0));
        assert_eq!(facts.fragmentation, None, "no number is no value");
    }

    #[test]
    fn a_replica_without_a_copy_has_no_lag() {
        let facts = read(
            "master_repl_offset:500\r\nslave0:ip=a,port=1,state=online,offset=450,lag=1\r\n\
             slave1:ip=b,port=1,state=wait_bgsave,offset=0,lag=0\r\nslave2:ip=c,port=1,state=online,offset=600,lag=-1\r\n",
        );
        let lag = |seconds, bytes| Lag { seconds, bytes };
        assert_eq!(facts.replicas, [lag(Some(1.0), Some(50.0)), Lag::default(), lag(None, Some(0.0))]);
    }

    #[test]
    fn a_replica_knows_its_own_lag() {
        let replica = |more: &str| read(&format!("role:slave\r\n{more}")).own_lag.unwrap().seconds;
        assert_eq!(replica("master_link_status:up\r\nmaster_last_io_seconds_ago:2\r\n"), Some(2.0));
        let down = "master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\nmaster_link_down_since_seconds:9\r\n";
        assert_eq!(replica(down), Some(9.0));
        assert_eq!(replica("master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n"), None);
    }

    #[test]
    fn counters_that_were_set_back_have_not_grown() {
        let before = read("").counters;
        let after = read("keyspace_hits:16\r\n").counters;
        assert_eq!(after.since(&before).unwrap().hits, 10.0);
        assert!(before.since(&after).is_none());
    }
}
