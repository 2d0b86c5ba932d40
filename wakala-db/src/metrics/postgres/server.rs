//! One look at a server.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use wakala_core::{Error, ErrorKind, Result, Retry};

use crate::config::quoted;
use crate::error::Call;

const SESSIONS: &str = include_str!("look.sql");
const REPLICATION: &str = include_str!("replication.sql");

/// What a server showed.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// `max_connections` less the reserved.
    pub(super) limit: f64,
    /// The databases that can be connected to, and the limit of their own that some have.
    pub(super) databases: BTreeMap<String, Option<f64>>,
    pub(super) sessions: Vec<Sessions>,
    /// How many prepared transactions each database has, and the age of the oldest.
    pub(super) prepared: BTreeMap<String, (f64, f64)>,
    /// The lag of its own of a server in recovery.
    pub(super) replay: Option<Lag>,
    pub(super) standbys: Vec<(String, Lag)>,
    pub(super) slots: BTreeMap<String, Slot>,
}

/// The sessions of one database that do the same.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) database: String,
    /// As `pg_stat_activity` has it; a session may be without.
    pub(super) state: Option<String>,
    /// Likewise; none on the processor.
    pub(super) wait_class: Option<String>,
    pub(super) count: f64,
    /// Age of the oldest transaction, statement and state.
    pub(super) transaction: Option<f64>,
    pub(super) statement: Option<f64>,
    pub(super) in_state: Option<f64>,
}

/// How far a copy is behind.
#[derive(Debug)]
pub(super) struct Lag {
    pub(super) seconds: Option<f64>,
    pub(super) bytes: Option<f64>,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) active: bool,
    /// Its WAL is gone.
    pub(super) lost: bool,
    pub(super) retained: Option<f64>,
}

/// Asks once; on a connection that was lost meanwhile, once more on another one.
pub(super) async fn look(pool: &Pool, call: &Call, limit: Duration, replication: bool) -> Result<Server> {
    let sql = if replication { format!("{SESSIONS}UNION ALL\n{REPLICATION}") } else { SESSIONS.to_owned() };
    let until = Instant::now() + limit;
    let mut again = true;
    let rows = loop {
        let connection = match timeout_at(until, pool.get()).await {
            Ok(Ok(object)) => Connection(Some(object)),
            Ok(Err(error)) => return Err(call.no_connection(error)),
            Err(_) => return Err(call.no_connection_within(limit)),
        };
        let used = connection.is_used();
        match timeout_at(until, connection.object().query_typed(&sql, &[])).await {
            Ok(Ok(rows)) => {
                connection.give_back();
                break rows;
            }
            Ok(Err(error)) => {
                let error = call.failed(error);
                if again && used && error.kind() == ErrorKind::Unavailable {
                    again = false;
                    continue;
                }
                return Err(error);
            }
            Err(_) => return Err(call.no_answer_within(limit)),
        }
    };
    read(call, &rows)
}

fn read(call: &Call, rows: &[Row]) -> Result<Server> {
    let mut server = Server::default();
    let mut headed = false;
    for row in rows {
        let row = Columns { call, row };
        let name = row.get::<Option<String>>("name")?.unwrap_or_default();
        let (detail, more) = (row.get::<Option<String>>("detail")?, row.get::<Option<String>>("more")?);
        let (x, y, z): (Option<f64>, Option<f64>, Option<f64>) =
            (row.get("x")?, row.get("y")?, row.get("z")?);
        // A server whose clock was set back has ages below 0.
        let [x, y, z] = [x, y, z].map(|value| value.map(|value| value.max(0.0)));
        let number = row.get::<Option<i64>>("number")?.map(|number| number as f64);
        match row.get::<&str>("kind")? {
            "server" => {
                if more.as_deref() != Some("all") {
                    return Err(sees_nothing(call, &name));
                }
                server.limit = number.unwrap_or_default();
                headed = true;
            }
            "database" => {
                server.databases.insert(name, number);
            }
            "sessions" => server.sessions.push(Sessions {
                database: name,
                state: detail,
                wait_class: more,
                count: number.unwrap_or_default(),
                transaction: x,
                statement: y,
                in_state: z,
            }),
            "prepared" => {
                server.prepared.insert(name, (number.unwrap_or_default(), x.unwrap_or_default()));
            }
            "standby" => server.standbys.push((name, Lag { seconds: x, bytes: y })),
            "replay" => server.replay = Some(Lag { seconds: x, bytes: y }),
            "slot" => {
                let lost = more.as_deref() == Some("lost");
                server.slots.insert(name, Slot { active: number != Some(0.0), lost, retained: x });
            }
            other => return Err(call.odd_answer(other)),
        }
    }
    if headed { Ok(server) } else { Err(call.odd_answer("nothing about itself")) }
}

fn sees_nothing(call: &Call, role: &str) -> Error {
    let message = format!(
        "the role {role} sees its own sessions only, so nothing here would be true; GRANT pg_monitor TO {} \
         (it must inherit it)",
        quoted(role)
    );
    Error::new(ErrorKind::Denied, call.operation, message).on(&call.subject).with_retry(Retry::Never)
}

struct Columns<'a> {
    call: &'a Call,
    row: &'a Row,
}

impl<'a> Columns<'a> {
    fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T> {
        self.row.try_get(column).map_err(|error| self.call.odd_answer(error))
    }
}

/// A connection that goes back to the pool only where its statement was answered: the next one to have it would wait
/// for that answer first. Dropped before, it is closed.
#[derive(Debug)]
struct Connection(Option<Object>);

impl Connection {
    fn object(&self) -> &Object {
        self.0.as_ref().expect("taken by give_back and drop only")
    }

    /// Whether it was made for an earlier call.
    fn is_used(&self) -> bool {
        Object::metrics(self.object()).recycle_count > 0
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
