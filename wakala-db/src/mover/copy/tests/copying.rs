//! What is copied, and what is not.

use std::collections::BTreeSet;

use super::rig::{
    Counter, DESTINATION, SOURCE, Shard, chunks, describe, holder, rows, server, shard, tenants,
};
use crate::mover::copy::{Chunk, ChunkKey, Chunks, Copied, Copier, Scope, forget, load, plan, save, wipe};
use crate::mover::table::{Format, Table};

const ITEMS: &str = "CREATE TABLE item (tenant_id integer NOT NULL, id bigint NOT NULL, v text,
    PRIMARY KEY (tenant_id, id))";

/// 300 rows of tenants 1, 2 and 3, keys from -100 on.
const ROWS: &str = "INSERT INTO item SELECT 1 + n % 3, n - 100, 'v' || n FROM generate_series(0, 299) AS n";

async fn copy(
    from: &Shard,
    to: &Shard,
    scope: Scope<'_>,
    chunks: &[Chunk],
) -> wakala_core::Result<Vec<(i32, Copied)>> {
    let (source, destination, holder) = (from.reader().await, to.writer().await, holder());
    Copier { holder: &holder, scope }.copy(&[(&source, &destination)], chunks, &Counter::default()).await
}

async fn pair(sql: &str) -> (Shard, Shard) {
    (shard(server().await, SOURCE, sql).await, shard(server().await, DESTINATION, sql).await)
}

/// Every type with a row of ordinary values, one of extremes, and one of nulls. Own types come last.
const PLAIN: &str = "
    CREATE TABLE kinds (tenant_id integer NOT NULL, id uuid NOT NULL,
        a smallint, b integer, c bigint, d real, e double precision, f numeric, g numeric(10, 3), h money, i boolean,
        j char(5), k varchar(9), l text, m bytea, n date, o time, p timetz, q timestamp, r timestamptz, s interval,
        t json, u jsonb, v xml, w inet, x cidr, y macaddr, z macaddr8, aa bit(3), ab varbit, ac point, ad box, ae path,
        af polygon, ag circle, ah lseg, ai line, aj tsvector, ak tsquery, al int4range, am tstzrange, an nummultirange,
        ao integer[], ap text[], aq numeric[][], ar name, at pg_lsn, au \"char\", av jsonb[],
        gen integer GENERATED ALWAYS AS (b + 1) STORED, aw bigint GENERATED ALWAYS AS IDENTITY,
        \"Odd \"\"name\" text, PRIMARY KEY (tenant_id, id));";
const VALUES: &str = "
    INSERT INTO kinds OVERRIDING SYSTEM VALUE VALUES
    (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', -32768, 2147483646, 9223372036854775807, '-0', 'NaN', '1.500', 7, '12.34',
        true, 'ab', 'Grüße', E'tab\\t, line\\n, back\\\\slash, \\\\.', '\\x0001ff5c', '0044-03-15 BC', '24:00',
        '04:05:06.789-08', 'infinity', '1901-12-13 20:45:52.5+00', '-1 year 2 mons -3 days 04:05:06.789',
        '{\"a\": 1, \"a\":  2}', '{\"b\": 1.50, \"a\": null}', '<x>&amp;</x>', '10.1.2.3/8', '10.0.0.0/8',
        '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '101', '10101', '(1,-0)', '(1,2),(3,4)', '[(0,0),(1,1)]',
        '((0,0),(1,1),(2,0))', '<(1,2),3>', '[(0,0),(1,1)]', '{1,2,3}', 'a:1A b', 'a & !b', '[1,5)', '(,infinity]',
        '{[1.5,2.5),[7,8)}', '{{1,NULL},{3,4}}', ARRAY['', 'NULL', NULL, '{\"x\"}'], '{{1.10,2},{3,4}}', 'name',
        '16/B374D848', 'x', ARRAY['{\"a\": 1}'::jsonb], DEFAULT, -7, ''),
    (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', 0, -1, 0, 1e-40, '-Infinity', 'NaN', -0.001, '-0.01', false, '', '',
        repeat('long ', 5000), decode(repeat('ab', 9000), 'hex'), 'infinity', '00:00', '00:00+14', '-infinity',
        '294276-12-31 23:59:59.999999+00', '0', '[]', '[]', '', '::1', '::/0', '00:00:00:00:00:00',
        '00:00:00:00:00:00:00:00', '000', '', '(NaN,Infinity)', '(0,0),(0,0)', '((0,0),(1,1))', '((0,0))', '<(0,0),0>',
        '[(0,0),(0,0)]', '{1,0,0}', '', 'b', 'empty', 'empty', '{}', '[-1:0]={1,2}', '{}', '{}', '', '0/0', '', '{}',
        DEFAULT, 0, NULL);
    INSERT INTO kinds (tenant_id, id) VALUES (1, '00000000-0000-0000-0000-000000000000'), (2, 'ffffffff-ffff-ffff-ffff-ffffffffffff');";
const OWN: &str = "
    CREATE TYPE \"Mood\" AS ENUM ('sad', 'it''s \"fine\"');
    CREATE TYPE pair AS (a integer, b text);
    CREATE DOMAIN positive AS integer CHECK (value > 0);
    ALTER TABLE kinds ADD ba \"Mood\", ADD bb \"Mood\"[], ADD bc pair, ADD bd pair[], ADD be positive, ADD bf regclass;";
const OWN_VALUES: &str = "UPDATE kinds SET ba = 'it''s \"fine\"', bb = '{sad,NULL}', bc = (1, 'a,b'),
    bd = ARRAY[(1, NULL)::pair], be = 1, bf = 'kinds' WHERE tenant_id = 1 AND id > '00000000-0000-0000-0000-000000000000'";

#[tokio::test]
async fn values_of_every_type_arrive_as_they_were_in_both_formats() {
    for format in [Format::Binary, Format::Text] {
        let own = if format == Format::Text { OWN } else { "" };
        let source = shard(server().await, SOURCE, &format!("{PLAIN} {own} {VALUES}")).await;
        // The object ids differ from database to database.
        let other = format!("CREATE TYPE first AS ENUM ('x'); CREATE TABLE other (a first); {PLAIN} {own}");
        let destination = shard(server().await, DESTINATION, &other).await;
        if format == Format::Text {
            source.execute(OWN_VALUES).await;
        }
        let (tables, tenants) = ([describe(&source, "kinds", format).await], tenants(&["1"]));
        let scope = Scope { tables: &tables, tenants: &tenants };
        let chunks = chunks(scope, &[]);
        save(&destination.writer().await, &holder(), scope, &chunks).await.unwrap();
        let copies = copy(&source, &destination, scope, &chunks).await.unwrap();
        assert_eq!(copies[0].1.rows, 3);
        let there = rows(&source, "kinds", "1").await;
        assert!(there.lines().count() > 3, "{there}");
        assert_eq!(rows(&destination, "kinds", "1").await, there, "{format:?}");
        assert_eq!(rows(&destination, "kinds", "2").await, "");
    }
}

async fn items(source: &Shard) -> [Table; 1] {
    [describe(source, "item", Format::Binary).await]
}

#[tokio::test]
async fn ranges_meet_without_gap_or_overlap_and_others_are_left_alone() {
    let (source, destination) = pair(ITEMS).await;
    source.execute(ROWS).await;
    destination.execute("INSERT INTO item VALUES (3, 5, 'its own')").await;
    let (tables, tenants) = (items(&source).await, tenants(&["1", "2"]));
    let scope = Scope { tables: &tables, tenants: &tenants };
    let planned = chunks(scope, &[-40, 0, 3, 101]);
    save(&destination.writer().await, &holder(), scope, &planned).await.unwrap();
    assert_eq!(load(&destination.client().await, "m", scope).await.unwrap(), planned);
    // Twice at a time, each chunk once.
    let (sources, destinations) = (
        [source.reader().await, source.reader().await],
        [destination.writer().await, destination.writer().await],
    );
    let streams: Vec<_> = sources.iter().zip(&destinations).collect();
    let (counter, holder) = (Counter::default(), holder());
    let mut large = planned.clone();
    large.iter_mut().for_each(|chunk| chunk.estimate = u64::MAX);
    let copies = Copier { holder: &holder, scope }.copy(&streams, &large, &counter).await.unwrap();
    assert_eq!(copies.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>().len(), planned.len());
    assert_eq!(copies.iter().map(|(_, copied)| copied.rows).sum::<u64>(), 200);
    for tenant in ["1", "2"] {
        assert_eq!(rows(&destination, "item", tenant).await, rows(&source, "item", tenant).await);
    }
    assert_eq!(rows(&destination, "item", "3").await, "(3,5,\"its own\")");
    // The registry and the watcher know the same.
    let mut loaded = load(&destination.client().await, "m", scope).await.unwrap();
    let told = counter.copies.lock().unwrap().clone();
    for chunk in &mut loaded {
        let (_, copied) = told.iter().find(|(id, _)| *id == chunk.id).unwrap();
        assert_eq!(chunk.copied.as_ref(), Some(copied));
    }
    Chunks::new(tenants.clone(), loaded).unwrap();
}

#[tokio::test]
async fn a_chunk_that_is_copied_again_replaces_what_is_there() {
    let (source, destination) = pair(ITEMS).await;
    source.execute(ROWS).await;
    let (tables, tenants) = (items(&source).await, tenants(&["1"]));
    let scope = Scope { tables: &tables, tenants: &tenants };
    let planned = chunks(scope, &[0]);
    let writer = destination.writer().await;
    save(&writer, &holder(), scope, &planned).await.unwrap();
    // What was never copied is not deleted: what is there is not the move's, and so in its way.
    destination.execute("INSERT INTO item VALUES (1, -100, 'foreign')").await;
    let error = copy(&source, &destination, scope, &planned).await.unwrap_err();
    assert_eq!(error.kind(), wakala_core::ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("tenant 1, table public.item before 0"), "{error}");
    assert_eq!(rows(&destination, "item", "1").await, "(1,-100,foreign)");
    destination.execute("DELETE FROM item").await;

    copy(&source, &destination, scope, &planned).await.unwrap();
    destination
        .execute("UPDATE item SET v = 'applied' WHERE id < 50; INSERT INTO item VALUES (1, 7777, 'new')")
        .await;
    writer.batch_execute(&forget(&holder(), 0)).await.unwrap();
    let loaded = load(&writer, "m", scope).await.unwrap();
    assert_eq!(loaded.iter().map(|chunk| chunk.copied.is_some()).collect::<Vec<_>>(), [false, true]);
    copy(&source, &destination, scope, &loaded[..1]).await.unwrap();
    let (whole, there) = (rows(&source, "item", "1").await, rows(&destination, "item", "1").await);
    let differ: Vec<&str> = there.lines().filter(|line| !whole.contains(line)).collect();
    assert_eq!(differ.len(), 17, "only the other chunk keeps what was done to it: {differ:?}");
    assert!(writer.batch_execute(&forget(&holder(), 9)).await.is_err());
}

#[tokio::test]
async fn a_plan_covers_every_table_and_cuts_the_large_ones() {
    let sql = "
        CREATE TABLE item (tenant_id integer NOT NULL, id bigint NOT NULL, v text, PRIMARY KEY (tenant_id, id));
        CREATE TABLE leaf (tenant_id integer NOT NULL, id uuid NOT NULL, v text, PRIMARY KEY (tenant_id, id))
            PARTITION BY HASH (id);
        CREATE TABLE leaf_0 PARTITION OF leaf FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE leaf_1 PARTITION OF leaf FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE note (tenant_id integer NOT NULL, id text NOT NULL, PRIMARY KEY (tenant_id, id));
        CREATE TABLE bare (tenant_id integer NOT NULL, id smallint NOT NULL, PRIMARY KEY (tenant_id, id));";
    let (source, destination) = pair(sql).await;
    source
        .execute(
            "INSERT INTO item SELECT 1 + (n % 10 = 0)::integer, n - 9000, repeat('x', 200) FROM generate_series(1, 20000) n;
             INSERT INTO leaf SELECT 1 + n % 3, md5(n::text)::uuid, repeat('x', 100) FROM generate_series(1, 9000) n;
             INSERT INTO note SELECT 1 + n % 3, n FROM generate_series(1, 100) n;
             INSERT INTO bare VALUES (2, -5)",
        )
        .await;
    let mut tables = Vec::new();
    for name in ["item", "leaf", "note", "bare"] {
        tables.push(describe(&source, name, Format::Binary).await);
    }
    let tenants = tenants(&["1", "2"]);
    let scope = Scope { tables: &tables, tenants: &tenants };
    for analyzed in [false, true] {
        if analyzed {
            source.execute("ANALYZE").await;
        }
        let planned = plan(&source.reader().await, scope, 200_000).await.unwrap();
        Chunks::new(tenants.clone(), planned.clone()).unwrap();
        let of = |table: usize, tenant: usize| {
            planned
                .iter()
                .filter(move |chunk| (chunk.table, chunk.tenant) == (table, tenant))
                .collect::<Vec<_>>()
        };
        // About 18 000 rows of 240 bytes and 2 000 of them; 3 000 of 140 bytes.
        let about = |chunks: usize, low: usize, high: usize| {
            assert!((low..=high).contains(&chunks), "{chunks}, analyzed: {analyzed}")
        };
        about(of(0, 0).len(), if analyzed { 14 } else { 5 }, 40);
        about(of(0, 1).len(), if analyzed { 2 } else { 1 }, 5);
        about(of(1, 0).len(), if analyzed { 2 } else { 1 }, 6);
        assert_eq!((of(2, 0).len(), of(3, 0).len(), of(3, 1).len()), (1, 1, 1));
        let empty: Vec<_> = planned.iter().filter(|chunk| chunk.copied.is_some()).collect();
        assert_eq!(empty, of(3, 0));
        if !analyzed {
            continue;
        }
        let missing: Vec<Chunk> = planned.iter().filter(|chunk| chunk.copied.is_none()).cloned().collect();
        save(&destination.writer().await, &holder(), scope, &planned).await.unwrap();
        let copies = copy(&source, &destination, scope, &missing).await.unwrap();
        for chunk in &missing {
            let rows = copies.iter().find(|(id, _)| *id == chunk.id).unwrap().1.rows;
            let even = of(chunk.table, chunk.tenant).len() == 1 || rows < 3000;
            assert!(rows > 0 && even, "{chunk:?} has {rows} rows");
        }
        for (table, tenant) in
            [("item", "1"), ("item", "2"), ("leaf", "1"), ("leaf", "2"), ("note", "1"), ("bare", "2")]
        {
            assert_eq!(rows(&destination, table, tenant).await, rows(&source, table, tenant).await);
        }
        assert!(
            save(&destination.writer().await, &holder(), scope, &planned).await.is_err(),
            "there is a plan"
        );
    }
}

#[tokio::test]
async fn a_wipe_takes_all_rows_of_the_tenants_and_no_other() {
    let sql = "
        CREATE TABLE item (tenant_id integer NOT NULL, id bigint NOT NULL, PRIMARY KEY (tenant_id, id));
        CREATE TABLE note (tenant_id integer NOT NULL, id text NOT NULL, item bigint, PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, item) REFERENCES item) PARTITION BY HASH (id);
        CREATE TABLE note_0 PARTITION OF note FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE note_1 PARTITION OF note FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''fired''; END';
        INSERT INTO item SELECT 1 + n % 2, n - 50 FROM generate_series(0, 24000) n;
        INSERT INTO note SELECT 1 + n % 2, n, n - 50 FROM generate_series(0, 24000) n;
        CREATE TRIGGER refuse BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION refuse();";
    let shard = shard(server().await, SOURCE, sql).await;
    let (tables, tenants) = (
        [describe(&shard, "item", Format::Binary).await, describe(&shard, "note", Format::Binary).await],
        tenants(&["1"]),
    );
    let scope = Scope { tables: &tables, tenants: &tenants };
    let kept = (rows(&shard, "item", "2").await, rows(&shard, "note", "2").await);
    let told = std::sync::Mutex::new(Vec::new());
    let writer = shard.writer().await;
    let gone = wipe(&writer, &holder(), scope, &|table, _, gone| told.lock().unwrap().push((table, gone)))
        .await
        .unwrap();
    assert_eq!(gone, 2 * 12_001);
    let told = told.into_inner().unwrap();
    assert!(told.iter().all(|(_, gone)| *gone <= 5001) && told.first().unwrap().0 == 1, "{told:?}");
    assert_eq!(told.iter().map(|(_, gone)| gone).sum::<u64>(), gone);
    assert_eq!(
        (rows(&shard, "item", "1").await, rows(&shard, "note", "1").await),
        (String::new(), String::new())
    );
    assert_eq!((rows(&shard, "item", "2").await, rows(&shard, "note", "2").await), kept);
    assert_eq!(wipe(&writer, &holder(), scope, &|_, _, _| {}).await.unwrap(), 0);
}

#[test]
fn bounds_that_leave_a_gap_are_refused() {
    let integer = |key| Some(ChunkKey::Integer(key));
    let chunk = |id, lower, upper| Chunk { id, table: 0, tenant: 0, lower, upper, estimate: 0, copied: None };
    let fits = |chunks: &[Chunk]| Chunks::new(tenants(&["1"]), chunks.to_vec()).is_ok();
    assert!(fits(&[chunk(1, integer(5), None), chunk(0, None, integer(5))]));
    for bad in [
        vec![chunk(0, None, integer(5))],
        vec![chunk(0, integer(5), None)],
        vec![chunk(0, None, integer(5)), chunk(1, integer(6), None)],
        vec![chunk(0, None, integer(5)), chunk(1, integer(4), None)],
        vec![chunk(0, None, None), chunk(1, None, None)],
        vec![chunk(0, None, integer(5)), chunk(0, integer(5), None)],
        vec![chunk(0, None, None), chunk(1, integer(5), None)],
    ] {
        assert!(!fits(&bad), "{bad:?}");
    }
}
