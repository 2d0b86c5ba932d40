//! Metrics that stay away, come back, or were never there.

use wakala_core::sim::Fault;
use wakala_core::{ErrorKind, Status};

use crate::site::{API, MINUTE, SECOND, Site, WORKER, assert_says, quiet, soak, with};

#[tokio::test]
async fn every_sort_of_blindness_is_held_and_then_ends_where_all_was_well() {
    for fault in [
        Fault::metrics_gone(600 * MINUTE),
        Fault::MetricsGone { metric: Some("error_rate".into()), lasting: 600 * MINUTE },
        Fault::MetricsFailing { lasting: 600 * MINUTE },
        Fault::MetricsFrozen { lasting: 600 * MINUTE },
        Fault::MetricsPartial { percent: 30, lasting: 600 * MINUTE },
    ] {
        let site = Site::new(quiet());
        site.sabotage("soak-0.4", fault.clone());
        let report = site.descend().await;
        assert_eq!(report.status, Status::Compensated, "{fault:?}\n{report}");
        assert_says(&report.reason, &["soak-0.4 did not pass", "error-rate", "without verdict for 5m"]);
        assert_eq!(
            (site.smallest(API), site.size(API), site.size(WORKER)),
            (20, (30, 30), (18, 18)),
            "{fault:?}"
        );
        let (lasted, covered, _) = soak(&report, "soak-0.4").unwrap();
        // Frozen samples count until they are too old.
        assert!(lasted <= 7 * MINUTE && covered <= 90 * SECOND, "{fault:?}: {covered:?} in {lasted:?}");
    }
}

#[tokio::test]
async fn a_gap_within_the_budget_costs_only_its_time() {
    let site = Site::new(quiet());
    site.sabotage("soak-0.6", Fault::metrics_gone(4 * MINUTE));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.sizes(API), [50, 40, 30, 20, 15]);
    let (lasted, covered, _) = soak(&report, "soak-0.6").unwrap();
    assert!(covered >= 10 * MINUTE && lasted >= 14 * MINUTE, "{covered:?} in {lasted:?}");
}

#[tokio::test]
async fn a_longer_budget_bears_a_longer_gap() {
    let gap = || Fault::metrics_gone(8 * MINUTE);
    for (minutes, status) in [(5, Status::Compensated), (10, Status::Succeeded)] {
        let site = Site::with(quiet(), &with(|p| p.blind_for = minutes * MINUTE));
        site.sabotage("soak-0.8", gap());
        assert_eq!(site.descend().await.status, status, "{minutes}");
    }
}

#[tokio::test]
async fn nothing_is_begun_where_all_is_not_well_or_nobody_can_tell() {
    for (fault, words) in [
        (Fault::metrics_gone(60 * MINUTE), "cannot guard"),
        (Fault::MetricsFailing { lasting: 60 * MINUTE }, "cannot guard"),
        (Fault::too_few_replicas(API, 60, 5, 60 * MINUTE), "fails before anything is done"),
    ] {
        let site = Site::new(quiet().with_fault(5 * MINUTE, fault.clone()));
        let plan = site.plan().await.unwrap();
        assert_says(plan.refusals().next().unwrap(), &["guard error-rate of the whole run", words]);
        let error = site.run(&plan).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{fault:?}");
        assert_eq!(site.sizes(API), [50]);
    }
}
