//! What on-call reads: the text of plans and reports, kept here so that a change of it is seen in review.
//!
//! `WAKALA_GOLDEN=write cargo test -p wakala-playbooks --features sim --test gradual_scale_down` writes the files anew.

use std::path::Path;

use wakala_core::sim::Fault;
use wakala_core::{Plan, RunReport};
use wakala_playbooks::gradual_scale_down::GradualScaleDown;

use crate::site::{API, MINUTE, SECOND, Site, autoscaled, quiet, with};

#[track_caller]
fn assert_golden(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gradual_scale_down").join(file);
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

fn journal(report: &RunReport) -> String {
    report.journal.iter().map(|entry| format!("{}\n", entry.record)).collect()
}

#[tokio::test]
async fn the_texts_are_as_agreed() {
    let site = Site::new(quiet());
    let plan = site.plan().await.unwrap();
    assert_golden("plan.txt", &text(&plan));
    let report = site.run(&plan).await.unwrap();
    assert_golden("report.txt", &report.to_string());
    assert_golden("journal.txt", &journal(&report));

    assert_golden("plan_autoscaled.txt", &text(&Site::new(autoscaled()).plan().await.unwrap()));

    let fault = Fault::too_few_replicas(API, 40, 5, 600 * MINUTE);
    let site = Site::new(quiet().with_fault(SECOND, fault));
    let report = site.descend().await;
    assert_golden("report_errors.txt", &report.to_string());
    assert_golden("journal_errors.txt", &journal(&report));

    let site = Site::new(quiet());
    site.sabotage("soak-0.6", Fault::metrics_gone(600 * MINUTE));
    assert_golden("report_blind.txt", &site.descend().await.to_string());
}

#[tokio::test]
async fn plans_are_the_same_each_time_and_differ_with_each_parameter() {
    let plan = Site::new(quiet()).plan().await.unwrap();
    let again = Site::new(quiet()).plan().await.unwrap();
    assert_eq!((again.to_string(), again.hash()), (plan.to_string(), plan.hash()));
    let copy: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!((copy.hash(), &copy), (plan.hash(), &plan));

    let changes: [fn(&mut GradualScaleDown); 8] = [
        |p| p.fractions = vec![0.8, 0.6, 0.4],
        |p| p.api_minimum += 1,
        |p| p.worker_minimum += 1,
        |p| p.soak *= 2,
        |p| p.max_error_rate *= 2.0,
        |p| p.blind_for *= 2,
        |p| p.max_removed_per_minute = Some(20),
        |p| p.max_requests_per_api_replica = Some(50.0),
    ];
    let mut hashes = vec![plan.hash()];
    for change in changes {
        hashes.push(Site::with(quiet(), &with(change)).plan().await.unwrap().hash());
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 9, "what is approved must tell all of them apart");
}

#[tokio::test]
async fn planning_reads_only() {
    let site = Site::new(autoscaled());
    let (log, sizes) = (site.world.log(), site.sizes(API));
    site.plan().await.unwrap();
    assert_eq!((site.world.log(), site.sizes(API)), (log, sizes));
}
