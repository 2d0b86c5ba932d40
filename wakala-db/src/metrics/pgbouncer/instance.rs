//! One look at one PgBouncer process.

use std::collections::BTreeMap;

use tokio::time::Instant;
use wakala_core::Result;

use super::console::Table;
use crate::error::Call;

/// The console itself shows up as a database; it is nobody's.
const OWN: &str = "pgbouncer";

/// What a process showed.
#[derive(Debug)]
pub(super) struct Instance {
    /// The number of the connection, and when it was asked. Counters grow while the number stays.
    pub(super) connection: u64,
    pub(super) at: Instant,
    pub(super) pools: Vec<Pool>,
    /// The counters of all databases that it knows.
    pub(super) databases: BTreeMap<String, Counters>,
}

/// The pool of one database and user.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) database: String,
    pub(super) user: String,
    pub(super) clients_active: f64,
    pub(super) clients_waiting: f64,
    /// Server connections that clients have, or that a request to cancel keeps.
    pub(super) servers_active: f64,
    pub(super) servers_idle: f64,
    pub(super) servers_used: f64,
    /// All of them, those that log in or are tested too.
    pub(super) servers: f64,
    /// How many server connections there may be, without the reserve. Unknown for a pool whose database is gone.
    pub(super) size: Option<f64>,
    pub(super) max_wait: f64,
}

/// Totals since the process began; times in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) transactions: f64,
    pub(super) queries: f64,
    pub(super) transaction_time: f64,
    pub(super) query_time: f64,
    pub(super) wait_time: f64,
}

impl Instance {
    pub(super) fn read(
        call: &Call,
        (connection, at): (u64, Instant),
        pools: &Table,
        databases: &Table,
        users: &Table,
        stats: &Table,
    ) -> Result<Self> {
        let mut known = BTreeMap::new();
        let mut sizes = BTreeMap::new();
        for row in databases.rows(call) {
            let name = row.text("name")?;
            if name != OWN {
                known.insert(name.to_owned(), Counters::default());
                sizes.insert(name, row.number("pool_size")?);
            }
        }
        // Since version 1.24 a user may have a size of his own, which comes first.
        let mut of_users = BTreeMap::new();
        for row in users.rows(call) {
            if row.optional("pool_size").is_some() {
                of_users.insert(row.text("name")?, row.number("pool_size")?);
            }
        }
        let mut seen = Vec::new();
        for row in pools.rows(call) {
            let (database, user) = (row.text("database")?, row.text("user")?);
            if database == OWN {
                continue;
            }
            let count = |column| row.number(column);
            let cancels =
                row.optional_number("sv_active_cancel")? + row.optional_number("sv_being_canceled")?;
            let servers_active = count("sv_active")? + cancels;
            let (servers_idle, servers_used) = (count("sv_idle")?, count("sv_used")?);
            let size = of_users.get(user).filter(|size| **size > 0.0).or_else(|| sizes.get(database));
            seen.push(Pool {
                database: database.to_owned(),
                user: user.to_owned(),
                clients_active: count("cl_active")?,
                clients_waiting: count("cl_waiting")?,
                servers_active,
                servers_idle,
                servers_used,
                servers: servers_active
                    + servers_idle
                    + servers_used
                    + count("sv_tested")?
                    + count("sv_login")?,
                size: size.copied(),
                max_wait: count("maxwait")? + row.optional_number("maxwait_us")? / 1e6,
            });
        }
        for row in stats.rows(call) {
            let database = row.text("database")?;
            if database != OWN {
                let seconds = |column| Ok::<_, wakala_core::Error>(row.number(column)? / 1e6);
                let counters = Counters {
                    transactions: row.number("total_xact_count")?,
                    queries: row.number("total_query_count")?,
                    transaction_time: seconds("total_xact_time")?,
                    query_time: seconds("total_query_time")?,
                    wait_time: seconds("total_wait_time")?,
                };
                known.insert(database.to_owned(), counters);
            }
        }
        Ok(Self { connection, at, pools: seen, databases: known })
    }

    /// How much the counters of a database, or of all, have grown since `base`; `None` where it may be another process.
    pub(super) fn growth(&self, base: &Self, database: Option<&str>) -> Option<Counters> {
        if self.connection != base.connection {
            return None;
        }
        let mut sum = Counters::default();
        for (name, now) in &self.databases {
            if database.is_some_and(|wanted| name != wanted) {
                continue;
            }
            // One that was not there is new, and begins at zero.
            let before = base.databases.get(name).copied().unwrap_or_default();
            sum.add(&now.since(&before)?);
        }
        Some(sum)
    }
}

impl Counters {
    /// `None` where they have begun anew: the database was taken away and came back.
    fn since(&self, before: &Self) -> Option<Self> {
        let grown = Self {
            transactions: self.transactions - before.transactions,
            queries: self.queries - before.queries,
            transaction_time: self.transaction_time - before.transaction_time,
            query_time: self.query_time - before.query_time,
            wait_time: self.wait_time - before.wait_time,
        };
        let Self { transactions, queries, transaction_time, query_time, wait_time } = grown;
        [transactions, queries, transaction_time, query_time, wait_time]
            .iter()
            .all(|growth| *growth >= 0.0)
            .then_some(grown)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.transaction_time += other.transaction_time;
        self.query_time += other.query_time;
        self.wait_time += other.wait_time;
    }
}
