//! What becomes of several changes to one row; no server needed.

use bytes::Bytes;

use super::rig::{column, table};
use crate::mover::apply::coalesce::{Pushed, Stage, plan};
use crate::mover::apply::encode::{Kind, copy_text};
use crate::mover::change::{Op, Row, Value};
use crate::mover::table::{Format, Table};

fn tables() -> Vec<Table> {
    let columns = [
        column("tenant", "text", ""),
        column("id", "text", ""),
        column("a", "text", ""),
        column("b", "text", ""),
    ];
    vec![table("t", &columns, &[0, 1], "", Format::Text).table]
}

/// `-` is null, `u` unchanged.
fn row(text: &str) -> Row {
    let value = |word: &str| match word {
        "-" => Value::Null,
        "u" => Value::Unchanged,
        word => Value::Text(Bytes::copy_from_slice(word.as_bytes())),
    };
    text.split(' ').map(value).collect()
}

fn show(values: &[&Value]) -> String {
    let word = |value: &&Value| match value {
        Value::Text(bytes) | Value::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Null => "-".to_owned(),
        Value::Unchanged => "u".to_owned(),
    };
    values.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// `+` inserts, `=` updates, `old > new` updates with an old key, `-` deletes.
fn stages(changes: &[&str]) -> Vec<String> {
    let tables = tables();
    let op = |text: &&str| -> Pushed {
        let (verb, rest) = text.split_at(1);
        let op = match verb {
            "+" => Op::Insert(row(rest)),
            "-" => Op::Delete(row(rest)),
            _ => match rest.split_once(" > ") {
                Some((old, new)) => Op::Update { old: Some(row(old)), new: row(new) },
                None => Op::Update { old: None, new: row(rest) },
            },
        };
        (0, op)
    };
    let pushed: Vec<Pushed> = changes.iter().map(op).collect();
    let shown = plan(&tables, &pushed).into_iter().map(|stage| match stage {
        Stage::OneByOne { part } => format!("one by one {part:?}"),
        Stage::Together { changes, .. } => {
            let mut text = Vec::new();
            for of_table in &changes {
                text.extend(of_table.deletes.iter().map(|key| format!("-{}", show(key))));
                for (known, rows) in &of_table.updates {
                    let known: String = known.iter().map(|known| if *known { '1' } else { '0' }).collect();
                    text.extend(rows.iter().map(|values| format!("={known} {}", show(values))));
                }
                text.extend(of_table.inserts.iter().map(|values| format!("+{}", show(values))));
            }
            text.join("; ")
        }
    });
    shown.collect()
}

#[test]
fn the_net_effect_of_changes_to_a_row() {
    let cases: [(&[&str], &[&str]); 20] = [
        (&["+7 1 a b"], &["+7 1 a b"]),
        (&["+7 1 a b", "=7 1 c u"], &["+7 1 c b"]),
        (&["+7 1 a b", "=7 1 - u", "=7 1 u d"], &["+7 1 - d"]),
        (&["+7 1 a b", "-7 1 - -"], &[""]),
        (&["+7 1 a b", "-7 1 - -", "+7 1 c d"], &["+7 1 c d"]),
        (&["=7 1 a u", "=7 1 u b"], &["=1111 7 1 a b"]),
        (&["=7 1 a u", "=7 1 b u"], &["=1110 7 1 b"]),
        (&["=7 1 a u", "-7 1 - -"], &["-7 1"]),
        (&["-7 1 - -", "+7 1 a b"], &["-7 1; +7 1 a b"]),
        (&["-7 1 - -", "+7 1 a b", "=7 1 u c"], &["-7 1; +7 1 a c"]),
        (&["-7 1 - -", "+7 1 a b", "-7 1 - -"], &["-7 1"]),
        // To another key.
        (&["=7 1 - - > 7 2 a b"], &["-7 1; +7 2 a b"]),
        (&["=7 1 - - > 7 2 u b"], &["one by one 0..1"]),
        (&["=7 1 x y > 7 2 u b"], &["-7 1; +7 2 x b"]),
        (&["+7 1 a b", "=7 1 - - > 7 2 u c"], &["+7 2 a c"]),
        (&["=7 1 a u", "=7 1 - - > 7 2 u c"], &["-7 1; +7 2 a c"]),
        (&["=7 1 u a", "=7 1 - - > 7 2 u c"], &["=1101 7 1 a", "one by one 1..2"]),
        (&["-7 2 - -", "=7 1 - - > 7 2 a b", "=7 2 - - > 7 1 a b"], &["-7 2; -7 1; +7 1 a b"]),
        // An old row with the same key is no change of it, and has what is stored out of line.
        (&["=7 1 x y > 7 1 u b"], &["=1111 7 1 x b"]),
        (&["=7 1 - - > 7 1 u b"], &["=1101 7 1 b"]),
    ];
    for (changes, expected) in cases {
        assert_eq!(stages(changes), expected, "{changes:?}");
    }
}

#[test]
fn what_contradicts_itself_is_left_to_the_server() {
    let cases: [&[&str]; 8] = [
        &["+7 1 a b", "+7 1 a b"],
        &["=7 1 a b", "+7 1 a b"],
        &["-7 1 - -", "=7 1 a b"],
        &["-7 1 - -", "-7 1 - -"],
        &["=7 2 a b", "=7 1 - - > 7 2 a b"],
        &["-7 1 - -", "=7 1 - - > 7 2 a b"],
        &["+7 3 a b", "=7 - a b"],
        &["+7 3 a b", "+7 1 u b"],
    ];
    for changes in cases {
        let mut all = changes.to_vec();
        all.push("+7 9 a b");
        assert_eq!(stages(&all), [format!("one by one 0..{}", changes.len()), "+7 9 a b".to_owned()]);
    }
}

#[test]
fn forms_and_escapes() {
    let text = Value::Text(Bytes::from_static(b"a\\b\tc\nd\re\\N"));
    let binary = Value::Binary(Bytes::from_static(b"x"));
    let mut out = bytes::BytesMut::new();
    copy_text(&[&text, &Value::Null], &mut out);
    assert_eq!(&out[..], b"a\\\\b\\tc\\nd\\re\\\\N\t\\N\n");
    assert_eq!(Kind::of([&text, &Value::Null]), Kind::Text);
    assert_eq!(Kind::of([&Value::Null]), Kind::Any);
    assert_eq!(Kind::of([&text, &binary]), Kind::Mixed);
}
