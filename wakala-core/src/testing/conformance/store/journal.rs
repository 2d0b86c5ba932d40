//! Lines: as written, in their places, under the latest lease.

use futures::future::join_all;

use super::{StoreCase, conflicts, line, texts, winners};
use crate::store::{Line, Release, StoredRun, Takeover};
use crate::testing::conformance::must;

/// Bodies and hashes come back as they were written, whatever is in them: a store does not look into them.
pub async fn lines_come_back_as_written(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        let mut written = vec![line("a", 0)];
        for (seq, body) in (1..).zip(texts()) {
            let line = Line { seq, body, hash: format!("{:064x}", u128::MAX - u128::from(seq)) };
            must(case.store().append(&"a".into(), 1, line.clone()).await, "append");
            written.push(line);
        }
        let read = case.lines("a").await;
        assert_eq!(read.len(), written.len(), "lines are lost or invented");
        for (read, written) in read.iter().zip(&written) {
            let begin: String = written.body.chars().take(60).collect();
            assert_eq!(read.seq, written.seq, "the line at {} moved", written.seq);
            // Not `assert_eq`: a mebibyte helps nobody.
            assert!(read.body == written.body, "the body of line {} changed: {begin}", written.seq);
            assert_eq!(read.hash, written.hash, "the hash of line {} changed", written.seq);
        }
    };
    case.common.drive(check).await;
}

/// Lines are loaded in order; loading changes nothing; runs do not mix.
pub async fn keeps_lines_in_order(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.create("b", &["y"]).await, "create");
        // More than ten: 10 comes after 9 and not after 1.
        for seq in 1..=12 {
            must(case.append("a", 1, seq).await, "append");
            must(case.append("b", 1, seq).await, "append");
        }
        for run in ["a", "b", "a"] {
            let StoredRun { head, lines } = must(case.store().load(&run.into()).await, "load");
            let written: Vec<Line> = (0..=12).map(|seq| line(run, seq)).collect();
            assert_eq!(lines, written, "the lines of {run} are not as they were written, in order");
            assert_eq!(head.length, 13, "the length of {run} is not that of its journal");
        }
    };
    case.common.drive(check).await;
}

/// A line at a place that is taken, or beyond the next one, is a conflict and is not kept.
pub async fn wrong_place_conflicts(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.append("a", 1, 1).await, "append at the next place");
        for seq in [0, 1, 3, u64::MAX] {
            conflicts(case.append("a", 1, seq).await, &format!("a line at {seq} where 2 is next"));
        }
        assert_eq!(case.places("a").await, [0, 1], "a refused line was kept");
        must(case.append("a", 1, 2).await, "append at the next place after refusals");
    };
    case.common.drive(check).await;
}

/// Of several writers at the same place one wins.
pub async fn concurrent_appends_have_one_winner(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        for seq in 1..=5 {
            let answers = join_all((0..4).map(|_| case.append("a", 1, seq))).await;
            let winners = winners(answers, "the line of a writer that came too late");
            assert_eq!(winners, 1, "{winners} of 4 writers got place {seq}");
        }
        assert_eq!(case.places("a").await, [0, 1, 2, 3, 4, 5]);
    };
    case.common.drive(check).await;
}

/// Only the latest lease writes, and not after it was given back; a line that is refused is not kept.
pub async fn appends_need_the_lease(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.acquire("a", &["x"], "second", Takeover::Forced).await, "acquire");
        conflicts(case.append("a", 1, 1).await, "a line under a lease that was fenced");
        conflicts(case.append("a", 3, 1).await, "a line under a lease that nobody was given");
        conflicts(case.append("a", u64::MAX, 1).await, "a line under a lease that nobody was given");
        must(case.append("a", 2, 1).await, "append under the latest lease");
        for what in [Release::Lease, Release::Resources, Release::Closed] {
            must(case.release("a", 2, what).await, "release");
            conflicts(case.append("a", 2, 2).await, "a line under a lease that was given back");
        }
        assert_eq!(case.places("a").await, [0, 1], "a refused line was kept");
    };
    case.common.drive(check).await;
}
