//! What a server can, and what it allows the mover's role.

use std::time::{Duration, SystemTime};

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;
use wakala_core::{ErrorKind, Result};

use super::finding::Findings;
use super::read::{rows, run};
use crate::config::quoted;

/// The oldest that the mover knows.
const OLDEST: i32 = 140_000;
/// From here on a transaction that is open on the source is worth a warning: making a slot waits for its end.
const LONG: Duration = Duration::from_secs(10);

/// One database and its server, at one moment. All of it can be read by every role, but for the age of other roles'
/// transactions, which needs `pg_read_all_stats` and is `None` without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerFacts {
    /// `150018` is 15.18.
    pub(crate) version_num: i32,
    /// Of the whole server, the same on its standbys and on its clones. In decimal.
    pub(crate) system_identifier: String,
    /// Goes up with each promotion. Of a server that is no standby, the one it writes.
    pub(crate) timeline: i32,
    pub(crate) started: SystemTime,
    pub(crate) database: String,
    pub(crate) in_recovery: bool,
    pub(crate) default_read_only: bool,
    pub(crate) wal_level: String,
    pub(crate) max_replication_slots: i64,
    pub(crate) used_replication_slots: i64,
    pub(crate) max_wal_senders: i64,
    pub(crate) used_wal_senders: i64,
    /// `None` where a slot may keep any amount.
    pub(crate) max_slot_wal_keep_bytes: Option<u64>,
    /// Where the log is written (replayed, on a standby).
    pub(crate) wal_lsn: PgLsn,
    pub(crate) encoding: String,
    /// Provider and locale of the database.
    pub(crate) collation: String,
    pub(crate) oldest_transaction: Option<Duration>,
    pub(crate) role: String,
    pub(crate) superuser: bool,
    pub(crate) replication: bool,
    pub(crate) bypass_row_security: bool,
    /// May create publications and schemas.
    pub(crate) may_create: bool,
    /// May `SET session_replication_role`.
    pub(crate) may_set_replica: bool,
}

/// How much is to move, and into what. SQL does not tell how much disk is free: the caller may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) move_bytes: u64,
    /// Where the source writes its log.
    pub(crate) source_free_bytes: Option<u64>,
    pub(crate) destination_free_bytes: Option<u64>,
}

impl ServerFacts {
    /// Changes nothing; the client must not be in a transaction.
    ///
    /// # Errors
    /// Those of the connection.
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        // The names of columns differ by version, so the whole row of the database is asked.
        let sql = "SELECT current_setting('server_version_num')::int4,
                (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
                CASE WHEN pg_catalog.pg_is_in_recovery()
                    THEN (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())
                    ELSE ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int4
                END,
                pg_catalog.pg_postmaster_start_time(), current_database()::text, pg_catalog.pg_is_in_recovery(),
                current_setting('default_transaction_read_only')::bool, current_setting('wal_level'),
                current_setting('max_replication_slots')::int8,
                (SELECT count(*) FROM pg_catalog.pg_replication_slots),
                current_setting('max_wal_senders')::int8,
                (SELECT count(*) FROM pg_catalog.pg_stat_replication),
                (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'),
                CASE WHEN pg_catalog.pg_is_in_recovery()
                    THEN coalesce(pg_catalog.pg_last_wal_replay_lsn(), '0/0') ELSE pg_catalog.pg_current_wal_lsn() END,
                pg_catalog.getdatabaseencoding()::text,
                (SELECT concat_ws(' ', d.j ->> 'datlocprovider', d.j ->> 'datcollate', d.j ->> 'datctype',
                        coalesce(d.j ->> 'datlocale', d.j ->> 'daticulocale'))
                    FROM (SELECT to_jsonb(b) AS j FROM pg_catalog.pg_database b
                        WHERE b.datname = current_database()) AS d),
                (SELECT max(extract(epoch FROM clock_timestamp() - a.since))::float8 FROM (
                    SELECT xact_start AS since FROM pg_catalog.pg_stat_activity
                        WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
                    UNION ALL SELECT prepared FROM pg_catalog.pg_prepared_xacts) AS a),
                r.rolname::text, r.rolsuper, r.rolreplication, r.rolbypassrls,
                pg_catalog.has_database_privilege(current_database(), 'CREATE')
            FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";
        let found = rows(client, "read_server", sql, &[]).await?;
        let [row] = found.as_slice() else {
            let error = wakala_core::Error::new(
                ErrorKind::Unexpected,
                "read_server",
                "the server does not know the role that is logged in; was it dropped?",
            );
            return Err(error);
        };
        let keep_megabytes: i64 = row.get(12);
        let oldest: Option<f64> = row.get(16);
        Ok(Self {
            version_num: row.get(0),
            system_identifier: row.get(1),
            timeline: row.get(2),
            started: row.get(3),
            database: row.get(4),
            in_recovery: row.get(5),
            default_read_only: row.get(6),
            wal_level: row.get(7),
            max_replication_slots: row.get(8),
            used_replication_slots: row.get(9),
            max_wal_senders: row.get(10),
            used_wal_senders: row.get(11),
            max_slot_wal_keep_bytes: u64::try_from(keep_megabytes).ok().map(|megabytes| megabytes << 20),
            wal_lsn: row.get(13),
            encoding: row.get(14),
            collation: row.get(15),
            oldest_transaction: oldest.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            role: row.get(17),
            superuser: row.get(18),
            replication: row.get(19),
            bypass_row_security: row.get(20),
            may_create: row.get(21),
            may_set_replica: may_set_replica(client).await?,
        })
    }

    /// `15` of 15.18.
    pub(crate) fn major(&self) -> i32 {
        self.version_num / 10_000
    }
}

/// Tried rather than asked: how it is granted differs by version and by host.
async fn may_set_replica(client: &Client) -> Result<bool> {
    run(client, "read_server", "BEGIN READ ONLY").await?;
    let tried = run(client, "read_server", "SET LOCAL session_replication_role = replica").await;
    run(client, "read_server", "ROLLBACK").await?;
    match tried {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Denied => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the two servers say against a move between them.
///
/// Both need the same: the way back makes a slot on the destination, and writes on the source.
pub(crate) fn refusals_of(
    source: &ServerFacts,
    destination: &ServerFacts,
    room: &Room,
    stream: bool,
) -> Findings {
    let mut findings = Findings::default();
    for (side, server) in [("source", source), ("destination", destination)] {
        let mut of_side = Findings::default();
        state(server, &mut of_side);
        if stream {
            streaming(server, &mut of_side);
        }
        rights(server, &mut of_side);
        findings.extend(of_side.on(side));
    }
    between(source, destination, &mut findings);
    space(source, room, &mut findings);
    if let Some(age) = source.oldest_transaction.filter(|age| *age >= LONG) {
        findings.warn(
            "source: transactions",
            format!("one is open for {} s, and making the slot waits for its end", age.as_secs()),
            "let it end, or end it: SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start",
        );
    }
    findings
}

fn state(server: &ServerFacts, findings: &mut Findings) {
    if server.version_num < OLDEST {
        findings.refuse(
            "version",
            format!("PostgreSQL {} is too old", server.major()),
            "upgrade it to 14 or later",
        );
    }
    if server.in_recovery {
        findings.refuse(
            "recovery",
            "the server is a standby, which takes neither guards nor rows",
            "give the address of the primary",
        );
    }
    if server.default_read_only {
        findings.refuse(
            "default_transaction_read_only",
            "transactions are read-only unless they say otherwise",
            format!("ALTER ROLE {} SET default_transaction_read_only = off", quoted(&server.role)),
        );
    }
}

fn streaming(server: &ServerFacts, findings: &mut Findings) {
    let role = quoted(&server.role);
    if !server.replication && !server.superuser {
        findings.refuse(
            format!("role {role}"),
            "it may not read a stream of changes",
            format!("ALTER ROLE {role} REPLICATION (GRANT rds_replication TO {role} on RDS)"),
        );
    }
    if server.wal_level != "logical" {
        findings.refuse(
            "wal_level",
            format!("it is {}, so that there is no stream of changes", server.wal_level),
            "ALTER SYSTEM SET wal_level = logical and restart the server (rds.logical_replication on RDS); the frozen \
             copy does without, at the price of a pause as long as the copy",
        );
    }
    if server.used_replication_slots >= server.max_replication_slots {
        findings.refuse(
            "max_replication_slots",
            format!("all {} slots are in use", server.max_replication_slots),
            "drop those that nobody reads (SELECT slot_name, active FROM pg_replication_slots), or raise it and restart",
        );
    }
    if server.used_wal_senders >= server.max_wal_senders {
        findings.refuse(
            "max_wal_senders",
            format!("all {} senders are in use", server.max_wal_senders),
            "raise it and restart the server",
        );
    }
}

fn rights(server: &ServerFacts, findings: &mut Findings) {
    let role = quoted(&server.role);
    let object = format!("role {role}");
    if !server.may_set_replica {
        let remedy = if server.version_num >= 150_000 {
            format!("GRANT SET ON PARAMETER session_replication_role TO {role}")
        } else {
            format!("ALTER ROLE {role} SUPERUSER, or upgrade to 15, where this can be granted by itself")
        };
        findings.refuse(
            &object,
            "it may not set session_replication_role, so that triggers and foreign keys would judge applied rows again",
            remedy,
        );
    }
    if !server.may_create {
        let database = quoted(&server.database);
        findings.refuse(
            &object,
            format!("it may not create publications and schemas in database {database}"),
            format!("GRANT CREATE ON DATABASE {database} TO {role}"),
        );
    }
}

fn between(source: &ServerFacts, destination: &ServerFacts, findings: &mut Findings) {
    // A clone has the same identifier, but not the same start.
    if (&source.system_identifier, source.started, &source.database)
        == (&destination.system_identifier, destination.started, &destination.database)
    {
        findings.refuse(
            format!("database {}", quoted(&source.database)),
            "source and destination are the same database of the same server",
            "correct the address of one of them",
        );
    }
    if source.encoding != destination.encoding {
        findings.refuse(
            "encoding",
            format!("the source has {}, the destination {}", source.encoding, destination.encoding),
            "make the destination's database with the ENCODING of the source",
        );
    }
    if source.collation != destination.collation {
        findings.warn(
            "collation",
            format!(
                "the source has {}, the destination {}: text may be ordered differently there",
                source.collation, destination.collation
            ),
            "make the destination's database with the locale of the source where the order matters",
        );
    }
    if destination.major() < source.major() {
        findings.warn(
            "version",
            format!(
                "the destination has PostgreSQL {}, which is older than the source's {}",
                destination.major(),
                source.major()
            ),
            "upgrade the destination first, or see that the schema uses nothing newer",
        );
    }
}

fn space(source: &ServerFacts, room: &Room, findings: &mut Findings) {
    if let Some(keep) = source.max_slot_wal_keep_bytes.filter(|keep| *keep < room.move_bytes) {
        findings.warn(
            "source: max_slot_wal_keep_size",
            format!(
                "a slot keeps at most {} MB while {} MB are copied; past that the copy begins again",
                keep >> 20,
                room.move_bytes >> 20
            ),
            "raise it for the time of the move, or move fewer tenants at a time",
        );
    }
    // Rows and their indexes on the destination; log on the source.
    let sides = [
        ("source", room.source_free_bytes, room.move_bytes),
        ("destination", room.destination_free_bytes, room.move_bytes.saturating_mul(2)),
    ];
    for (side, free, needed) in sides {
        let object = format!("{side}: disk");
        match free {
            Some(free) if free < needed => findings.refuse(
                object,
                format!("{} MB are free, {} MB are needed", free >> 20, needed >> 20),
                "make room, or move fewer tenants at a time",
            ),
            Some(_) => {}
            None => findings.warn(
                object,
                format!(
                    "how much is free was not given, and SQL does not tell; {} MB are needed",
                    needed >> 20
                ),
                "see that there is room, or give the free bytes",
            ),
        }
    }
}
