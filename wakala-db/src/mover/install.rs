//! What a shard has for good: the schema of the mover, and the guards of the tables.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::side::Side;
use super::table::Table;
use crate::config::quoted;
use crate::error::Call;

/// Never changed once published; new ones keep working what older movers call.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/0001_shard.sql")];
/// A guard is put on a table as soon as this long nobody writes to it; who waits, keeps others waiting.
const GUARD_WAIT: Duration = Duration::from_millis(200);
const GUARD_ATTEMPTS: u32 = 50;
/// The name of the triggers. They come first among those of a table, which fire by name.
const GUARD: &str = "00_wakala_guard";
/// Of its own, since it fires after the row: a table that has a trigger before the row, though it be disabled, takes the
/// rows of a COPY one by one. It also sees the tenant that other triggers made of the one that was given.
const GUARD_INSERT: &str = "00_wakala_guard_insert";
const GUARD_TRUNCATE: &str = "00_wakala_truncate";

/// Makes the schema and says which shard the database is. Nothing to do where it is so.
///
/// # Errors
/// `Conflict` where the database is another shard; `Unsupported` where a later version made the schema.
pub(crate) async fn install(side: &mut Side) -> Result<()> {
    let shard = side.number();
    let client = &mut side.client;
    let call = Call { operation: "install", subject: format!("shard {shard}"), writes: true };
    let failed = |error| call.failed(error);
    let work = client.transaction().await.map_err(failed)?;
    work.batch_execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('wakala migrate wakala_shard', 0));
         CREATE SCHEMA IF NOT EXISTS wakala_shard;
         CREATE TABLE IF NOT EXISTS wakala_shard.version (version integer PRIMARY KEY);",
    )
    .await
    .map_err(failed)?;
    let row = work
        .query_typed("SELECT coalesce(max(version), 0) FROM wakala_shard.version", &[])
        .await
        .map_err(failed)?;
    let found: i32 = row.first().map_or(Ok(0), |row| row.try_get(0)).map_err(failed)?;
    let latest = i32::try_from(MIGRATIONS.len()).expect("there are few migrations");
    if found > latest {
        let message =
            format!("a later version of wakala made its schema ({found}); use that version here too");
        return Err(Error::new(ErrorKind::Unsupported, "install", message).on(&call.subject));
    }
    for (version, sql) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        work.batch_execute(sql).await.map_err(failed)?;
        work.query_typed("INSERT INTO wakala_shard.version VALUES ($1)", &[(&version, Type::INT4)])
            .await
            .map_err(failed)?;
    }
    work.query_typed(
        "INSERT INTO wakala_shard.shard (id) VALUES ($1) ON CONFLICT DO NOTHING",
        &[(&shard, Type::INT4)],
    )
    .await
    .map_err(failed)?;
    let row = work.query_typed("SELECT id FROM wakala_shard.shard", &[]).await.map_err(failed)?;
    let known: i32 = row.first().map_or(Ok(0), |row| row.try_get(0)).map_err(failed)?;
    if known != shard {
        let message = format!("this database is shard {known}; correct the directory, or the address");
        return Err(Error::new(ErrorKind::Conflict, "install", message)
            .on(&call.subject)
            .with_retry(Retry::Never));
    }
    work.commit().await.map_err(failed)
}

/// Puts the guard on every table that does not have it. From then on no statement changes a row of a tenant that the
/// shard does not own; those that were at work then have ended.
///
/// # Errors
/// `Conflict` where a table was never without writers for long enough.
pub(crate) async fn guard(client: &mut Client, tables: &[Table]) -> Result<()> {
    for table in tables {
        guard_table(client, table).await?;
    }
    Ok(())
}

async fn guard_table(client: &mut Client, table: &Table) -> Result<()> {
    let call = Call { operation: "guard", subject: format!("table {table}"), writes: true };
    let column = &table.columns[table.tenant].name;
    let function = quoted(&format!("guard of {column}"));
    if is_guarded(client, &call, table, &format!("guard of {column}")).await? {
        return Ok(());
    }
    let sql = format!(
        "SET LOCAL lock_timeout = {};
         {}
         CREATE OR REPLACE TRIGGER {guard} BEFORE UPDATE OR DELETE ON {table}
             FOR EACH ROW EXECUTE FUNCTION wakala_shard.{function}();
         CREATE OR REPLACE TRIGGER {guard_insert} AFTER INSERT ON {table}
             FOR EACH ROW EXECUTE FUNCTION wakala_shard.{function}();
         CREATE OR REPLACE TRIGGER {truncate} BEFORE TRUNCATE ON {table}
             FOR EACH STATEMENT EXECUTE FUNCTION wakala_shard.guard_truncate();",
        GUARD_WAIT.as_millis(),
        guard_function(column),
        guard = quoted(GUARD),
        guard_insert = quoted(GUARD_INSERT),
        truncate = quoted(GUARD_TRUNCATE),
        table = table.quoted(),
    );
    for attempt in 1.. {
        let work = client.transaction().await.map_err(|error| call.failed(error))?;
        let made = match work.batch_execute(&sql).await {
            Ok(()) => work.commit().await,
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => break,
            // Somebody writes to it, or made the same function.
            Err(error) if busy(&error) && attempt < GUARD_ATTEMPTS => {
                tokio::time::sleep(GUARD_WAIT).await;
            }
            Err(error) if busy(&error) => return Err(call.gave_up(error, attempt)),
            Err(error) => return Err(call.failed(error)),
        }
    }
    Ok(())
}

fn busy(error: &tokio_postgres::Error) -> bool {
    matches!(error.code().map(|code| code.code()), Some("55P03" | "40P01" | "XX000" | "23505"))
}

async fn is_guarded(client: &Client, call: &Call, table: &Table, function: &str) -> Result<bool> {
    let sql = "SELECT count(*) = 3 FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid
         JOIN pg_namespace AS n ON n.oid = f.pronamespace
         WHERE t.tgrelid = $1::text::regclass AND n.nspname = 'wakala_shard' AND t.tgenabled IN ('O', 'A')
             AND ((t.tgname IN ($2, $3) AND f.proname = $4) OR t.tgname = $5)";
    let name = table.quoted();
    let rows = client
        .query_typed(
            sql,
            &[
                (&name, Type::TEXT),
                (&GUARD, Type::NAME),
                (&GUARD_INSERT, Type::NAME),
                (&function, Type::NAME),
                (&GUARD_TRUNCATE, Type::NAME),
            ],
        )
        .await
        .map_err(|error| call.failed(error))?;
    rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(|error| call.failed(error))
}

/// A function for each name of a tenant column, so that it reads the column without looking for it.
fn guard_function(column: &str) -> String {
    let (name, column) = (quoted(&format!("guard of {column}")), quoted(column));
    // Of a parameter of the session that was never set, the value is null; of one that was, in an earlier transaction,
    // it is empty.
    format!(
        "CREATE OR REPLACE FUNCTION wakala_shard.{name}() RETURNS trigger LANGUAGE plpgsql AS $guard$
         DECLARE
             old_tenant text;
             new_tenant text;
         BEGIN
             IF TG_OP <> 'INSERT' THEN
                 old_tenant := OLD.{column};
             END IF;
             IF TG_OP <> 'DELETE' THEN
                 new_tenant := NEW.{column};
             END IF;
             IF old_tenant IS NOT NULL AND old_tenant IS DISTINCT FROM new_tenant AND new_tenant IS NOT NULL THEN
                 PERFORM wakala_shard.check_stays(old_tenant, new_tenant);
             END IF;
             IF old_tenant IS NOT NULL
                AND old_tenant IS DISTINCT FROM pg_catalog.current_setting('wakala.entered', true) THEN
                 PERFORM wakala_shard.check_owner(old_tenant, NULL, false);
                 PERFORM pg_catalog.set_config('wakala.entered', old_tenant, true);
             END IF;
             IF new_tenant IS NOT NULL
                AND new_tenant IS DISTINCT FROM pg_catalog.current_setting('wakala.entered', true) THEN
                 PERFORM wakala_shard.check_owner(new_tenant, NULL, false);
                 PERFORM pg_catalog.set_config('wakala.entered', new_tenant, true);
             END IF;
             IF TG_OP = 'DELETE' THEN
                 RETURN OLD;
             END IF;
             RETURN NEW;
         END
         $guard$;
         REVOKE ALL ON FUNCTION wakala_shard.{name}() FROM PUBLIC;"
    )
}
