//! One look at one PgBouncer process.

use std::collections::BTreeMap;

use tokio::time::Instant;
use wakala_core::Result;

use super::console::Table;
use crate::error::Call;

/// The console itself shows up as a database; it is nobody's.
const OWN: &str = "pgbouncer";

/// The answers of the console.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) pools: Table,
    pub(super) databases: Table,
    pub(super) users: Table,
    pub(super) stats: Table,
}

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
    pub(super) fn read(call: &Call, (connection, at): (u64, Instant), shown: &Shown) -> Result<Self> {
        let Shown { pools, databases, users, stats } = shown;
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
            let size = of_users.get(user).or_else(|| sizes.get(database));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wakala_core::ErrorKind;

    use super::*;

    /// Lines of words, the first of them the columns; `-` is NULL.
    fn table(sql: &'static str, text: &str) -> Table {
        let mut lines = text.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let columns = lines.next().unwrap();
        let rows = lines.map(|cells| {
            let cells = columns.iter().zip(cells).filter(|(_, cell)| *cell != "-");
            cells
                .map(|(column, cell)| ((*column).to_owned(), cell.replace('_', " ")))
                .collect::<BTreeMap<_, _>>()
        });
        Table { sql, rows: rows.collect() }
    }

    fn call() -> Call {
        Call { operation: "latest", subject: "pgbouncer a".to_owned(), writes: false }
    }

    fn shown(pools: &str, users: &str) -> Shown {
        Shown {
            pools: table("SHOW POOLS", pools),
            databases: table("SHOW DATABASES", "name pool_size\nshop 20\nlogs 5\npgbouncer 2"),
            users: table("SHOW USERS", users),
            stats: table(
                "SHOW STATS",
                "total_query_count database total_xact_count total_xact_time total_query_time total_wait_time\n\
                 8 shop 4 2000000 1000000 500000\n1 pgbouncer 1 1 1 1",
            ),
        }
    }

    const OLD: &str = "database user cl_active cl_waiting sv_active sv_idle sv_used sv_tested sv_login maxwait\n\
                       pgbouncer pgbouncer 1 0 0 0 0 0 0 0\nshop app 3 2 5 1 1 1 1 7\ngone app 0 0 0 0 0 0 0 0";

    #[test]
    fn an_old_version_shows_less() {
        let seen =
            Instance::read(&call(), (0, Instant::now()), &shown(OLD, "name pool_mode\napp -")).unwrap();
        let [pool, gone] = &seen.pools[..] else { panic!("{seen:?}") };
        assert_eq!(
            (pool.servers_active, pool.servers, pool.size, pool.max_wait),
            (5.0, 9.0, Some(20.0), 7.0)
        );
        assert_eq!((pool.clients_active, pool.clients_waiting), (3.0, 2.0));
        assert_eq!(gone.size, None);
        assert_eq!(seen.databases.keys().collect::<Vec<_>>(), ["logs", "shop"]);
        let shop = &seen.databases["shop"];
        assert_eq!((shop.queries, shop.transactions, shop.wait_time), (8.0, 4.0, 0.5));
    }

    /// From 1.24 on a user's size comes with blanks, and before that of the database.
    #[test]
    fn a_new_version_shows_more() {
        let pools = "user database cl_active cl_waiting cl_active_cancel_req sv_active sv_active_cancel \
                     sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us load_balance_hosts\n\
                     app shop 1 0 0 1 1 1 0 0 0 0 0 250000 -\nother shop 1 0 0 1 0 0 0 0 0 0 0 0 -";
        let users = "name pool_size pool_mode\napp ________3 -\nother - -";
        let seen = Instance::read(&call(), (0, Instant::now()), &shown(pools, users)).unwrap();
        let [app, other] = &seen.pools[..] else { panic!("{seen:?}") };
        assert_eq!((app.servers_active, app.size, app.max_wait), (3.0, Some(3.0), 0.25));
        assert_eq!(other.size, Some(20.0));
    }

    #[test]
    fn what_cannot_be_read_is_no_zero() {
        for (pools, hint) in [
            (OLD.replace("cl_waiting", "waiting"), "SHOW POOLS without the column cl_waiting"),
            (OLD.replace("app 3 2", "app 3 many"), "\"many\" for the number cl_waiting"),
        ] {
            let shown = shown(&pools, "name\napp");
            let error = Instance::read(&call(), (0, Instant::now()), &shown).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unexpected);
            assert!(error.to_string().contains(hint), "{error}");
        }
    }

    #[test]
    fn counters_are_compared_within_one_connection_and_while_they_grow() {
        let at = Instant::now();
        let seen = |connection, queries| Instance {
            connection,
            at,
            pools: Vec::new(),
            databases: [("shop".to_owned(), Counters { queries, ..Counters::default() })].into(),
        };
        let grown = |now: Instance, base: Instance| now.growth(&base, None).map(|grown| grown.queries);
        assert_eq!(grown(seen(0, 9.0), seen(0, 4.0)), Some(5.0));
        assert_eq!(grown(seen(1, 9.0), seen(0, 4.0)), None, "another process, perhaps");
        assert_eq!(grown(seen(0, 3.0), seen(0, 4.0)), None, "begun anew");
        assert_eq!(seen(0, 9.0).growth(&seen(0, 4.0), Some("logs")).map(|grown| grown.queries), Some(0.0));
        let mut empty = seen(0, 0.0);
        empty.databases.clear();
        assert_eq!(grown(seen(0, 9.0), empty), Some(9.0));
    }
}
