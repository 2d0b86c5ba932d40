//! What the runbook gets wrong, and that the playbook does not: the commands to the letter beside the playbook.

use wakala_core::sim::Fault;
use wakala_core::{MetricQuery, MetricsSource as _, ScalableTarget as _, ScaleOptions, Status};

use crate::site::{API, MINUTE, SECOND, Site, WORKER, assert_says, quiet, soak};

/// The runbook's loop, to the letter; gives the sizes that it went to.
async fn by_hand(site: &Site) -> Vec<u32> {
    let commands = async {
        let (cx, api, metrics) = (site.world.context(), site.world.target(API), site.world.metrics());
        let mut sizes = Vec::new();
        for size in [40_u32, 30, 20, 15] {
            api.set_desired(&cx, size.into(), ScaleOptions::default()).await.unwrap();
            sizes.push(size);
            cx.sleep(10 * MINUTE).await.unwrap();
            let query = MetricQuery::new("error_rate").with_label("workload", API);
            // What `curl | grep | tail | awk` gives where nothing answers, and what `bc` makes of it.
            let text = match metrics.latest(&cx, &query).await {
                Ok(Some(sample)) => sample.value.to_string(),
                _ => String::new(),
            };
            if text.parse::<f64>().is_ok_and(|rate| rate > 0.01) {
                break;
            }
        }
        sizes
    };
    site.world.run(commands).await
}

/// Erratum 7: an outage of the metrics reads as health.
#[tokio::test]
async fn an_outage_of_the_metrics_is_no_health() {
    for fault in [Fault::metrics_gone(600 * MINUTE), Fault::MetricsFailing { lasting: 600 * MINUTE }] {
        let site = Site::new(quiet().with_fault(11 * MINUTE, fault.clone()));
        assert_eq!(by_hand(&site).await, [40, 30, 20, 15], "the commands go on as if all were well");

        let site = Site::new(quiet());
        site.sabotage("soak-0.6", fault.clone());
        let report = site.descend().await;
        // Held for five minutes, then back to where it was last seen to be healthy, and said why.
        assert_eq!(report.status, Status::Compensated, "{fault:?}\n{report}");
        assert_says(
            &report.reason,
            &["soak-0.6 did not pass", "error-rate", "without verdict for 5m", "stopped there"],
        );
        let (lasted, ..) = soak(&report, "soak-0.6").unwrap();
        assert!((5 * MINUTE..6 * MINUTE).contains(&lasted), "{lasted:?}");
        assert_eq!((site.smallest(API), site.size(API), site.size(WORKER)), (30, (40, 40), (24, 24)));
    }
}

/// Erratum 8: the commands stay at the size that caused the errors.
#[tokio::test]
async fn the_size_that_errors_came_with_is_left() {
    let fault = || Fault::too_few_replicas(API, 30, 5, 600 * MINUTE);
    let site = Site::new(quiet().with_fault(SECOND, fault()));
    assert_eq!(by_hand(&site).await, [40, 30, 20]);
    site.world.pass(30 * MINUTE);
    assert_eq!(site.world.snapshot().error_rate, Some(0.05), "users go on seeing errors");

    let site = Site::new(quiet().with_fault(SECOND, fault()));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!(site.size(API), (30, 30));
    site.world.pass(MINUTE);
    assert_eq!(site.world.snapshot().error_rate, Some(0.0));
    let seconds_of_errors = site.world.history().iter().filter(|frame| frame.error_rate > Some(0.01)).count();
    assert!(seconds_of_errors < 150, "{seconds_of_errors} s");
}

/// The first erratum: an autoscaler takes back what is scaled past it.
#[tokio::test]
async fn an_autoscaler_is_told_and_not_fought() {
    let site = Site::new(crate::site::autoscaled());
    assert_eq!(by_hand(&site).await, [40, 30, 20, 15]);
    site.world.pass(MINUTE);
    assert_eq!(site.size(API).0, 50, "the commands came to nothing");

    let site = Site::new(crate::site::autoscaled());
    let report = site.descend().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.minimum(), Some(15));
    site.world.pass(MINUTE);
    assert_eq!(site.size(API).0, 15);
}
