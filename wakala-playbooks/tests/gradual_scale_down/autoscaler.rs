//! A production whose API is scaled by an autoscaler.

use wakala_core::sim::{Fault, Hpa, Load};
use wakala_core::{Autoscaler as _, Bounds, Status, StepOutcome};

use crate::site::{API, MINUTE, SECOND, Site, WORKER, assert_says, autoscaled, quiet};

#[tokio::test]
async fn its_minimum_comes_down_and_it_follows_the_load() {
    // Thirty would do.
    let site = Site::new(autoscaled().with_load(Load::constant(1900.0)));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    site.world.pass(10 * MINUTE);
    assert_eq!(site.minimum(), Some(15));
    let (size, _) = site.size(API);
    assert!((25..=32).contains(&size), "the load keeps it above its minimum: {size}");
    assert_eq!(site.sizes(WORKER), [30, 24, 18, 12, 9], "the worker has none");
    let writes = site
        .world
        .log()
        .iter()
        .filter(|seen| seen.text.starts_with("deployment production/wakala-api: replicas"))
        .count();
    assert_eq!(writes, 0, "nobody writes past it");
}

#[tokio::test]
async fn on_errors_its_minimum_and_its_replicas_come_back() {
    let fault = Fault::too_few_replicas(API, 40, 5, 600 * MINUTE);
    let site = Site::new(autoscaled().with_fault(SECOND, fault));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_says(&report.reason, &["soak-0.6 did not pass", "error-rate: FAIL"]);
    assert_eq!((site.minimum(), site.size(API)), (Some(40), (40, 40)));
}

#[tokio::test]
async fn a_minimum_that_is_low_already_is_left_and_the_plan_says_who_scales() {
    let site = Site::new(quiet().with_hpa(Hpa::on(API, 5, 50)));
    let plan = site.plan().await.unwrap();
    assert_says(
        &plan,
        &["HorizontalPodAutoscaler production/wakala-api sets the size", "only its minimum is lowered"],
    );
    for fraction in ["0.8", "0.6", "0.4", "0.3"] {
        assert!(plan.step(&format!("api-{fraction}").into()).unwrap().step.is_no_change());
    }
    let report = site.run(&plan).await.unwrap();
    assert_eq!((report.status, site.minimum()), (Status::Succeeded, Some(5)), "{report}");
}

#[tokio::test]
async fn a_minimum_that_somebody_raised_meanwhile_stops_the_run() {
    let site = Site::new(autoscaled());
    let world = site.world.clone();
    site.at("soak-0.8", move || {
        // An emergency: somebody wants at least 45 from here on.
        let (cx, autoscaler) = (world.context(), world.autoscaler(API));
        let clock = world.clock();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let raise = autoscaler.set_bounds(&cx, Bounds::new(45, 50).unwrap(), None);
                runtime.block_on(clock.run(raise)).unwrap();
            });
        });
    });
    let report = site.descend().await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_says(&report.reason, &["step api-0.6 failed", "changed by somebody else", "min: 40 -> 45"]);
    assert_eq!(site.minimum(), Some(45), "it is theirs");
    assert_eq!(site.size(WORKER), (24, 24));
    assert!(matches!(report.step("api-0.8").unwrap().outcome, StepOutcome::Done), "{report}");
}
