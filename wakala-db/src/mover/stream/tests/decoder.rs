//! Messages that no server should send.

use super::*;
use crate::mover::stream::shape::{Shape, Typed};

fn shapes() -> Vec<Shape> {
    let typed = |name: &str, number| Typed { name: name.to_owned(), kind: (number, -1) };
    vec![Shape {
        schema: "public".to_owned(),
        name: "t".to_owned(),
        columns: vec![typed("tenant", 23), typed("v", 25)],
        generated: vec!["g".to_owned()],
    }]
}

fn relation(number: u32, name: &str, columns: &[(&str, u32)]) -> Vec<u8> {
    let mut message = vec![b'R'];
    message.extend(number.to_be_bytes());
    message.extend(b"public\0");
    message.extend(name.as_bytes());
    message.extend(b"\0d");
    message.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
    for (column, kind) in columns {
        message.push(1);
        message.extend(column.as_bytes());
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend((-1_i32).to_be_bytes());
    }
    message
}

fn begin() -> Vec<u8> {
    [&b"B"[..], &8_u64.to_be_bytes(), &0_u64.to_be_bytes(), &77_u32.to_be_bytes()].concat()
}

fn commit() -> Vec<u8> {
    [&b"C\0"[..], &8_u64.to_be_bytes(), &9_u64.to_be_bytes(), &0_u64.to_be_bytes()].concat()
}

/// `tenant`, generated `g`, `v`.
fn tuple(tenant: &[u8], v: &[u8]) -> Vec<u8> {
    let value = |form: u8, bytes: &[u8]| {
        [&[form][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    };
    [&3_u16.to_be_bytes()[..], &value(b'b', tenant), b"n", &value(b't', v)].concat()
}

/// Whole messages, as they may follow the begin of a transaction.
fn whole() -> Vec<Vec<u8>> {
    let of = |kind: u8, parts: &[&[u8]]| [&[kind][..], &7_u32.to_be_bytes(), &parts.concat()].concat();
    let (row, other) = (tuple(&[0, 0, 0, 1], b"abc"), tuple(&[0, 0, 0, 2], b""));
    vec![
        of(b'I', &[b"N", &row]),
        of(b'U', &[b"N", &row]),
        of(b'U', &[b"K", &other, b"N", &row]),
        of(b'U', &[b"O", &other, b"N", b"\0\x03unu"]),
        of(b'D', &[b"K", &row]),
        [&b"M\x01"[..], &8_u64.to_be_bytes(), b"prefix\0", &3_u32.to_be_bytes(), b"abc"].concat(),
        relation(8, "t", &[("v", 25), ("tenant", 23)]),
        commit(),
    ]
}

fn ready() -> Decoder {
    let mut decoder = Decoder::new(shapes());
    let relation = relation(7, "t", &[("tenant", 23), ("g", 25), ("v", 25)]);
    assert_eq!(decoder.decode(relation.into()).unwrap(), None);
    assert_eq!(decoder.decode(begin().into()).unwrap(), Some(Event::Begin { xid: 77, commit: 8.into() }));
    decoder
}

#[test]
fn generated_columns_are_left_out_and_the_order_is_that_of_the_table() {
    let mut decoder = ready();
    let row = |tenant: &'static [u8], v: &'static [u8]| {
        vec![Value::Binary(Bytes::from_static(tenant)), Value::Text(Bytes::from_static(v))]
    };
    let events: Vec<_> = whole().into_iter().map(|message| decoder.decode(message.into()).unwrap()).collect();
    let change = |op| Some(Event::Change { table: 0, op });
    assert_eq!(events[0], change(Op::Insert(row(&[0, 0, 0, 1], b"abc"))));
    let old = Some(row(&[0, 0, 0, 2], b""));
    assert_eq!(events[2], change(Op::Update { old: old.clone(), new: row(&[0, 0, 0, 1], b"abc") }));
    assert_eq!(events[3], change(Op::Update { old, new: vec![Value::Unchanged, Value::Unchanged] }));
    assert_eq!(events[6], None);
    assert_eq!(events[7], Some(Event::Commit { commit: 8.into(), end: 9.into() }));
}

#[test]
fn a_message_that_is_cut_or_goes_on_is_an_error() {
    for message in whole().into_iter().chain([begin()]) {
        let fresh = || if message[0] == b'B' { Decoder::new(shapes()) } else { ready() };
        fresh().decode(message.clone().into()).unwrap();
        for cut in 0..message.len() {
            let error = fresh().decode(Bytes::copy_from_slice(&message[..cut])).unwrap_err();
            assert!(
                [ErrorKind::Unexpected, ErrorKind::Conflict].contains(&error.kind())
                    && error.retry() == Retry::Never,
                "{error:?} for {:?}",
                &message[..cut]
            );
        }
        let longer = [&message[..], b"\0"].concat();
        assert!(fresh().decode(longer.into()).is_err(), "{message:?}");
    }
}

#[test]
fn damage_is_never_a_panic() {
    // xorshift, so that a failure comes again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let messages: Vec<_> =
        whole().into_iter().chain([begin(), relation(7, "t", &[("tenant", 23), ("v", 25)])]).collect();
    let (mut refused, mut taken) = (0_u32, 0_u32);
    for _ in 0..100_000 {
        let mut message = messages[random(messages.len())].clone();
        for _ in 0..=random(3) {
            let at = random(message.len());
            message[at] = u8::try_from(random(256)).unwrap();
        }
        message.truncate(1 + random(message.len() + 8).min(message.len() - 1));
        match ready().decode(message.into()) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20_000 && taken > 1_000, "{refused} {taken}");
}

#[test]
fn relations_are_described_again_at_any_time() {
    let mut decoder = ready();
    let insert = whole().swap_remove(0);
    decoder.decode(insert.clone().into()).unwrap();
    // In another order, in the middle of the transaction.
    let other = relation(7, "t", &[("v", 25), ("g", 25), ("tenant", 23)]);
    assert_eq!(decoder.decode(other.into()).unwrap(), None);
    let Some(Event::Change { op: Op::Insert(row), .. }) = decoder.decode(insert.into()).unwrap() else {
        panic!("no insert")
    };
    assert_eq!(row[1], Value::Binary(Bytes::from_static(&[0, 0, 0, 1])));
    // What is not ours may be described (partitions are), but has no rows here.
    let mut decoder = ready();
    assert_eq!(decoder.decode(relation(9, "s", &[]).into()).unwrap(), None);
    let row = [&b"I"[..], &9_u32.to_be_bytes(), b"N\0\0"].concat();
    let error = decoder.decode(row.into()).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{error}");
    let bad: [&[(&str, u32)]; 4] =
        [&[("tenant", 23)], &[("tenant", 20), ("v", 25)], &[("tenant", 23), ("v", 25), ("x", 25)], &[]];
    for columns in bad {
        let error = ready().decode(relation(7, "t", columns).into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
}

#[test]
fn order_is_checked() {
    let outside = |message: Vec<u8>| Decoder::new(shapes()).decode(message.into()).unwrap_err();
    assert_eq!(outside(commit()).kind(), ErrorKind::Unexpected);
    assert_eq!(outside(whole().swap_remove(0)).kind(), ErrorKind::Unexpected);
    assert_eq!(ready().decode(begin().into()).unwrap_err().kind(), ErrorKind::Unexpected);
    let unknown = [&b"I"[..], &9_u32.to_be_bytes(), b"N\0\0"].concat();
    assert!(ready().decode(unknown.into()).unwrap_err().to_string().contains("not described"));
    let outside_message = [&b"M\0"[..], &8_u64.to_be_bytes(), b"p\0", &0_u32.to_be_bytes()].concat();
    assert!(ready().decode(outside_message.clone().into()).is_err());
    assert!(Decoder::new(shapes()).decode(outside_message.into()).unwrap().is_some());
}

#[tokio::test]
async fn positions_within_a_transaction_are_kept_back() {
    let items =
        [Item::At(3), Item::Data(begin().into()), Item::At(5), Item::Data(commit().into()), Item::At(9)];
    let mut stream = ChangeStream {
        slot: "s".to_owned(),
        source: Source { system_identifier: "1".to_owned(), timeline: 1, flushed: 9.into() },
        shared: Arc::new(Shared::new(0)),
        task: tokio::spawn(async {}),
        decoder: Decoder::new(shapes()),
        ahead: items.into(),
        failed: false,
    };
    let events: Vec<Event> = std::iter::from_fn(|| stream.ready()).map(Result::unwrap).collect();
    assert_eq!(
        events,
        [
            Event::Idle { at: 3.into() },
            Event::Begin { xid: 77, commit: 8.into() },
            Event::Commit { commit: 8.into(), end: 9.into() },
            Event::Idle { at: 9.into() },
        ]
    );
}
