//! Whether all pools of all processes fit into their servers.

use std::collections::BTreeMap;

use super::budget_report::{BudgetReport, ServerBudget};

/// What one Postgres server can take.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimit {
    /// Its name, as the pools name it: `host:port`.
    pub server: String,
    /// `max_connections`.
    pub max_connections: u32,
    /// `superuser_reserved_connections`; 3 as given.
    pub superuser_reserved: u32,
    /// `reserved_connections`, which there is since Postgres 16; 0 as given.
    pub reserved: u32,
    /// Connections that go past PgBouncer: migrations, exporters, backups, wakala itself. 2 as given.
    pub direct: u32,
}

impl ServerLimit {
    /// A server that takes so many connections in all.
    pub fn new(server: impl Into<String>, max_connections: u32) -> Self {
        Self { server: server.into(), max_connections, superuser_reserved: 3, reserved: 0, direct: 2 }
    }

    /// Says how many are kept for superusers.
    #[must_use]
    pub fn with_superuser_reserved(mut self, connections: u32) -> Self {
        self.superuser_reserved = connections;
        self
    }

    /// Says how many are kept for `pg_use_reserved_connections`.
    #[must_use]
    pub fn with_reserved(mut self, connections: u32) -> Self {
        self.reserved = connections;
        self
    }

    /// Says how many go past PgBouncer.
    #[must_use]
    pub fn with_direct(mut self, connections: u32) -> Self {
        self.direct = connections;
        self
    }

    /// What applications can have, the spare share taken off, rounded in favour of the spare.
    fn usable(&self, spare_percent: u32) -> u64 {
        let open = u64::from(self.max_connections)
            .saturating_sub(u64::from(self.superuser_reserved) + u64::from(self.reserved));
        let spare = (open * u64::from(spare_percent.min(100))).div_ceil(100);
        (open - spare).saturating_sub(u64::from(self.direct))
    }
}

/// The users that have a pool of a database.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolUsers {
    /// All clients go as this one, so that there is one pool.
    Forced(String),
    /// Each client goes as itself: so many different users, each with a pool.
    Own(u32),
}

/// What one line of `[databases]` may open in one process.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDemand {
    /// The name of the database; `*` for the line of all others.
    pub database: String,
    /// The server that it is on.
    pub server: String,
    /// How many databases the line stands for: 1, or for `*` those that there are; `None` where nobody knows.
    pub databases: Option<u32>,
    /// Connections of each pair of database and user.
    pub pool_size: u32,
    /// Further ones, of each pair too.
    pub reserve: u32,
    /// Who has a pool.
    pub users: PoolUsers,
    /// The most of each database; 0 is no limit.
    pub max_db_connections: u32,
}

impl PoolDemand {
    /// The pools of `database` on `server`, all of whose clients go as one user.
    pub fn new(database: impl Into<String>, server: impl Into<String>, pool_size: u32) -> Self {
        Self {
            database: database.into(),
            server: server.into(),
            databases: Some(1),
            pool_size,
            reserve: 0,
            users: PoolUsers::Own(1),
            max_db_connections: 0,
        }
    }

    /// Adds a reserve.
    #[must_use]
    pub fn with_reserve(mut self, connections: u32) -> Self {
        self.reserve = connections;
        self
    }

    /// Says who has a pool.
    #[must_use]
    pub fn with_users(mut self, users: PoolUsers) -> Self {
        self.users = users;
        self
    }

    /// Sets a limit of each database.
    #[must_use]
    pub fn with_max_db_connections(mut self, connections: u32) -> Self {
        self.max_db_connections = connections;
        self
    }

    /// Says how many databases the line stands for; `None` where nobody knows.
    #[must_use]
    pub fn with_databases(mut self, databases: Option<u32>) -> Self {
        self.databases = databases;
        self
    }

    fn each(&self) -> u64 {
        u64::from(self.pool_size) + u64::from(self.reserve)
    }

    pub(super) fn pools(&self) -> u64 {
        match self.users {
            PoolUsers::Forced(_) => 1,
            PoolUsers::Own(users) => u64::from(users),
        }
    }

    /// In one process, before any limit of users; `None` where there is no end to it.
    fn connections(&self) -> Option<u64> {
        let of_database = self.pools() * self.each();
        let of_database = match u64::from(self.max_db_connections) {
            0 => of_database,
            limit => of_database.min(limit),
        };
        Some(u64::from(self.databases?) * of_database)
    }
}

/// The connections that a group of PgBouncer processes may open, against what their servers take.
///
/// A pool is one pair of database and user in one process, and opens up to its size and its reserve. Each process counts
/// by itself, also the one more that a rollout starts before it stops an old one. What is counted is the most that can
/// be, not what is open now: it is reached on the worst day.
///
/// ```
/// use wakala_db::{ConnectionBudget, PoolDemand, ServerLimit};
///
/// let budget = ConnectionBudget::new(4)
///     .with_surge(1)
///     .with_server(ServerLimit::new("db:5432", 500))
///     .with_pool(PoolDemand::new("wakala", "db:5432", 100).with_reserve(20));
/// let report = budget.check();
/// assert!(!report.fits());
/// assert_eq!(
///     report.to_string(),
///     "db:5432: 5 processes (1 of them a rollout's) x 120 = 600 connections (wakala 100+20), and 445 can be had: \
///      max_connections 500 less 3 for superusers, 10 % spare, 2 direct. Pool size 69 of wakala would fit"
/// );
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionBudget {
    /// Processes, all of which have all pools.
    pub processes: u32,
    /// Further ones while they are replaced.
    pub surge: u32,
    /// What is kept spare, in percent of what a server has for applications. 10 as given.
    pub spare_percent: u32,
    /// The most of each user in each process, over all databases; 0 is no limit.
    pub max_user_connections: u32,
    /// The servers.
    pub servers: Vec<ServerLimit>,
    /// The pools.
    pub pools: Vec<PoolDemand>,
}

impl ConnectionBudget {
    /// So many processes, without a pool or a server yet.
    pub fn new(processes: u32) -> Self {
        Self {
            processes,
            surge: 0,
            spare_percent: 10,
            max_user_connections: 0,
            servers: Vec::new(),
            pools: Vec::new(),
        }
    }

    /// Counts so many processes more, which a rollout starts before it stops the old ones.
    #[must_use]
    pub fn with_surge(mut self, processes: u32) -> Self {
        self.surge = processes;
        self
    }

    /// Keeps so many percent spare.
    #[must_use]
    pub fn with_spare_percent(mut self, percent: u32) -> Self {
        self.spare_percent = percent;
        self
    }

    /// Sets the most of each user in each process.
    #[must_use]
    pub fn with_max_user_connections(mut self, connections: u32) -> Self {
        self.max_user_connections = connections;
        self
    }

    /// Adds a server.
    #[must_use]
    pub fn with_server(mut self, server: ServerLimit) -> Self {
        self.servers.push(server);
        self
    }

    /// Adds the pools of a line.
    #[must_use]
    pub fn with_pool(mut self, pool: PoolDemand) -> Self {
        self.pools.push(pool);
        self
    }

    fn all_processes(&self) -> u64 {
        u64::from(self.processes) + u64::from(self.surge)
    }

    /// The most that one process opens on a server; `None` where there is no end to it.
    ///
    /// The limits of databases and those of users are each applied to the whole; where both bind, the truth is at most
    /// this.
    fn of_process(&self, server: &str, pools: &[PoolDemand]) -> Option<u64> {
        let on_server = || pools.iter().filter(|pool| pool.server == server);
        let by_database: Option<u64> = on_server().map(PoolDemand::connections).sum();
        let by_user = match u64::from(self.max_user_connections) {
            0 => None,
            limit => {
                let mut forced: BTreeMap<&str, Option<u64>> = BTreeMap::new();
                let mut own = 0;
                for pool in on_server() {
                    match &pool.users {
                        PoolUsers::Forced(user) => {
                            let sum = forced.entry(user).or_insert(Some(0));
                            *sum = sum.zip(pool.connections()).map(|(a, b)| a + b);
                        }
                        PoolUsers::Own(users) => own = own.max(u64::from(*users)),
                    }
                }
                let forced: u64 =
                    forced.into_values().map(|sum| sum.map_or(limit, |sum| sum.min(limit))).sum();
                Some(forced + own * limit)
            }
        };
        match (by_database, by_user) {
            (Some(by_database), Some(by_user)) => Some(by_database.min(by_user)),
            (one, other) => one.or(other),
        }
    }

    /// Counts. One answer a server, those that are named by a pool and unknown among them.
    pub fn check(&self) -> BudgetReport {
        let mut servers: Vec<&str> = self.servers.iter().map(|limit| limit.server.as_str()).collect();
        for pool in &self.pools {
            if !servers.contains(&pool.server.as_str()) {
                servers.push(&pool.server);
            }
        }
        BudgetReport { servers: servers.into_iter().map(|server| self.check_server(server)).collect() }
    }

    fn check_server(&self, server: &str) -> ServerBudget {
        let pools: Vec<PoolDemand> =
            self.pools.iter().filter(|pool| pool.server == server).cloned().collect();
        let of_process = self.of_process(server, &pools);
        let demand = of_process.map(|connections| connections * self.all_processes());
        let limit = self.servers.iter().find(|limit| limit.server == server).cloned();
        let usable = limit.as_ref().map(|limit| limit.usable(self.spare_percent));
        let fits = match (demand, usable) {
            (Some(demand), Some(usable)) => demand <= usable,
            _ => false,
        };
        let mut would_fit = Vec::new();
        if let Some(usable) = usable.filter(|_| !fits && demand.is_some()) {
            for (index, pool) in pools.iter().enumerate() {
                if let Some(size) = self.largest(server, &pools, index, usable) {
                    would_fit.push((pool.database.clone(), size));
                }
            }
        }
        ServerBudget {
            server: server.to_owned(),
            processes: self.processes,
            surge: self.surge,
            spare_percent: self.spare_percent,
            of_process,
            demand,
            usable,
            fits,
            would_fit,
            limit,
            pools,
        }
    }

    /// The largest size of one pool with which all would fit, the others as they are.
    fn largest(&self, server: &str, pools: &[PoolDemand], index: usize, usable: u64) -> Option<u32> {
        let fits = |size: u32| {
            let mut pools = pools.to_vec();
            pools[index].pool_size = size;
            self.of_process(server, &pools).is_some_and(|sum| sum * self.all_processes() <= usable)
        };
        // Larger never fits better.
        let (mut fit, mut over) = (0, pools[index].pool_size);
        while over - fit > 1 {
            let middle = fit + (over - fit) / 2;
            if fits(middle) { fit = middle } else { over = middle }
        }
        (fit > 0).then_some(fit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(budget: &ConnectionBudget) -> Option<u64> {
        budget.check().servers[0].demand
    }

    fn server(max: u32) -> ServerLimit {
        ServerLimit::new("db:5432", max).with_direct(0)
    }

    fn pool(size: u32) -> PoolDemand {
        PoolDemand::new("app", "db:5432", size)
    }

    #[test]
    fn demand_is_pools_times_processes_under_the_caps() {
        let one = || ConnectionBudget::new(2).with_server(server(100));
        let own = |users| PoolUsers::Own(users);
        let forced = |name: &str| PoolUsers::Forced(name.to_owned());
        for (budget, expected) in [
            (one().with_pool(pool(10)), Some(20)),
            (one().with_pool(pool(10).with_reserve(5)), Some(30)),
            (one().with_surge(1).with_pool(pool(10).with_reserve(5)), Some(45)),
            (one().with_pool(pool(10).with_reserve(5).with_users(own(3))), Some(90)),
            (one().with_pool(pool(10).with_users(own(3)).with_max_db_connections(12)), Some(24)),
            (one().with_pool(pool(10).with_max_db_connections(12)), Some(20)),
            (one().with_max_user_connections(4).with_pool(pool(10).with_users(own(2))), Some(16)),
            // One user of two databases has one limit; two users have two.
            (
                one()
                    .with_max_user_connections(8)
                    .with_pool(pool(10).with_users(forced("a")))
                    .with_pool(pool(10).with_users(forced("a"))),
                Some(16),
            ),
            (
                one()
                    .with_max_user_connections(8)
                    .with_pool(pool(10).with_users(forced("a")))
                    .with_pool(pool(10).with_users(forced("b"))),
                Some(32),
            ),
            (one().with_pool(pool(10).with_databases(Some(4))), Some(80)),
            (one().with_pool(pool(10).with_databases(None)), None),
            (
                one()
                    .with_max_user_connections(7)
                    .with_pool(pool(10).with_databases(None).with_users(own(2))),
                Some(28),
            ),
        ] {
            assert_eq!(demand(&budget), expected, "{budget:?}");
        }
    }

    #[test]
    fn what_can_be_had_leaves_the_reserved_and_the_spare() {
        // 100 - 3 - 5 = 92, less 9.2 rounded up, less 4.
        let limit = ServerLimit::new("db:5432", 100).with_reserved(5).with_direct(4);
        assert_eq!(limit.usable(10), 78);
        assert_eq!(ServerLimit::new("db:5432", 2).usable(10), 0);
        let budget = |size| ConnectionBudget::new(1).with_server(limit.clone()).with_pool(pool(size)).check();
        assert!(budget(78).fits());
        assert!(!budget(79).fits());
    }

    #[test]
    fn what_would_fit_does_and_one_more_does_not() {
        for (size, reserve, users, processes, max) in
            [(100, 20, 1, 4, 500), (60, 0, 1, 1, 50), (9, 1, 7, 3, 97), (1000, 3, 2, 2, 60)]
        {
            let at = |size| {
                ConnectionBudget::new(processes)
                    .with_server(server(max))
                    .with_pool(pool(size).with_reserve(reserve).with_users(PoolUsers::Own(users)))
                    .with_pool(PoolDemand::new("other", "db:5432", 1))
                    .check()
            };
            let report = at(size);
            assert!(!report.fits());
            let (name, fit) = report.servers[0].would_fit[0].clone();
            assert_eq!(name, "app");
            assert!(at(fit).fits() && !at(fit + 1).fits(), "{fit}: {report}");
            assert!(report.to_string().contains(&format!("Pool size {fit} of app")), "{report}");
        }
        let hopeless = ConnectionBudget::new(50).with_server(server(20)).with_pool(pool(5)).check();
        assert!(hopeless.to_string().contains("fewer processes, or a larger server"), "{hopeless}");
    }

    #[test]
    fn what_nobody_knows_does_not_fit() {
        let report =
            ConnectionBudget::new(1).with_server(server(100)).with_pool(pool(1).with_databases(None)).check();
        assert!(!report.fits() && report.to_string().contains("UNBOUNDED"), "{report}");
        let report = ConnectionBudget::new(1).with_pool(pool(1)).check();
        assert!(!report.fits() && report.to_string().contains("NOT KNOWN"), "{report}");
    }

    #[test]
    fn servers_are_counted_apart() {
        let report = ConnectionBudget::new(1)
            .with_server(server(20))
            .with_server(ServerLimit::new("replica:5432", 200))
            .with_pool(pool(15))
            .with_pool(PoolDemand::new("read", "replica:5432", 100))
            .check();
        assert!(report.fits(), "{report}");
    }
}
