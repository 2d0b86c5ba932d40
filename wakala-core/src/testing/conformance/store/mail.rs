//! The mailbox of a run.

use futures::future::join_all;

use super::{StoreCase, texts};
use crate::store::{Letter, Release, Takeover};
use crate::testing::conformance::must;

impl StoreCase {
    async fn send(&self, run: &str, body: &str) -> u64 {
        must(self.store().send(&run.into(), body.to_owned()).await, "send")
    }

    async fn mail(&self, run: &str, after: u64) -> Vec<Letter> {
        must(self.store().mail(&run.into(), after).await, "mail")
    }

    async fn numbers(&self, run: &str, after: u64) -> Vec<u64> {
        self.mail(run, after).await.iter().map(|letter| letter.number).collect()
    }
}

/// Letters are numbered from 1 without gaps, each run's for itself, and read from any number on, again and again.
pub async fn mail_is_numbered_without_gaps(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &[]).await, "create");
        must(case.create("b", &[]).await, "create");
        assert_eq!(case.mail("a", 0).await, [], "mail that nobody sent");
        // More than ten: 10 comes after 9 and not after 1.
        for number in 1..=12 {
            let sent = case.send("a", &format!("a{number}")).await;
            assert_eq!(sent, number, "letters are not numbered from 1 without gaps");
        }
        assert_eq!(case.send("b", "b1").await, 1, "runs share their numbers");
        let all: Vec<Letter> = (1..=12).map(|number| Letter { number, body: format!("a{number}") }).collect();
        for _ in 0..2 {
            assert_eq!(case.mail("a", 0).await, all, "mail is not as it was sent, in order");
        }
        assert_eq!(case.mail("a", 9).await, all[9..], "mail after 9 is 10 to 12");
        for after in [12, 13, u64::MAX] {
            assert_eq!(case.mail("a", after).await, [], "mail after {after}, of 12 letters");
        }
        assert_eq!(case.mail("b", 0).await, [Letter { number: 1, body: "b1".to_owned() }]);
        assert_eq!(case.send("a", "a13").await, 13, "reading mail took it out");
    };
    case.common.drive(check).await;
}

/// Letters that are sent at the same time get places of their own.
pub async fn concurrent_mail_gets_places_of_its_own(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &[]).await, "create");
        let letters = (0..8).map(|i| format!("letter {i}"));
        let mut sent =
            join_all(letters.map(async |body| Letter { number: case.send("a", &body).await, body })).await;
        sent.sort_unstable_by_key(|letter| letter.number);
        let numbers: Vec<u64> = sent.iter().map(|letter| letter.number).collect();
        assert_eq!(numbers, (1..=8).collect::<Vec<_>>(), "letters share a place or leave one out");
        assert_eq!(case.mail("a", 0).await, sent, "mail is not where it was said to be");
    };
    case.common.drive(check).await;
}

/// Bodies come back as they were sent, whatever is in them.
pub async fn mail_comes_back_as_sent(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &[]).await, "create");
        for body in texts() {
            case.send("a", &body).await;
        }
        let read = case.mail("a", 0).await;
        assert_eq!(read.len(), texts().len(), "letters are lost or invented");
        for (letter, sent) in read.iter().zip(texts()) {
            let begin: String = sent.chars().take(60).collect();
            // Not `assert_eq`: a mebibyte helps nobody.
            assert!(letter.body == sent, "the body of letter {} changed: {begin}", letter.number);
        }
    };
    case.common.drive(check).await;
}

/// Mail reaches a run whoever drives it, or nobody, and touches neither lease, claims nor journal; it outlasts owners.
pub async fn mail_needs_no_lease(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        case.create_lapsed("a", &["x"]).await;
        let before = case.standing("a").await;
        case.send("a", "lapsed").await;
        assert_eq!(case.standing("a").await, before, "mail changed the run");
        must(case.append("a", 1, 1).await, "append after mail");
        must(case.acquire("a", &["x"], "second", Takeover::Lapsed).await, "acquire");
        case.send("a", "held").await;
        must(case.append("a", 2, 2).await, "append after mail");
        for what in [Release::Lease, Release::Resources, Release::Closed] {
            must(case.release("a", 2, what).await, "release");
            let before = case.standing("a").await;
            case.send("a", &format!("{what:?}")).await;
            assert_eq!(case.standing("a").await, before, "mail changed the run");
        }
        assert_eq!(case.numbers("a", 0).await, [1, 2, 3, 4, 5], "mail was lost when owners changed");
    };
    case.common.drive(check).await;
}
