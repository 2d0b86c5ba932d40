//! Two sides that are the same, and two that are not.

use super::super::compare::compare;
use super::super::{Catalog, Findings, Scope};
use super::rig::{Bench, lines, says};

const BASE: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN amount AS numeric CHECK (VALUE > 0);
    CREATE TABLE country (code text PRIMARY KEY, name text);
    CREATE TABLE t (tenant_id integer, id bigint, mood mood, price amount DEFAULT 1, twice bigint
        GENERATED ALWAYS AS (id * 2) STORED, note text, country text REFERENCES country, PRIMARY KEY (tenant_id, id));
    CREATE TABLE p (tenant_id integer, id bigint, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);";

async fn both(benches: &[Bench; 2], source: &str, destination: &str) -> (Catalog, Catalog, Findings) {
    let scope = Scope::new("tenant_id");
    let ours = benches[0].catalog(&format!("{BASE} {source}"), &scope).await;
    let theirs = benches[1].catalog(&format!("{BASE} {destination}"), &scope).await;
    let mut findings = Findings::default();
    compare(&ours.facts, &theirs.facts, &mut findings);
    (ours, theirs, findings)
}

#[tokio::test]
async fn each_difference_is_named_and_shows_in_the_fingerprint() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "CREATE TABLE u (tenant_id integer PRIMARY KEY)",
            "",
            &["\"public\".\"u\": this table is only on the source"],
        ),
        ("", "CREATE TABLE u (tenant_id integer PRIMARY KEY)", &["this table is only on the destination"]),
        ("ALTER TABLE t ADD COLUMN a integer", "", &["\"t\".\"a\": this column is only on the source"]),
        ("", "ALTER TABLE t ADD COLUMN a integer", &["\"t\".\"a\": this column is only on the destination"]),
        (
            "ALTER TABLE t ADD COLUMN a integer, ADD COLUMN b integer",
            "ALTER TABLE t ADD COLUMN b integer, ADD COLUMN a integer",
            &[
                "its columns are in the order",
                "\"a\", \"b\" on the source",
                "\"b\", \"a\" on the destination",
            ],
        ),
        (
            "",
            "ALTER TABLE t ALTER COLUMN note TYPE varchar(7)",
            &["its type is text on the source, character varying(7) on the destination", "TYPE text"],
        ),
        (
            "ALTER TABLE t ALTER COLUMN note TYPE text COLLATE \"C\"",
            "",
            &["its collation is pg_catalog.\"C\" on the source", "COLLATE pg_catalog.\"C\""],
        ),
        ("ALTER TABLE t ALTER COLUMN note SET NOT NULL", "", &["it is NOT NULL only on the source"]),
        ("", "ALTER TABLE t ALTER COLUMN note SET NOT NULL", &["it is NOT NULL only on the destination"]),
        (
            "ALTER TABLE t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY",
            "",
            &["it is GENERATED ALWAYS AS IDENTITY on the source, plain on the destination"],
        ),
        (
            "",
            "ALTER TABLE t DROP COLUMN twice, DROP COLUMN note, DROP COLUMN country;
             ALTER TABLE t ADD COLUMN twice bigint GENERATED ALWAYS AS (id * 3) STORED, ADD COLUMN note text,
                ADD COLUMN country text REFERENCES country",
            &["it is generated as (id * 2) on the source, (id * 3) on the destination"],
        ),
        (
            "ALTER TABLE t REPLICA IDENTITY FULL",
            "",
            &["its replica identity is Full on the source, Key([\"tenant_id\", \"id\"]) on the destination"],
        ),
        (
            "ALTER TYPE mood ADD VALUE 'it''s'",
            "",
            &["type public.mood: its labels", "on the destination ALTER TYPE public.mood ADD VALUE 'it''s'"],
        ),
        ("ALTER DOMAIN amount SET NOT NULL", "", &["type public.amount: this domain is", "NOT NULL"]),
    ];
    let benches = [Bench::new().await, Bench::new().await];
    let (ours, theirs, same) = both(&benches, "", "").await;
    assert_eq!((ours.fingerprint, same), (theirs.fingerprint, Findings::default()));
    for (source, destination, words) in cases {
        let (ours, theirs, found) = both(&benches, source, destination).await;
        assert!(says(&found.refusals, words), "{source} | {destination}\n{:#?}", lines(&found.refusals));
        assert_ne!(ours.fingerprint, theirs.fingerprint, "{source} | {destination}");
    }
}

#[tokio::test]
async fn what_may_differ_is_a_warning() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "",
            "ALTER TABLE t ALTER COLUMN price SET DEFAULT 2",
            &["\"t\".\"price\": its default is", "1", "2"],
        ),
        (
            "CREATE INDEX ON t (note)",
            "CREATE UNIQUE INDEX one ON t (tenant_id, note)",
            &["only the destination has CREATE UNIQUE INDEX one", "may refuse rows"],
        ),
        ("", "ALTER TABLE t ADD CHECK (id > 0)", &["only the destination has CHECK ((id > 0))"]),
        (
            "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)",
            "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (20) TO (30)",
            &["\"p\": the destination has no partitions FOR VALUES FROM ('10') TO ('20')"],
        ),
        ("", "ALTER TABLE t DROP CONSTRAINT t_country_fkey", &["\"country\": on the source, foreign keys"]),
    ];
    let benches = [Bench::new().await, Bench::new().await];
    for (source, destination, words) in cases {
        let (ours, theirs, found) = both(&benches, source, destination).await;
        assert!(says(&found.warnings, words), "{source} | {destination}\n{:#?}", lines(&found.warnings));
        assert!(found.refusals.is_empty(), "{:#?}", found.refusals);
        assert_eq!(ours.fingerprint, theirs.fingerprint, "{source} | {destination}");
    }
    // The other way round nothing is forbidden that was allowed.
    let (_, _, found) = both(&benches, "CREATE UNIQUE INDEX ON t (tenant_id, note)", "").await;
    assert_eq!(found, Findings::default());
    let (_, _, found) = both(&benches, "", "ALTER TABLE country ADD COLUMN more text").await;
    assert!(
        says(&found.refusals, &["\"country\".\"more\": this column is only on the destination"]),
        "{found:#?}"
    );
}
