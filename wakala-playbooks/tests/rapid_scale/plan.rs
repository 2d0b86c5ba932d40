//! What on-call reads: the text of plans and reports, kept here so that a change of it is seen in review.
//!
//! `WAKALA_GOLDEN=write cargo test -p wakala-playbooks --features sim --test rapid_scale` writes the files anew.

use std::path::Path;

use wakala_core::{Plan, Revert};
use wakala_playbooks::rapid_scale::{RapidScale, Simulated};

use crate::site::{Site, calm};

#[track_caller]
fn assert_golden(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rapid_scale").join(file);
    if std::env::var("WAKALA_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(
        expected == text,
        "the text is another than in {}; look at the difference, and if it is meant, set WAKALA_GOLDEN=write once.\n\
         --- expected\n{expected}\n--- now\n{text}",
        path.display()
    );
}

/// The hash covers more than is shown; what is shown is what this is about.
fn text(plan: &Plan) -> String {
    plan.to_string().replace(&plan.hash()[..12], "<hash>")
}

#[tokio::test]
async fn the_texts_are_as_agreed() {
    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    assert_golden("plan.txt", &text(&plan));
    let report = site.run(&plan).await.unwrap();
    assert_golden("report.txt", &report.to_string());
    let journal: Vec<_> = report.journal.iter().map(|entry| format!("{}\n", entry.record)).collect();
    assert_golden("journal.txt", &journal.concat());
    assert_golden("reverted.txt", &site.revert(Revert::Temporary).await.to_string());
}

#[tokio::test]
async fn plans_are_the_same_each_time_and_differ_with_each_parameter() {
    let plan = Site::new(calm()).plan().await.unwrap();
    let again = Site::new(calm()).plan().await.unwrap();
    assert_eq!((again.to_string(), again.hash()), (plan.to_string(), plan.hash()));
    assert_eq!(again, plan);

    let copy: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!((copy.hash(), &copy), (plan.hash(), &plan));

    let changes: [fn(&mut RapidScale); 9] = [
        |p| p.api_replicas -= 1,
        |p| p.cache_replicas += 1,
        |p| p.nodes += 1,
        |p| p.rate_limit_requests += 1,
        |p| p.rate_limit_window *= 2,
        |p| p.aggressive_caching = false,
        |p| p.soak *= 2,
        |p| p.max_error_rate *= 2.0,
        |p| p.temporary_for *= 2,
    ];
    let mut hashes = vec![plan.hash()];
    for change in changes {
        let mut parameters = RapidScale::default();
        change(&mut parameters);
        hashes.push(Site::with(calm(), &parameters).plan().await.unwrap().hash());
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 10, "what is approved must tell all of them apart");
}

#[tokio::test]
async fn planning_twice_at_once_reads_only() {
    let site = Site::new(calm());
    let (settings, log) = (site.settings().await, site.world.log());
    let playbook = RapidScale::default().playbook(&Simulated::new(&site.world)).unwrap();
    let both = async { tokio::join!(site.engine.plan(&site.playbook), site.engine.plan(&playbook)) };
    let (one, other) = site.world.run(both).await;
    assert_eq!(one.unwrap().hash(), other.unwrap().hash());
    assert_eq!((site.settings().await, site.world.log()), (settings, log));
}
