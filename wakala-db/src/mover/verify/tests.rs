//! On real servers: what must be found is found, and named.

use super::difference::{Difference, differences};
use super::digest::{Range, digest};
use super::{Digest, digests, first_difference};
use crate::mover::copy::Scope;
use crate::mover::copy::tests::rig::{DESTINATION, SOURCE, Shard, describe, server, shard, tenants};
use crate::mover::table::{Format, Table};
use crate::mover::tenant::Tenants;

const ITEMS: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'fine');
    CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE item (tenant_id integer NOT NULL, id bigint NOT NULL, a text, b text COLLATE any_case, c numeric,
        d double precision, e jsonb, f json, g mood, h interval, i numeric[], j timestamptz, k bytea, l varchar(9),
        m regclass, n boolean, o date, p uuid, q point);
    INSERT INTO item SELECT 1 + n % 2, n, 'a' || n, 'b', 1.5, 0, '{\"x\": 1.5}', '{\"x\":1}', 'sad', '1 month', '{1.5}',
        '2020-01-01 00:00:00+00', '\\x00', 'l', 'item', true, '2020-01-01', md5(n::text)::uuid, '(0,0)'
        FROM generate_series(1, 40000) AS n;
    CREATE INDEX ON item (tenant_id, id);";

struct Sides {
    source: Shard,
    destination: Shard,
    tables: [Table; 1],
    tenants: Tenants,
}

const ALL: Range = Range { table: 0, tenant: 0, lower: None, upper: None };

impl Sides {
    async fn new() -> Self {
        let source = shard(server().await, SOURCE, ITEMS).await;
        // Other object ids.
        let other = format!("CREATE TABLE first (); CREATE TYPE other AS ENUM ('x'); {ITEMS}");
        let destination = shard(server().await, DESTINATION, &other).await;
        let table = describe(&source, "item", Format::Text).await;
        Self { source, destination, tables: [table], tenants: tenants(&["1", "2"]) }
    }

    fn scope(&self) -> Scope<'_> {
        Scope { tables: &self.tables, tenants: &self.tenants }
    }

    async fn digests(&self, range: Range) -> [Digest; 2] {
        [
            digest(&self.source.reader().await, self.scope(), range).await.unwrap(),
            digest(&self.destination.reader().await, self.scope(), range).await.unwrap(),
        ]
    }

    async fn differences(&self) -> Vec<Difference> {
        let (source, destination) = (self.source.reader().await, self.destination.reader().await);
        differences(&source, &destination, self.scope(), ALL).await.unwrap()
    }
}

#[tokio::test]
async fn whatever_differs_is_found() {
    use Difference::{Changed, Extra, Missing};
    let sides = Sides::new().await;
    let [here, there] = sides.digests(ALL).await;
    assert_eq!((here.rows, here), (20_000, there));
    assert_eq!(sides.differences().await, []);
    let row = |id: i64| format!("(1,{id})");
    let set = |what: &str| format!("UPDATE item SET {what} WHERE tenant_id = 1 AND id = 30000");
    let changed = |what: &str| (set(what), vec![Changed(row(30_000))]);
    let cases = [
        ("DELETE FROM item WHERE id = 2".to_owned(), vec![Missing(row(2))]),
        ("DELETE FROM item WHERE id = 40000".to_owned(), vec![Missing(row(40_000))]),
        ("INSERT INTO item SELECT * FROM item WHERE id = 30000".to_owned(), vec![Extra(row(30_000))]),
        // Two of them cancel out each other in the exclusive or; three have the parity of one.
        (
            "INSERT INTO item SELECT i.* FROM item i, generate_series(1, 2) WHERE id = 30000".to_owned(),
            vec![Extra(row(30_000)), Extra(row(30_000))],
        ),
        (
            "INSERT INTO item SELECT * FROM item WHERE id = 30000; DELETE FROM item WHERE id = 30002"
                .to_owned(),
            vec![Extra(row(30_000)), Missing(row(30_002))],
        ),
        (
            "UPDATE item SET a = CASE id WHEN 4 THEN 'a8' ELSE 'a4' END WHERE id IN (4, 8)".to_owned(),
            vec![Changed(row(4)), Changed(row(8))],
        ),
        changed("a = NULL"),
        changed("a = ''"),
        changed("a = a || ' '"),
        changed("b = 'B'"),
        changed("c = 1.50"),
        changed("d = '-0'"),
        changed("e = '{\"x\": 1.50}'"),
        changed("f = '{\"x\": 1}'"),
        changed("g = 'fine'"),
        changed("h = '30 days'"),
        changed("i = '{1.50}'"),
        changed("i = '[0:0]={1.5}'"),
        changed("j = j + '1 microsecond'"),
        changed("k = ''"),
        changed("l = 'l '"),
        changed("m = 'pg_class'"),
        changed("n = NULL"),
        changed("o = o + 1"),
        changed("p = gen_random_uuid()"),
        changed("q = '(0,1e-9)'"),
        changed("a = NULL, l = a"),
    ];
    for (sql, expected) in cases {
        // The change itself is a transaction that does not commit: the digest sees it from within.
        let (source, destination) = (sides.source.reader().await, sides.destination.reader().await);
        destination
            .batch_execute(&format!(
                "BEGIN; SET LOCAL search_path = public; {sql}; SET LOCAL search_path = pg_catalog"
            ))
            .await
            .unwrap();
        let here = digest(&source, sides.scope(), ALL).await.unwrap();
        let there = digest(&destination, sides.scope(), ALL).await.unwrap();
        assert_ne!(here, there, "{sql}");
        assert_eq!(differences(&source, &destination, sides.scope(), ALL).await.unwrap(), expected, "{sql}");
        // Nobody else's rows matter.
        let other = Range { tenant: 1, ..ALL };
        assert_eq!(
            digest(&source, sides.scope(), other).await.unwrap(),
            digest(&destination, sides.scope(), other).await.unwrap(),
        );
        destination.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn sessions_and_order_of_rows_make_no_difference_and_ranges_add_up() {
    use crate::mover::copy::ChunkKey::Integer;
    let sides = Sides::new().await;
    let database = &sides.destination.database;
    sides
        .destination
        .execute(&format!(
            "ALTER DATABASE {database} SET TimeZone = 'Asia/Tokyo'; ALTER DATABASE {database} SET DateStyle = 'German';
             ALTER DATABASE {database} SET extra_float_digits = -15; ALTER DATABASE {database} SET bytea_output = 'escape';
             ALTER DATABASE {database} SET IntervalStyle = 'iso_8601'; ALTER DATABASE {database} SET search_path = public;
             CREATE TABLE again AS SELECT * FROM item ORDER BY id DESC; TRUNCATE item; INSERT INTO item TABLE again;
             UPDATE item SET d = 0.1 + 0.2"
        ))
        .await;
    sides.source.execute("UPDATE item SET d = 0.1 + 0.2").await;
    let [here, there] = sides.digests(ALL).await;
    assert_eq!(here, there);
    let low = sides.digests(Range { upper: Some(Integer(777)), ..ALL }).await;
    let high = sides.digests(Range { lower: Some(Integer(777)), ..ALL }).await;
    assert_eq!((low[0], high[0]), (low[1], high[1]));
    assert_eq!(
        (low[0].rows + high[0].rows, low[0].xor ^ high[0].xor, low[0].sum + high[0].sum),
        (here.rows, here.xor, here.sum)
    );
    // All tenants at once come to the same, also one without rows, and in the order asked for.
    let three = tenants(&["1", "9", "2"]);
    let scope = Scope { tenants: &three, ..sides.scope() };
    let client = sides.source.reader().await;
    let second = digest(&client, sides.scope(), Range { tenant: 1, ..ALL }).await.unwrap();
    assert_eq!(digests(&client, scope, 0, &[2, 1, 0]).await.unwrap(), [second, Digest::default(), here]);
    assert_eq!(digests(&client, scope, 0, &[]).await.unwrap(), []);
    let named =
        first_difference(&client, &sides.destination.reader().await, sides.scope(), 0, 0).await.unwrap();
    assert_eq!(named, "");
    // At most ten are named.
    sides.destination.execute("DELETE FROM item WHERE tenant_id = 1").await;
    assert_eq!(sides.differences().await.len(), 10);
    let named =
        first_difference(&client, &sides.destination.reader().await, sides.scope(), 0, 0).await.unwrap();
    assert!(named.starts_with("(1,") && named.ends_with("is only on the source"), "{named}");
}

#[tokio::test]
async fn the_widest_table_is_hashed() {
    let columns: String = (0..1590).map(|n| format!(", c{n} integer")).collect();
    let sql = format!(
        "CREATE TABLE wide (tenant_id integer NOT NULL, id bigint NOT NULL{columns});
        INSERT INTO wide (tenant_id, id, c1589) VALUES (1, 1, 5), (1, 2, 6)"
    );
    let shard = shard(server().await, SOURCE, &sql).await;
    let (tables, tenants) = ([describe(&shard, "wide", Format::Binary).await], tenants(&["1"]));
    let scope = Scope { tables: &tables, tenants: &tenants };
    let before = digest(&shard.reader().await, scope, ALL).await.unwrap();
    shard.execute("UPDATE wide SET c1589 = 7 WHERE id = 2").await;
    let after = digest(&shard.reader().await, scope, ALL).await.unwrap();
    assert_eq!((before.rows, after.rows), (2, 2));
    assert!(before.xor != after.xor && before.sum != after.sum);
}
