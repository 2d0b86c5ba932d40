//! The budget of a planned change, from what the servers and the processes say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use futures::future::try_join_all;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};
use wakala_core::{Finding, Permission, Preflight, Result, RunContext, StepPlan};

use super::budget::{ConnectionBudget, PoolDemand, PoolUsers, ServerLimit};
use super::connstr::parameters;
use super::ini::PgBouncerIni;
use super::running::reserve;
use super::{BudgetReport, Console, ConsoleRow, PgBouncerPools};
use crate::error::Call;

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// What PgBouncer takes for a `default_pool_size` that the file does not name.
const DEFAULT_POOL_SIZE: u32 = 20;

/// Refuses a change of pools that the servers could not bear, before anything is touched.
///
/// It counts what the file would let all processes open, as it will be after the change, and compares that with the
/// limits that each server says it has. Connections that go past PgBouncer are counted as they are now, and as two at
/// least. A change that only takes connections away is not refused where too many stay: it is warned of.
///
/// Clients that go as themselves have a pool for each user. How many users there are only you know: say so by
/// [`with_users`](Self::with_users). Otherwise those that have a pool now are counted, with a warning.
#[derive(Clone)]
pub struct PoolBudget {
    pools: PgBouncerPools,
    servers: BTreeMap<String, Pool>,
    limits: Vec<ServerLimit>,
    users: Option<u32>,
    surge: u32,
    spare_percent: u32,
    direct: u32,
}

impl fmt::Debug for PoolBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBudget")
            .field("pools", &self.pools)
            .field("servers", &self.servers.keys())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What a server says of itself.
struct Server {
    limit: ServerLimit,
    connections: u32,
    databases: Vec<String>,
}

impl PoolBudget {
    /// The budget of the change that `pools` would make. Name the servers, too.
    pub fn of(pools: &PgBouncerPools) -> Self {
        Self {
            pools: pools.clone(),
            servers: BTreeMap::new(),
            limits: Vec::new(),
            users: None,
            surge: 0,
            spare_percent: 10,
            direct: 2,
        }
    }

    /// Asks a server for its limits. `server` is its `host:port` as the file names it, 5432 where it names none; the pool
    /// goes there directly, and any role that may log in will do.
    #[must_use]
    pub fn with_server(mut self, server: impl Into<String>, pool: Pool) -> Self {
        self.servers.insert(server.into(), pool);
        self
    }

    /// Takes the limits of a server as given, where it cannot be asked.
    #[must_use]
    pub fn with_limit(mut self, limit: ServerLimit) -> Self {
        self.limits.push(limit);
        self
    }

    /// Says how many users go as themselves to each database.
    #[must_use]
    pub fn with_users(mut self, users: u32) -> Self {
        self.users = Some(users);
        self
    }

    /// Counts so many processes more, which a rollout starts before it stops the old ones.
    #[must_use]
    pub fn with_surge(mut self, processes: u32) -> Self {
        self.surge = processes;
        self
    }

    /// Keeps so many percent spare; 10 as given.
    #[must_use]
    pub fn with_spare_percent(mut self, percent: u32) -> Self {
        self.spare_percent = percent;
        self
    }

    /// Counts at least so many connections past PgBouncer; 2 as given.
    #[must_use]
    pub fn with_direct(mut self, connections: u32) -> Self {
        self.direct = connections;
        self
    }

    async fn rows(&self, server: &str, pool: &Pool, sql: &str) -> Result<Vec<SimpleQueryRow>> {
        let call = Call { operation: "preflight", subject: format!("server {server}"), writes: false };
        let until = Instant::now() + LIMIT;
        let client = match timeout_at(until, pool.get()).await {
            Ok(client) => client.map_err(|error| call.no_connection(error))?,
            Err(_) => return Err(call.no_connection_within(LIMIT)),
        };
        match timeout_at(until, client.simple_query(sql)).await {
            Ok(Ok(messages)) => Ok(messages
                .into_iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                })
                .collect()),
            Ok(Err(error)) => Err(call.failed(error)),
            Err(_) => {
                // It would be the next one's answer.
                drop(deadpool_postgres::Object::take(client));
                Err(call.no_answer_within(LIMIT))
            }
        }
    }

    async fn ask(&self, server: &str, pool: &Pool) -> Result<Server> {
        const SETTINGS: &str = "SELECT name, setting FROM pg_settings WHERE name IN \
            ('max_connections', 'superuser_reserved_connections', 'reserved_connections')";
        const CONNECTIONS: &str =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        const DATABASES: &str = "SELECT datname FROM pg_database WHERE datallowconn";
        let call = Call { operation: "preflight", subject: format!("server {server}"), writes: false };
        let mut limit = ServerLimit::new(server, 0);
        for row in self.rows(server, pool, SETTINGS).await? {
            let value = row.get(1).and_then(|text| text.parse().ok());
            let value =
                value.ok_or_else(|| call.odd_answer(format!("{:?} for {:?}", row.get(1), row.get(0))))?;
            match row.get(0) {
                Some("max_connections") => limit.max_connections = value,
                Some("superuser_reserved_connections") => limit.superuser_reserved = value,
                _ => limit.reserved = value,
            }
        }
        let connections = self.rows(server, pool, CONNECTIONS).await?;
        let connections = connections.first().and_then(|row| row.get(0)?.parse().ok());
        let databases = self.rows(server, pool, DATABASES).await?;
        Ok(Server {
            limit,
            connections: connections.ok_or_else(|| call.odd_answer("no count of its connections"))?,
            databases: databases.iter().filter_map(|row| row.get(0).map(str::to_owned)).collect(),
        })
    }

    /// The budget of a file, with what is known of servers and users.
    fn budget(&self, ini: &PgBouncerIni, known: &Known) -> ConnectionBudget {
        let number = |text: Option<&str>, default| text.and_then(|text| text.parse().ok()).unwrap_or(default);
        let setting = |key, default| number(ini.setting(key), default);
        let of_users = users(ini);
        let mut budget = ConnectionBudget::new(count(self.pools.instances().len()))
            .with_surge(self.surge)
            .with_spare_percent(self.spare_percent)
            .with_max_user_connections(
                match (setting("max_user_connections", 0), of_users.max_connections) {
                    // A user of its own limit may have more than the others, or no limit.
                    (0, _) | (_, Some(0)) => 0,
                    (all, own) => all.max(own.unwrap_or(0)),
                },
            );
        for limit in &known.limits {
            budget = budget.with_server(limit.clone());
        }
        for name in ini.databases() {
            let parameter = |key| number(ini.parameter(name, key).as_deref(), u32::MAX);
            let or = |value: u32, default: u32| if value == u32::MAX { default } else { value };
            let server = server_of(ini, name);
            let users = match ini.parameter(name, "user") {
                Some(user) => PoolUsers::Forced(user),
                None => PoolUsers::Own(self.users.unwrap_or_else(|| known.users_of(name))),
            };
            let databases = match name {
                "*" => {
                    known.unnamed.get(&server).copied().filter(|_| ini.parameter(name, "dbname").is_none())
                }
                _ => Some(1),
            };
            let reserve = reserve(ini, name).and_then(|(_, text)| text.parse().ok());
            budget = budget.with_pool(
                PoolDemand::new(
                    name,
                    server,
                    or(parameter("pool_size"), setting("default_pool_size", DEFAULT_POOL_SIZE))
                        .max(of_users.pool_size),
                )
                .with_reserve(
                    reserve.unwrap_or_else(|| setting("reserve_pool_size", 0)).max(of_users.reserve),
                )
                .with_max_db_connections(or(
                    parameter("max_db_connections"),
                    setting("max_db_connections", 0),
                ))
                .with_databases(databases)
                .with_users(users),
            );
        }
        budget
    }

    async fn known(&self, ini: &PgBouncerIni) -> Result<Known> {
        let consoles = self.pools.instances();
        let pools = try_join_all(consoles.iter().map(|console| console.show("POOLS"))).await?;
        let databases = try_join_all(consoles.iter().map(|console| console.show("DATABASES"))).await?;
        let mut known = Known { limits: self.limits.clone(), ..Known::default() };
        for row in pools.iter().flatten() {
            if let (Some(database), Some(user)) = (row.text("database"), row.text("user")) {
                known.users.entry(database.to_owned()).or_default().insert(user.to_owned());
            }
        }
        let asked = self.servers.iter().map(|(name, pool)| self.ask(name, pool));
        for server in try_join_all(asked).await? {
            let name = server.limit.server.clone();
            let pooled: u64 =
                databases.iter().flatten().filter(|row| row_server(row) == name).map(connections).sum();
            let direct = u64::from(server.connections).saturating_sub(pooled);
            let direct = u32::try_from(direct).unwrap_or(u32::MAX).max(self.direct);
            let named: BTreeSet<String> = ini
                .databases()
                .into_iter()
                .filter(|database| *database != "*" && server_of(ini, database) == name)
                .map(|database| ini.parameter(database, "dbname").unwrap_or_else(|| database.to_owned()))
                .collect();
            let unnamed = server.databases.iter().filter(|database| !named.contains(*database)).count();
            known.unnamed.insert(name, count(unnamed));
            known.limits.push(server.limit.with_direct(direct));
        }
        Ok(known)
    }
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

fn connections(row: &ConsoleRow) -> u64 {
    row.number("current_connections").unwrap_or(0)
}

fn server_of(ini: &PgBouncerIni, database: &str) -> String {
    let part = |key| ini.parameter(database, key);
    format!("{}:{}", part("host").as_deref().unwrap_or("(socket)"), part("port").as_deref().unwrap_or("5432"))
}

fn row_server(row: &ConsoleRow) -> String {
    format!("{}:{}", row.text("host").unwrap_or("(socket)"), row.text("port").unwrap_or("5432"))
}

/// The most that a line of `[users]` gives; it goes before what the database has.
#[derive(Default)]
struct OfUsers {
    pool_size: u32,
    reserve: u32,
    /// `Some(0)` where one has no limit.
    max_connections: Option<u32>,
}

fn users(ini: &PgBouncerIni) -> OfUsers {
    let mut most = OfUsers::default();
    for entry in ini.entries().filter(|entry| entry.section == Some("users")) {
        for parameter in parameters(entry.value).unwrap_or_default() {
            let Ok(value) = parameter.value.parse::<u32>() else { continue };
            match parameter.key {
                "pool_size" => most.pool_size = most.pool_size.max(value),
                "reserve_pool_size" => most.reserve = most.reserve.max(value),
                "max_user_connections" => {
                    most.max_connections = Some(match most.max_connections {
                        Some(0) => 0,
                        _ if value == 0 => 0,
                        before => before.unwrap_or(0).max(value),
                    });
                }
                _ => {}
            }
        }
    }
    most
}

#[derive(Default)]
struct Known {
    limits: Vec<ServerLimit>,
    /// Those with a pool now, by database.
    users: BTreeMap<String, BTreeSet<String>>,
    /// How many databases of a server have no line of their own.
    unnamed: BTreeMap<String, u32>,
}

impl Known {
    fn users_of(&self, database: &str) -> u32 {
        match database {
            "*" => self.users.values().map(|users| count(users.len())).max().unwrap_or(1),
            name => self.users.get(name).map_or(1, |users| count(users.len())),
        }
        .max(1)
    }
}

fn findings(before: &BudgetReport, after: &BudgetReport) -> Vec<Finding> {
    let finding = |server: &super::ServerBudget| {
        let text = format!("connections: {server}");
        let now = before.servers.iter().find(|now| now.server == server.server);
        let less = now.is_some_and(|now| match (now.demand, server.demand) {
            (Some(now), Some(then)) => then < now,
            _ => false,
        });
        if server.fits {
            Finding::ok(text)
        } else if less && server.usable.is_some() {
            Finding::warning(format!("{text}; the change makes it less, and still too many"))
        } else {
            Finding::refusal(text)
        }
    };
    after.servers.iter().map(finding).collect()
}

#[async_trait]
impl Preflight for PoolBudget {
    async fn check(&self, cx: &RunContext, _: &[StepPlan]) -> Result<Vec<Finding>> {
        let (before, after) = self.pools.texts(cx).await?;
        let known = cx.until(self.known(&after)).await??;
        let (now, then) = (self.budget(&before, &known), self.budget(&after, &known));
        let mut findings = findings(&now.check(), &then.check());
        let own = then.pools.iter().any(|pool| matches!(pool.users, PoolUsers::Own(_)));
        if own && self.users.is_none() {
            let counted: Vec<_> = then
                .pools
                .iter()
                .filter_map(|pool| match pool.users {
                    PoolUsers::Own(users) => Some(format!("{} {users}", pool.database)),
                    PoolUsers::Forced(_) => None,
                })
                .collect();
            findings.push(Finding::warning(format!(
                "connections: each user has a pool of its own; those that have one now were counted, one at least ({})",
                counted.join(", ")
            )));
        }
        Ok(findings)
    }

    fn permissions(&self) -> Vec<Permission> {
        let of = |console: &Console| {
            let resource = format!("console {}", console.name());
            ["SHOW DATABASES", "SHOW POOLS"]
                .map(|action| Permission::new("pgbouncer", action, resource.clone()))
        };
        self.pools.instances().iter().flat_map(of).collect()
    }
}
