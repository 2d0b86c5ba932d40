//! What is refused or warned of, each by a schema that has it.

use super::super::{Scope, discover};
use super::rig::{Bench, NOBODY, SUPERUSER, catalog, database, heed, lines, says, server, with};

/// With this the table is as it should be.
const GOOD: &str = "CREATE TABLE good (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id));";

#[tokio::test]
async fn each_refusal_names_the_object_and_the_fix() {
    let cases: &[(&str, &[&str])] = &[
        (
            "CREATE TABLE t (tenant_id integer, id bigint PRIMARY KEY)",
            &["\"t\".\"tenant_id\": it may be null", "ALTER COLUMN \"tenant_id\" SET NOT NULL"],
        ),
        (
            "CREATE TABLE t (tenant_id integer NOT NULL, id bigint PRIMARY KEY)",
            &[
                "\"public\".\"t\": its replica identity (\"id\") is without \"tenant_id\"",
                "UPDATE and DELETE fail for every tenant",
                "CREATE UNIQUE INDEX CONCURRENTLY \"t_identity\" ON \"public\".\"t\" (\"tenant_id\", \"id\")",
                "REPLICA IDENTITY USING INDEX \"t_identity\"",
            ],
        ),
        (
            "CREATE TABLE t (tenant_id integer NOT NULL, id bigint PRIMARY KEY);
             CREATE UNIQUE INDEX spare ON t (id, tenant_id)",
            &["; ALTER TABLE \"public\".\"t\" REPLICA IDENTITY USING INDEX \"spare\""],
        ),
        (
            "CREATE TABLE t (tenant_id integer NOT NULL, id bigint NOT NULL)",
            &["it has no primary key", "ADD PRIMARY KEY (\"tenant_id\", …)"],
        ),
        (
            "CREATE TABLE t (tenant_id integer NOT NULL, id bigint); ALTER TABLE t REPLICA IDENTITY FULL",
            &["it has no primary key, so that no row can be told from its copy"],
        ),
        (
            "CREATE TABLE t (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id));
             ALTER TABLE t REPLICA IDENTITY NOTHING",
            &["its replica identity is NOTHING", "REPLICA IDENTITY USING INDEX \"t_pkey\""],
        ),
        (
            "CREATE TABLE t (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id) DEFERRABLE)",
            &["its primary key is deferrable"],
        ),
        (
            "CREATE TABLE t (tenant_id integer NOT NULL, id bigint NOT NULL);
             CREATE UNIQUE INDEX i ON t (tenant_id, id); ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
            &["the index of its replica identity is gone"],
        ),
        (
            "CREATE UNLOGGED TABLE t (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id))",
            &["unlogged", "ALTER TABLE \"public\".\"t\" SET LOGGED"],
        ),
        (
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
             CREATE FOREIGN TABLE t (tenant_id integer NOT NULL) SERVER s",
            &["foreign table"],
        ),
        (
            "CREATE TABLE t (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id)); CREATE TABLE u () INHERITS (t)",
            &["\"t\": it inherits or is inherited from"],
        ),
        (
            "CREATE TABLE t (tenant_id numeric, id bigint, PRIMARY KEY (tenant_id, id))",
            &["its type numeric cannot be that of a tenant", "TYPE integer"],
        ),
        (
            "CREATE DOMAIN tenant AS integer; CREATE TABLE t (tenant_id tenant, id bigint, PRIMARY KEY (tenant_id, id))",
            &["its type public.tenant cannot be that of a tenant"],
        ),
        (
            "CREATE TABLE t (tenant_id bigint, id bigint, PRIMARY KEY (tenant_id, id));
             CREATE TABLE u (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id))",
            &["\"t\".\"tenant_id\": its type is bigint, while that of other tables is integer", "TYPE integer"],
        ),
        (
            "CREATE TABLE t (tenant_id integer GENERATED ALWAYS AS (1) STORED, id bigint, PRIMARY KEY (tenant_id, id))",
            &["it is a generated column"],
        ),
        (
            "CREATE TABLE t (tenant_id integer, id bigint, day integer GENERATED ALWAYS AS (7) STORED,
                PRIMARY KEY (tenant_id, id, day))",
            &["a generated column is in its key"],
        ),
        (
            "SELECT lo_create(0); CREATE DOMAIN lo AS oid;
             CREATE TABLE t (tenant_id integer, id bigint, file lo, PRIMARY KEY (tenant_id, id))",
            &["\"t\".\"file\": it is of type public.lo in a database with large objects", "bytea"],
        ),
        (
            "CREATE TABLE part (good integer, id bigint PRIMARY KEY, FOREIGN KEY (good, id) REFERENCES good)",
            &["\"part\": it refers to \"public\".\"good\"", "its rows would stay behind", "the column \"tenant_id\""],
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER audit BEFORE INSERT ON good FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE good ENABLE ALWAYS TRIGGER audit",
            &["\"good\" \"audit\": this trigger is ENABLE ALWAYS", "ALTER TABLE \"public\".\"good\" ENABLE TRIGGER \"audit\""],
        ),
        (
            "CREATE RULE quiet AS ON DELETE TO good DO ALSO NOTHING; ALTER TABLE good ENABLE REPLICA RULE quiet",
            &["\"good\" \"quiet\": this rule is ENABLE REPLICA", "ENABLE RULE \"quiet\""],
        ),
        (
            "CREATE TABLE t (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);
             ALTER TABLE t1 REPLICA IDENTITY FULL",
            &["\"t1\": the replica identity of this partition is not that of \"public\".\"t\""],
        ),
        (
            "CREATE TABLE t (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
             CREATE UNLOGGED TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
            &["\"t1\": this partition of \"public\".\"t\" is unlogged"],
        ),
    ];
    let bench = Bench::new().await;
    let scope = Scope::new("tenant_id");
    assert!(bench.catalog(GOOD, &scope).await.findings.refusals.is_empty());
    let mut healed = 0;
    for (ddl, words) in cases {
        let found = bench.catalog(&format!("{GOOD} {ddl}"), &scope).await.findings;
        let named = found.refusals.iter().find(|finding| says(std::slice::from_ref(finding), words));
        let Some(finding) = named else { panic!("{ddl}\nis refused by {:#?}", lines(&found.refusals)) };
        // Where the remedy is SQL, it is one.
        let sql = ["ALTER", "CREATE"].iter().any(|word| finding.remedy.starts_with(word));
        if sql && !finding.remedy.contains('…') && !finding.remedy.contains(", ") {
            heed(&bench.0, &finding.remedy).await;
            let after = discover(&bench.0, &scope).await.unwrap().findings;
            assert!(!after.refusals.contains(finding), "{}", finding.remedy);
            healed += 1;
        }
    }
    assert!(healed >= 8, "{healed} remedies were tried");
}

#[tokio::test]
async fn a_collation_of_ones_own_is_refused_for_the_tenant() {
    let found = catalog(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE t (tenant_id text COLLATE loose, id bigint, PRIMARY KEY (tenant_id, id))",
    )
    .await
    .findings;
    assert!(says(&found.refusals, &["its collation public.loose", "COLLATE \"C\""]), "{found:#?}");
}

#[tokio::test]
async fn all_refusals_come_at_once_and_nothing_is_made() {
    let client = with(
        "CREATE UNLOGGED TABLE t (tenant_id integer, id bigint);
         CREATE TABLE u (tenant_id numeric NOT NULL, id bigint PRIMARY KEY)",
    )
    .await;
    let found = discover(&client, &Scope::new("tenant_id")).await.unwrap();
    let error = found.findings.accepted().unwrap_err().to_string();
    for words in ["unlogged", "may be null", "no primary key", "numeric", "without \"tenant_id\""] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let none = discover(&client, &Scope::new("Tenant_id")).await.unwrap();
    assert!(says(&none.findings.refusals, &["\"Tenant_id\": no table of any schema"]), "{none:?}");
    let left = client.query_one("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()", &[]).await;
    assert!(left.unwrap().get::<_, i64>(0) <= 2, "the transaction has ended");
}

#[tokio::test]
async fn warnings_tell_what_a_person_should_know() {
    let server = server().await;
    let database = database(server).await;
    let ddl = "
        CREATE TABLE parent (tenant_id integer, id bigint UNIQUE, PRIMARY KEY (tenant_id, id));
        CREATE TABLE child (tenant_id integer, id bigserial, parent bigint REFERENCES parent (id),
            PRIMARY KEY (tenant_id, id), EXCLUDE USING btree (parent WITH =));
        CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION watch()";
    server.execute(&database, ddl).await.unwrap();
    let open = "BEGIN; INSERT INTO parent VALUES (1, 1); PREPARE TRANSACTION 'it''s open'";
    server.execute(&database, open).await.unwrap();
    let busy = server.connect(&database, SUPERUSER).await.unwrap();
    busy.batch_execute("BEGIN; LOCK TABLE child IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let client = server.connect(&database, SUPERUSER).await.unwrap();
    let found = discover(&client, &Scope::new("tenant_id")).await.unwrap();
    let cases: &[&[&str]] = &[
        &["\"child\" \"child_parent_fkey\"", "without \"tenant_id\"", "another tenant's"],
        &["\"parent\" \"parent_id_key\"", "unique index is without \"tenant_id\"", "collide"],
        &["\"child\" \"child_parent_excl\"", "exclusion constraint"],
        &["\"child_id_seq\"", "feeds \"public\".\"child\".\"id\""],
        &["\"watcher\"", "event trigger"],
        &["\"parent\"", "prepared transaction \"it's open\"", "ROLLBACK PREPARED 'it''s open'"],
        &["\"child\"", "ShareRowExclusiveLock"],
        &["2 tables", "TRUNCATE"],
    ];
    for words in cases {
        let warnings = &found.findings.warnings;
        assert!(says(warnings, words), "{words:?}\nnot in {:#?}", lines(warnings));
    }
    assert!(found.findings.refusals.is_empty(), "{:#?}", found.findings.refusals);
    let names: Vec<&str> = found.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["parent", "child"], "parents first");
    server.execute(&database, "ROLLBACK PREPARED 'it''s open'").await.unwrap();
}

#[tokio::test]
async fn writers_that_no_guard_sees_are_refused() {
    let client = with(&format!(
        "{GOOD} CREATE SUBSCRIPTION theirs CONNECTION 'dbname=x' PUBLICATION x WITH (connect = false, slot_name = NONE);
         SET allow_system_table_mods = on;
         INSERT INTO pg_subscription_rel SELECT oid, 'good'::regclass, 'r', NULL FROM pg_subscription
            WHERE subname = 'theirs';
         CREATE ROLE loader; DO $$ BEGIN EXECUTE format(
            'ALTER ROLE loader IN DATABASE %I SET session_replication_role = replica', current_database()); END $$"
    ))
    .await;
    let found = discover(&client, &Scope::new("tenant_id")).await.unwrap().findings;
    client.batch_execute("DROP SUBSCRIPTION theirs; DROP ROLE loader").await.unwrap();
    let words: [&[&str]; 2] = [
        &["\"good\": the subscription \"theirs\" writes it past all guards"],
        &["role loader: its sessions begin with session_replication_role = replica"],
    ];
    for words in words {
        assert!(says(&found.refusals, words), "{words:?}\n{:#?}", lines(&found.refusals));
    }
    let found = discover(&client, &Scope::new("tenant_id")).await.unwrap().findings;
    assert!(found.refusals.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_role_without_rights_reads_what_it_lacks() {
    let server = server().await;
    let database = database(server).await;
    let ddl = format!(
        "{GOOD} CREATE SCHEMA hidden; CREATE SEQUENCE hidden.s;
         CREATE TABLE hidden.t (tenant_id integer, id bigint DEFAULT nextval('hidden.s'), PRIMARY KEY (tenant_id, id));
         ALTER TABLE good ENABLE ROW LEVEL SECURITY; GRANT SELECT ON good TO {NOBODY}"
    );
    server.execute(&database, &ddl).await.unwrap();
    let client = server.connect(&database, NOBODY).await.unwrap();
    let found = discover(&client, &Scope::new("tenant_id")).await.unwrap();
    let cases: &[&[&str]] = &[
        &["\"hidden\".\"t\"", "GRANT USAGE ON SCHEMA \"hidden\" TO \"nobody\""],
        &["\"hidden\".\"t\"", "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE \"hidden\".\"t\" TO \"nobody\""],
        &["\"good\"", "; GRANT INSERT, UPDATE, DELETE ON TABLE \"public\".\"good\""],
        &["\"good\"", "GRANT \"postgres\" TO \"nobody\""],
        &["\"good\"", "row security applies", "ALTER ROLE \"nobody\" BYPASSRLS"],
    ];
    for words in cases {
        let refusals = &found.findings.refusals;
        assert!(says(refusals, words), "{words:?}\nnot in {:#?}", lines(refusals));
    }
}
