//! What only rows tell, and how much they are.

use std::time::Duration;

use super::super::super::tenant::{TenantType, Tenants};
use super::super::sizes::sizes;
use super::super::{Preflight, Question, Room, Scope, preflight};
use super::rig::{Bench, lines, says};

const BASE: &str = "
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE country (code text, part integer, name text, PRIMARY KEY (code, part));
    CREATE TABLE parent (tenant_id integer, id bigint UNIQUE, mail text COLLATE loose, nick text COLLATE \"C\",
        UNIQUE (mail, nick), PRIMARY KEY (tenant_id, id));
    CREATE TABLE child (tenant_id integer, id uuid, parent bigint REFERENCES parent (id), country text, part integer,
        FOREIGN KEY (country, part) REFERENCES country, PRIMARY KEY (tenant_id, id));
    INSERT INTO country VALUES ('ke', 1, 'Kenya'), ('tz', 1, 'Tanzania');";

async fn ask(benches: &[Bench; 2], source: &str, destination: &str, tenants: &[&str]) -> Preflight {
    benches[0].make(&format!("{BASE} {source}")).await;
    benches[1].make(&format!("{BASE} {destination}")).await;
    let tenants: Vec<String> = tenants.iter().map(ToString::to_string).collect();
    let question = Question {
        scope: &Scope::new("tenant_id"),
        tenants: &tenants,
        room: Room::default(),
        limit: Duration::from_secs(60),
        stream: true,
    };
    preflight(&benches[0].0, &benches[1].0, &question).await.unwrap()
}

#[tokio::test]
async fn rows_that_would_stop_a_move_are_found() {
    let family = "INSERT INTO parent VALUES (1, 1), (2, 2), (3, 3);
        INSERT INTO child VALUES (1, '00000000-0000-0000-0000-000000000001', 2)";
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "",
            "INSERT INTO parent VALUES (1, 5)",
            &["destination: \"public\".\"parent\": it has rows of the tenants already, such as tenant 1"],
        ),
        (
            family,
            "",
            &[
                "source: \"public\".\"child\" \"child_parent_fkey\"",
                "one of tenant 1 that refers to tenant 2",
                "move these tenants together",
            ],
        ),
        (
            "INSERT INTO parent VALUES (1, 7)",
            "INSERT INTO parent VALUES (9, 7)",
            &["\"parent\" \"parent_id_key\": values that must be unique are taken", "such as \"id\" 7"],
        ),
        (
            "INSERT INTO parent SELECT 1, n, 'M' || n, 'n' FROM generate_series(1, 12000) AS n",
            "INSERT INTO parent VALUES (9, 99999, 'm11999', 'n')",
            &["\"parent_mail_nick_key\"", "such as \"mail\" M11999, \"nick\" n"],
        ),
        (
            "INSERT INTO child VALUES (1, '00000000-0000-0000-0000-000000000001', NULL, 'ke', 1)",
            "UPDATE country SET name = 'x' WHERE code = 'ke'",
            &[
                "\"country\": rows to which the tenants refer are missing or different",
                "such as \"code\" ke, \"part\" 1",
            ],
        ),
        (
            "INSERT INTO child VALUES (1, '00000000-0000-0000-0000-000000000001', NULL, 'tz', 1)",
            "DELETE FROM country WHERE code = 'tz'",
            &["such as \"code\" tz, \"part\" 1"],
        ),
    ];
    let benches = [Bench::new().await, Bench::new().await];
    for (source, destination, words) in cases {
        let found = ask(&benches, source, destination, &["1"]).await.findings;
        assert!(says(&found.refusals, words), "{source} | {destination}\n{:#?}", lines(&found.refusals));
        assert_eq!(found.refusals.len(), 1, "{:#?}", lines(&found.refusals));
    }
}

#[tokio::test]
async fn rows_that_do_not_matter_are_passed_over() {
    let benches = [Bench::new().await, Bench::new().await];
    let source = "
        INSERT INTO parent VALUES (1, 1, NULL, 'a'), (2, 2, 'm', 'a'), (3, 3, NULL, NULL), (4, 4, NULL, NULL);
        INSERT INTO child VALUES
            (1, '00000000-0000-0000-0000-000000000001', 2, 'ke', 1),
            (2, '00000000-0000-0000-0000-000000000001', 1, NULL, NULL),
            (3, '00000000-0000-0000-0000-000000000001', 4, NULL, NULL);";
    let destination = "INSERT INTO parent VALUES (7, 3, NULL, 'a'), (8, 8, 'm', 'b');
        UPDATE country SET name = 'x' WHERE code = 'tz'; INSERT INTO country VALUES ('ug', 1, 'Uganda')";
    let found = ask(&benches, source, destination, &["1", "2"]).await;
    assert!(found.findings.refusals.is_empty(), "{:#?}", lines(&found.findings.refusals));
    assert_eq!(found.source.fingerprint, found.destination.fingerprint);
    let both = says(&found.findings.warnings, &["both sides: 2 tables: TRUNCATE"]);
    assert!(both, "{:#?}", lines(&found.findings.warnings));
    let rows: Vec<u64> = found.sizes.iter().map(|size| size.rows).collect();
    assert_eq!(rows, [1, 1, 1, 1]);
    assert!(found.sizes.iter().all(|size| (20..200).contains(&size.bytes)), "{:?}", found.sizes);
}

#[tokio::test]
async fn what_takes_too_long_is_a_warning() {
    let benches = [Bench::new().await, Bench::new().await];
    let rows = "INSERT INTO parent SELECT 1, n, 'M' || n, 'n' FROM generate_series(1, 30000) AS n";
    for (bench, rows) in benches.iter().zip([rows, ""]) {
        bench.make(&format!("{BASE} {rows}")).await;
    }
    let question = Question {
        scope: &Scope::new("tenant_id"),
        tenants: &["1".to_owned()],
        room: Room::default(),
        limit: Duration::ZERO,
        stream: true,
    };
    let found = preflight(&benches[0].0, &benches[1].0, &question).await.unwrap().findings;
    assert!(
        says(&found.warnings, &["\"parent_mail_nick_key\"", "the time that was given did not suffice"]),
        "{found:#?}"
    );
    assert!(found.refusals.is_empty());
    let wrong = Question { tenants: &["one".to_owned()], ..question };
    let error = preflight(&benches[0].0, &benches[1].0, &wrong).await.unwrap_err();
    assert!(error.to_string().contains("the tenant column is of type integer"), "{error}");
}

#[tokio::test]
async fn rows_are_counted_and_weighed() {
    let bench = Bench::new().await;
    let ddl = "CREATE TABLE t (tenant_id text, id bigint, body text, PRIMARY KEY (tenant_id, id));
        ALTER TABLE t ALTER COLUMN body SET STORAGE EXTERNAL;
        INSERT INTO t SELECT 'it''s', n, 'x' FROM generate_series(1, 1000) AS n;
        INSERT INTO t SELECT 'big', n, repeat('x', 50000) FROM generate_series(1, 20) AS n; ANALYZE t";
    let found = bench.catalog(ddl, &Scope::new("tenant_id")).await;
    let ids = ["big", "none", "it's"].map(str::to_owned);
    let tenants = Tenants::new(TenantType::Text, &ids).unwrap();
    let sizes = sizes(&bench.0, &found.tables, &tenants).await.unwrap();
    let rows: Vec<u64> = sizes.iter().map(|size| size.rows).collect();
    assert_eq!(rows, [20, 0, 1000]);
    assert!((1_000_000..1_100_000).contains(&sizes[0].bytes), "{sizes:?}");
    assert!(sizes[1].bytes == 0 && (30_000..80_000).contains(&sizes[2].bytes), "{sizes:?}");
}

#[tokio::test]
async fn a_reference_table_that_may_not_be_read_is_a_refusal() {
    let benches = [Bench::new().await, Bench::new().await];
    benches[0].0.batch_execute("CREATE ROLE half").await.unwrap();
    for bench in &benches {
        let rows = "INSERT INTO child VALUES (9, '00000000-0000-0000-0000-000000000001', NULL, 'ke', 1)";
        bench.make(&format!("{BASE} {rows}")).await;
        bench.0.batch_execute("SET search_path = public").await.unwrap();
        // Owner of what belongs to tenants, but not of what they refer to.
        let own = "GRANT USAGE ON SCHEMA public TO half; ALTER TABLE parent OWNER TO half;
            ALTER TABLE child OWNER TO half; SET ROLE half";
        bench.0.batch_execute(own).await.unwrap();
    }
    let question = Question {
        scope: &Scope::new("tenant_id"),
        tenants: &["1".to_owned()],
        room: Room::default(),
        limit: Duration::from_secs(60),
        stream: true,
    };
    let found = preflight(&benches[0].0, &benches[1].0, &question).await.unwrap().findings;
    assert!(
        says(&found.refusals, &["\"country\"", "the role may not read the table", "GRANT SELECT"]),
        "{found:#?}"
    );
    for bench in &benches {
        bench.0.batch_execute("RESET ROLE; DROP OWNED BY half").await.unwrap();
    }
}
