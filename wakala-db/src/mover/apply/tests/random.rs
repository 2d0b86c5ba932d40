//! Random changes, made by SQL on one side and applied in random batches on the other: the same in the end.

use tokio_postgres::types::PgLsn;

use super::rig::{Dice, Rig, Spec, TestTable, column, quoted, table};
use crate::mover::change::{Op, Row, Value};
use crate::mover::table::Format;

const TENANT: Spec = column("tenant", "integer", "7");
const SMALL_ID: Spec = column("id", "bigint", "(random() * 40)::bigint");
const WORD: &str = r#"translate(substr(md5(random()::text), 1, 12), '0123', E'\t\n\r\\') || E'\\N,{}"'''"#;

const fn large(name: &'static str) -> Spec {
    Spec {
        out_of_line: true,
        // Not every value is long enough to be stored out of line.
        ..column(name, "text", "repeat(md5(random()::text), CASE WHEN random() < 0.7 THEN 100 ELSE 1 END)")
    }
}

const fn always(name: &'static str) -> Spec {
    Spec { identity_always: true, ..column(name, "bigint", "DEFAULT") }
}

/// All but those whose binary form has object ids.
fn common_types() -> Vec<Spec> {
    vec![
        TENANT,
        column("id", "uuid", "lpad(((random() * 40)::integer)::text, 32, '0')::uuid"),
        column("a", "smallint", "(random() * 100 - 50)::smallint"),
        column("b", "integer", "(random() * 2000000000 - 1000000000)::integer"),
        column("c", "real", "(ARRAY['NaN', '-0', 'Infinity', '1e-30'])[1 + (random() * 3)::integer]::real"),
        column("d", "double precision", "random() * 1e100"),
        column("e", "numeric(12,4)", "(random() * 1000)::numeric(12,4)"),
        column(
            "f",
            "numeric",
            "(ARRAY['NaN', '1.000', '1e100', '-0.00001'])[1 + (random() * 3)::integer]::numeric",
        ),
        column("g", "boolean", "random() < 0.5"),
        column("h", "text", WORD),
        column("i", "character varying(20)", "repeat('ä', (random() * 20)::integer)"),
        column("j", "character(5)", "repeat('b', (random() * 5)::integer)"),
        column("k", "bytea", "decode(md5(random()::text) || '5c00090a', 'hex')"),
        column("l", "date", "date '2000-01-01' + (random() * 9000)::integer"),
        column("m", "time", "time '00:00' + random() * interval '1 day'"),
        column("n", "timetz", "timetz '00:00+02' + random() * interval '1 day'"),
        column("o", "timestamp", "timestamp '1999-12-31' + random() * interval '9000 days'"),
        column(
            "p",
            "timestamptz",
            "CASE WHEN random() < 0.2 THEN 'infinity' ELSE now() + random() * interval '9000 days' END",
        ),
        column("q", "interval", "random() * interval '-1 year 2 days 3 seconds'"),
        column("r", "json", r#"json_build_object('a "\', random(), 'b', E'\n\t')"#),
        column("s", "jsonb", r#"jsonb_build_object('a "\', random(), 'b', E'\n\t')"#),
        column("t", "integer[]", "ARRAY[[1, NULL], [3, (random() * 100)::integer]]"),
        column("u", "text[]", "ARRAY['{', NULL, 'NULL', '', E'a\"\\\\b', random()::text]"),
        column("v", "shop.mood", "(enum_range(NULL::shop.mood))[1 + (random() * 2)::integer]"),
        column("w", "inet", "inet '10.0.0.0/8' + (random() * 1000)::bigint"),
        column("x", "point", "point(random(), random())"),
        column("y", "int4range", "int4range(1, 2 + (random() * 50)::integer)"),
        column(
            "z",
            "int4multirange",
            "int4multirange(int4range(1, 2 + (random() * 50)::integer), int4range(90, 91))",
        ),
        column("aa", "tsvector", "to_tsvector('simple', random()::text || ' it''s a dog')"),
        column("ab", "bit(3)", "B'101'"),
        column("ac", "bit varying", "B'10101'"),
        column("ad", "money", "(random() * 1000)::numeric::money"),
        column("ae", "shop.percent", "(random() * 100)::integer"),
        column("af", "\"char\"", "'x'"),
        column("ag", "name", "substr(md5(random()::text), 1, 6)"),
        column("ah", "pg_lsn", "'16/B374D848'"),
        column("ai", "box", "box(point(random(), 0), point(2, 2))"),
        column("aj", "public.citext", "(random() * 100)::integer::text"),
        column("ak", "macaddr", "'08:00:2b:01:02:03'"),
        column("al", "xml", "xmlelement(name x, random()::text)"),
        column("am", "xid8", "pg_current_xact_id()"),
    ]
}

fn tables() -> Vec<TestTable> {
    let with_code = [
        TENANT,
        SMALL_ID,
        column("code", "integer", "(random() * 60)::integer"),
        large("body"),
        large("more"),
        column("n", "integer", "(random() * 1000)::integer"),
    ];
    let unique = ", UNIQUE (tenant, code), g integer GENERATED ALWAYS AS (n * 2) STORED";
    let mut all_types = common_types();
    all_types.extend([
        column("own_array", "shop.mood[]", "ARRAY['ok', NULL]::shop.mood[]"),
        column("own_row", "shop.pair", r#"ROW((random() * 9)::integer, 'a "b",)(\')::shop.pair"#),
    ]);
    vec![
        table("with code", &with_code, &[0, 1], unique, Format::Binary),
        table("with_code_text", &with_code, &[1, 0], unique, Format::Text),
        table("types_binary", &common_types(), &[0, 1], "", Format::Binary),
        table("types_text", &all_types, &[0, 1], "", Format::Text),
        table("identity_key", &[TENANT, always("id"), large("body")], &[0, 1], "", Format::Binary),
        table(
            "identity_aside",
            &[TENANT, SMALL_ID, always("turn"), large("body"), column("n", "integer", "1")],
            &[0, 1],
            "",
            Format::Binary,
        ),
        table("only_key", &[TENANT, column("id", "text", WORD)], &[0, 1], "", Format::Binary),
        table(
            "Odd \"name\"",
            &[
                TENANT,
                column("select", "public.citext", "translate((random() * 30)::integer::text, '123', 'aAb')"),
                column("W w", "text", WORD),
            ],
            &[1, 0],
            "",
            Format::Binary,
        ),
    ]
}

struct Maker<'a> {
    rig: &'a Rig,
    dice: Dice,
    made: Vec<(usize, Op)>,
}

impl Maker<'_> {
    fn table(&self, place: usize) -> &TestTable {
        &self.rig.tables[place]
    }

    fn random(&mut self, spec: &Spec, nullable: bool) -> String {
        if nullable && self.dice.one_in(6) { "NULL".to_owned() } else { spec.random.to_owned() }
    }

    async fn insert(&mut self, place: usize) {
        let table = self.table(place).clone();
        let mut values = Vec::new();
        for (at, spec) in table.columns.iter().enumerate() {
            let nullable = !table.table.key.contains(&at) && !spec.identity_always;
            values.push(self.random(spec, nullable));
        }
        let sql = format!(
            "INSERT INTO {} ({}) VALUES ({})",
            table.table.quoted(),
            table.table.column_list(),
            values.join(", ")
        );
        if let Some(row) = self.rig.change(place, &sql).await {
            self.made.push((place, Op::Insert(row)));
        }
    }

    /// Some row, with the condition that finds it.
    async fn pick(&mut self, place: usize, and: &str) -> Option<(String, Row)> {
        let table = self.table(place);
        let sql = format!(
            "SELECT ctid::text, {} FROM {} WHERE true {and} ORDER BY md5(ctid::text || {}) LIMIT 1",
            table.list(),
            table.table.quoted(),
            self.dice.below(1000)
        );
        let row = self.rig.source.query_opt(&sql, &[]).await.unwrap()?;
        Some((format!("ctid = '{}'", row.get::<_, String>(0)), self.table(place).row(&row, 1)))
    }

    async fn delete(&mut self, place: usize) {
        let Some((found, old)) = self.pick(place, "").await else { return };
        let table = self.table(place);
        self.rig.change(place, &format!("DELETE FROM {} WHERE {found}", table.table.quoted())).await.unwrap();
        let key = self.identity(place, &old);
        self.made.push((place, Op::Delete(key)));
    }

    fn identity(&self, place: usize, row: &Row) -> Row {
        let key = &self.table(place).table.key;
        let keep = |(at, value): (usize, &Value)| if key.contains(&at) { value.clone() } else { Value::Null };
        row.iter().enumerate().map(keep).collect()
    }

    async fn update(&mut self, place: usize, and: &str, sets: &[(usize, String)]) -> bool {
        let Some((found, old)) = self.pick(place, and).await else { return false };
        let table = self.table(place).clone();
        let list = sets.iter().map(|(at, value)| format!("{} = {value}", quoted(table.columns[*at].name)));
        let sql = format!(
            "UPDATE {} SET {} WHERE {found}",
            table.table.quoted(),
            list.collect::<Vec<_>>().join(", ")
        );
        let Some(mut new) = self.rig.change(place, &sql).await else { return false };
        let moved = table.table.key.iter().any(|at| old[*at] != new[*at]);
        let length = |value: &Value| match value {
            Value::Binary(bytes) | Value::Text(bytes) => bytes.len(),
            Value::Null | Value::Unchanged => 0,
        };
        let full = self.dice.one_in(10);
        for (at, spec) in table.columns.iter().enumerate() {
            if spec.out_of_line && length(&new[at]) > 2500 && !sets.iter().any(|(set, _)| *set == at) {
                new[at] = Value::Unchanged;
            }
        }
        let old = match (full, moved) {
            (true, _) => Some(old),
            (false, true) => Some(self.identity(place, &old)),
            (false, false) => None,
        };
        self.made.push((place, Op::Update { old, new }));
        true
    }

    async fn change_some(&mut self, place: usize, with_key: bool) {
        let table = self.table(place).clone();
        let mut sets = Vec::new();
        for (at, spec) in table.columns.iter().enumerate() {
            let is_key = table.table.key.contains(&at);
            let wanted = if is_key { with_key && at != 0 } else { self.dice.one_in(3) };
            if wanted {
                sets.push((at, self.random(spec, !is_key && !spec.identity_always)));
            }
        }
        if sets.is_empty() {
            sets.push((0, "tenant".to_owned()));
        }
        self.update(place, "", &sets).await;
    }

    /// Two rows exchange the values of a unique column, by way of a third value.
    async fn exchange(&mut self, place: usize) {
        let codes =
            format!("SELECT code FROM {} WHERE code IS NOT NULL LIMIT 2", self.table(place).table.quoted());
        let rows = self.rig.source.query(&codes, &[]).await.unwrap();
        let [one, two] = rows.as_slice() else { return };
        let (one, two): (i32, i32) = (one.get(0), two.get(0));
        for (from, to) in [(one, -1), (two, one), (-1, two)] {
            assert!(self.update(place, &format!("AND code = {from}"), &[(2, to.to_string())]).await);
        }
    }

    async fn make(&mut self) {
        let count = u64::try_from(self.rig.tables.len()).unwrap();
        let place = usize::try_from(self.dice.below(count)).unwrap();
        match self.dice.below(20) {
            0..7 => self.insert(place).await,
            7..13 => self.change_some(place, false).await,
            13..16 => self.change_some(place, true).await,
            16..19 => self.delete(place).await,
            _ => {
                let place = place % 2;
                self.exchange(place).await;
            }
        }
    }
}

async fn same_in_the_end(seed: u64) {
    let rig = Rig::new(tables()).await;
    rig.source.execute("SELECT setseed($1)", &[&(1.0 / (seed as f64 + 1.5))]).await.unwrap();
    let mut applier = rig.applier().await;
    let mut maker = Maker { rig: &rig, dice: Dice::new(seed), made: Vec::new() };
    let mut lsn = 0_u64;
    for batch in 0..40 {
        let limit = [3, 10, 40, 200, 600][usize::try_from(maker.dice.below(5)).unwrap()];
        for _ in 0..maker.dice.below(limit) {
            maker.make().await;
        }
        let made = std::mem::take(&mut maker.made);
        let flushes = maker.dice.below(4);
        for (table, op) in made.clone() {
            applier.push(table, op);
            if flushes > 0 && maker.dice.one_in(1 + limit / flushes) {
                applier.flush().await.unwrap();
            }
        }
        lsn += maker.dice.below(3);
        if let Err(error) = applier.commit(PgLsn::from(lsn), &[]).await {
            panic!("seed {seed}, batch {batch}: {error}; {made:#?}");
        }
        assert_eq!(applier.buffered_bytes(), 0);
        let applied = rig.value("SELECT applied FROM wakala_shard.move").await;
        assert_eq!(applied, Some(format!("0/{lsn:X}")));
        if maker.dice.one_in(4) {
            rig.compare(&format!("seed {seed}, batch {batch}")).await;
        }
    }
    rig.compare(&format!("seed {seed}, at the end")).await;
}

#[tokio::test]
async fn random_changes_1() {
    same_in_the_end(1).await;
}

#[tokio::test]
async fn random_changes_2() {
    same_in_the_end(2).await;
}

#[tokio::test]
async fn random_changes_3() {
    same_in_the_end(3).await;
}
