//! Schemas that are odd, and fine.

use super::super::super::table::{ChunkType, Format};
use super::super::super::tenant::TenantType;
use super::super::{Scope, discover};
use super::rig::{Bench, catalog, lines, with};

const ODD: &str = r#"
    CREATE SCHEMA "Sales; DROP";
    CREATE SCHEMA away;
    CREATE TYPE "Sales; DROP"."mood""s" AS ENUM ('sad', 'it''s ok');
    CREATE TYPE pair AS (a integer, b text);
    CREATE TYPE own_pair AS (a integer, b "Sales; DROP"."mood""s");
    CREATE DOMAIN amount AS numeric(12, 2) CHECK (VALUE >= 0);
    CREATE DOMAIN moods AS "Sales; DROP"."mood""s"[];
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE countries (code text PRIMARY KEY, name text);

    CREATE TABLE "Sales; DROP"."a""b" (
        gone integer,
        "order" bigint GENERATED ALWAYS AS IDENTITY,
        "select ""x""" uuid NOT NULL,
        "Ünïcode; --" timestamptz(3) DEFAULT now(),
        price amount,
        twice numeric GENERATED ALWAYS AS (2 * 3) STORED,
        feeling "Sales; DROP"."mood""s",
        loose text COLLATE loose,
        at interval,
        pair pair,
        numbers integer[],
        country text REFERENCES countries,
        PRIMARY KEY ("select ""x""", "order")
    );
    ALTER TABLE "Sales; DROP"."a""b" DROP COLUMN gone;

    CREATE TABLE "{long}" (
        "select ""x""" uuid, part uuid, number smallint, feelings moods, own own_pair, type regtype,
        parent bigint,
        PRIMARY KEY (part, "select ""x""", number),
        FOREIGN KEY ("select ""x""", parent) REFERENCES "Sales; DROP"."a""b"
    );
    CREATE TABLE aaa ("select ""x""" uuid, "key" text, next text,
        PRIMARY KEY ("select ""x""", "key"), FOREIGN KEY ("select ""x""", next) REFERENCES aaa);
    CREATE TABLE logs ("select ""x""" uuid, day date, id integer, PRIMARY KEY (day, id, "select ""x"""))
        PARTITION BY RANGE (day);
    CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (id);
    CREATE TABLE logs_1_1 PARTITION OF logs_1 DEFAULT;
    CREATE TABLE full_row ("select ""x""" uuid NOT NULL, id integer PRIMARY KEY, body json);
    ALTER TABLE full_row REPLICA IDENTITY FULL;
    CREATE TABLE by_index ("select ""x""" uuid NOT NULL, id integer PRIMARY KEY, body jsonb);
    CREATE UNIQUE INDEX "by ""index" ON by_index (id, "select ""x""");
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX "by ""index";
    CREATE VIEW seen AS SELECT "select ""x""" FROM aaa;
    CREATE MATERIALIZED VIEW kept AS SELECT "select ""x""" FROM aaa;
    CREATE TABLE nobodys (id integer);
    CREATE TABLE away.t ("select ""x""" integer);
    CREATE SCHEMA wakala_shard; CREATE TABLE wakala_shard.t ("select ""x""" integer);
    CREATE TEMPORARY TABLE passing ("select ""x""" integer);
"#;

fn long() -> String {
    "ß".repeat(31) + "x"
}

fn odd() -> String {
    ODD.replace("{long}", &long())
}

fn scope() -> Scope {
    Scope { without: vec!["away".to_owned()], ..Scope::new("select \"x\"") }
}

#[tokio::test]
async fn an_odd_schema_is_read_as_it_is() {
    let client = with(&odd()).await;
    let found = discover(&client, &scope()).await.unwrap();
    assert!(found.findings.refusals.is_empty(), "{:#?}", lines(&found.findings.refusals));
    assert_eq!(found.tenant_type, TenantType::Uuid);
    let names: Vec<&str> = found.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["a\"b", "aaa", "by_index", "full_row", "logs", &long()]);

    let [sales, _, by_index, full_row, logs, long] = &found.tables[..] else { panic!("{names:?}") };
    assert_eq!(sales.quoted(), r#""Sales; DROP"."a""b""#);
    let columns: Vec<(&str, &str, bool, bool)> = sales
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.type_name.as_str(), c.identity_always, c.hash_as_text))
        .collect();
    let expected = [
        ("order", "bigint", true, false),
        ("select \"x\"", "uuid", false, false),
        ("Ünïcode; --", "timestamp(3) with time zone", false, false),
        ("price", "public.amount", false, true),
        ("feeling", r#""Sales; DROP"."mood""s""#, false, true),
        ("loose", "text", false, true),
        ("at", "interval", false, true),
        ("pair", "public.pair", false, true),
        ("numbers", "integer[]", false, true),
        ("country", "text", false, false),
    ];
    assert_eq!(columns, expected);
    assert_eq!((sales.tenant, sales.key.as_slice()), (1, [1, 0].as_slice()));
    assert_eq!(sales.chunk_by, Some((0, ChunkType::Integer)));
    assert_eq!(sales.format, Format::Binary);
    // Arrays and composites of own types, and reg types, have object ids in them.
    assert_eq!((long.format, long.key.as_slice()), (Format::Text, [1, 0, 2].as_slice()));
    assert_eq!(long.chunk_by, Some((1, ChunkType::Uuid)));
    assert_eq!(
        (by_index.key.as_slice(), by_index.chunk_by),
        ([1, 0].as_slice(), Some((1, ChunkType::Integer)))
    );
    assert_eq!(full_row.key, [0, 1], "the tenant is always in it");
    assert_eq!((logs.key.as_slice(), logs.chunk_by), ([1, 2, 0].as_slice(), Some((2, ChunkType::Integer))));

    // What was read can be used as it is.
    for table in &found.tables {
        let typed: Vec<String> =
            table.columns.iter().map(|column| format!("NULL::{}", column.type_name)).collect();
        let (name, list) = (table.quoted(), table.column_list());
        let sql = format!("SELECT {} UNION ALL SELECT {list} FROM {name}", typed.join(", "));
        client.simple_query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let sequence = &found.sequences[0];
    assert_eq!((sequence.table, sequence.column.as_str(), sequence.last_value), (0, "order", None));
    client.simple_query(&format!("SELECT nextval('{}')", sequence.quoted())).await.unwrap();
    let references: Vec<&str> = found.references.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(references, ["countries"]);
}

#[tokio::test]
async fn each_type_travels_and_is_compared_as_it_must() {
    // The type; whether it needs the text to travel; whether the text is compared.
    let cases = [
        ("integer", false, false),
        ("varchar(5)", false, false),
        ("bytea", false, false),
        ("timestamptz", false, false),
        ("small", false, false),
        ("numeric", false, true),
        ("real", false, true),
        ("double precision", false, true),
        ("interval", false, true),
        ("json", false, true),
        ("jsonb", false, true),
        ("xml", false, true),
        ("point", false, true),
        ("bit(3)", false, true),
        ("tsvector", false, true),
        ("mood", false, true),
        ("text[]", false, true),
        ("int4range", false, true),
        ("plain_pair", false, true),
        ("regclass", true, true),
        ("regtype[]", true, true),
        ("aclitem", true, true),
        ("mood[]", true, true),
        ("small[]", true, true),
        ("moods", true, true),
        ("mood_pair", true, true),
        ("plain_pair[]", true, true),
        ("pair_of_pairs", true, true),
        ("mood_range", true, true),
        ("other_table", false, true),
    ];
    let bench = Bench::new().await;
    for (number, (name, text, hash_as_text)) in cases.into_iter().enumerate() {
        let kinds =
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN small AS integer CHECK (VALUE < 5);
            CREATE TYPE plain_pair AS (a integer, b text); CREATE TYPE mood_pair AS (a integer, b mood);
            CREATE TYPE pair_of_pairs AS (a plain_pair); CREATE DOMAIN moods AS mood[];
            CREATE TYPE mood_range AS RANGE (subtype = mood); CREATE TABLE other_table (a integer)";
        let ddl = format!(
            "{kinds}; CREATE TABLE t (tenant_id integer, c {name}, id integer, PRIMARY KEY (tenant_id, id))"
        );
        let found = bench.catalog(&ddl, &Scope::new("tenant_id")).await;
        let table = &found.tables[0];
        let format = if text { Format::Text } else { Format::Binary };
        assert_eq!((table.format, table.columns[1].hash_as_text), (format, hash_as_text), "{number}: {name}");
    }
}

#[tokio::test]
async fn the_scope_says_which_schemas() {
    let client = with(&odd()).await;
    let only = Scope { schemas: vec!["Sales; DROP".to_owned()], ..scope() };
    let found = discover(&client, &only).await.unwrap();
    assert_eq!(found.tables.len(), 1);
    let all = discover(&client, &Scope::new("select \"x\"")).await.unwrap();
    assert!(!all.findings.refusals.is_empty(), "away.t is none to move");
}

#[tokio::test]
async fn the_fingerprint_is_of_what_rows_need() {
    let ddl = odd();
    let bench = Bench::new().await;
    let base = bench.catalog(&ddl, &scope()).await.fingerprint;
    assert_eq!(base.len(), 64);
    let same = [
        "",
        "SET search_path = public; CREATE TABLE other (id integer)",
        "ALTER TABLE aaa ALTER COLUMN next SET DEFAULT 'x'; CREATE INDEX ON aaa (next)",
        "CREATE TABLE logs_2 PARTITION OF logs DEFAULT; INSERT INTO countries VALUES ('x', 'y')",
        r#"ALTER TABLE aaa ADD COLUMN more integer; ALTER TABLE aaa DROP COLUMN more"#,
    ];
    for change in same {
        let found = bench.catalog(&format!("{ddl}; {change}"), &scope()).await;
        assert_eq!(found.fingerprint, base, "{change}");
        bench.0.batch_execute("SET search_path = public, \"Sales; DROP\"").await.unwrap();
        let found = discover(&bench.0, &scope()).await.unwrap();
        assert_eq!(found.fingerprint, base, "whatever the search path");
    }
    let other = [
        r#"ALTER TYPE "Sales; DROP"."mood""s" ADD VALUE 'new' BEFORE 'sad'"#,
        "ALTER DOMAIN amount ADD CHECK (VALUE < 5)",
        "ALTER TYPE pair ADD ATTRIBUTE c integer",
        r#"ALTER TABLE "Sales; DROP"."a""b" ALTER COLUMN "Ünïcode; --" TYPE timestamptz(4)"#,
        r#"ALTER TABLE "Sales; DROP"."a""b" ALTER COLUMN twice DROP EXPRESSION"#,
        r#"ALTER TABLE "Sales; DROP"."a""b" ALTER COLUMN "order" SET GENERATED BY DEFAULT"#,
        r#"ALTER TABLE aaa ALTER COLUMN next TYPE text COLLATE "C""#,
        "ALTER TABLE full_row ALTER COLUMN body SET NOT NULL",
        "ALTER TABLE full_row REPLICA IDENTITY DEFAULT",
        "ALTER TABLE full_row ADD COLUMN more integer",
        "ALTER TABLE full_row RENAME COLUMN body TO content",
        r#"CREATE TABLE new ("select ""x""" uuid)"#,
        r#"ALTER TABLE aaa DROP COLUMN next; ALTER TABLE aaa ADD COLUMN extra text; ALTER TABLE aaa ADD COLUMN next text"#,
    ];
    for change in other {
        let found = bench.catalog(&format!("{ddl}; {change}"), &scope()).await;
        assert_ne!(found.fingerprint, base, "{change}");
    }
}

#[tokio::test]
async fn most_tables_decide_the_type_of_the_tenant() {
    let found = catalog(
        "CREATE TABLE a (tenant_id bigint PRIMARY KEY); CREATE TABLE b (tenant_id text PRIMARY KEY);
         CREATE TABLE c (tenant_id varchar(9) PRIMARY KEY)",
    )
    .await;
    assert_eq!(found.tenant_type, TenantType::Text);
    assert_eq!(found.findings.refusals.len(), 1, "{:#?}", found.findings.refusals);
}
