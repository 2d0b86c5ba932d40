//! Other people at work on the same things.

use std::time::Duration;

use wakala_core::sim::Fault;
use wakala_core::{
    Approval, ErrorKind, Playbook, RunHandle, ScaleUp, Status, StepOutcome, Stop, Urgency, step,
};
use wakala_playbooks::gradual_scale_down::{GradualScaleDown, Simulated};

use crate::site::{API, MINUTE, Site, WORKER, assert_says, quiet, soak};

#[tokio::test]
async fn what_somebody_scaled_up_meanwhile_is_not_cut() {
    let site = Site::new(quiet());
    site.sabotage("soak-0.8", Fault::somebody_scales(API, 45));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_says(
        &report.reason,
        &["step api-0.6 failed", "changed by somebody else since the plan", "size: 40 -> 45"],
    );
    // Theirs stays; the worker, whose step came beside, is back where all was well.
    assert_eq!((site.size(API), site.size(WORKER)), ((45, 45), (24, 24)), "{report}");
}

#[tokio::test]
async fn what_somebody_made_smaller_is_never_made_larger() {
    let site = Site::new(quiet());
    site.sabotage("soak-0.8", Fault::somebody_scales(API, 25));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.sizes(API), [50, 40, 25, 20, 15]);
    assert_eq!(report.step("api-0.6").unwrap().outcome, StepOutcome::WasSo, "{report}");
    assert!(soak(&report, "soak-0.6").is_some(), "and watched all the same");
}

#[tokio::test]
async fn a_person_may_stop_it_where_it_is() {
    let site = Site::new(quiet());
    let run = site.run.clone();
    site.at("soak-0.6", move || run.stop(Stop::Keep));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Stopped, "{report}");
    assert_eq!((site.size(API), site.size(WORKER)), ((30, 30), (18, 18)));

    let site = Site::new(quiet());
    let run = site.run.clone();
    site.at("soak-0.6", move || run.stop(Stop::TakeBack));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!((site.size(API), site.size(WORKER)), ((50, 50), (30, 30)));
}

fn emergency(site: &Site) -> Playbook {
    Playbook::builder("emergency")
        .with_urgency(Urgency::Emergency)
        .then(step(ScaleUp::to(site.world.target(API), 48).step("api")))
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_emergency_takes_over_and_gives_the_original_size_back() {
    let site = Site::new(quiet());
    let plan = site.plan().await.unwrap();
    let approval = Approval::of(&plan, "test");
    let descent = site.engine.run(&site.playbook, &plan, &approval, &site.run);
    // In the soak after 0.6.
    let takeover = async {
        site.world.context().sleep(15 * MINUTE).await.unwrap();
        let playbook = emergency(&site);
        let plan = site.engine.plan(&playbook).await.unwrap();
        let run = RunHandle::new("emergency").superseding();
        let report = site.engine.run(&playbook, &plan, &Approval::of(&plan, "ana"), &run).await.unwrap();
        assert_eq!(report.status, Status::Succeeded, "{report}");
        let size = site.size(API).0;
        let everything = wakala_core::Revert::Everything;
        site.engine
            .revert(&playbook, &RunHandle::new("emergency"), everything)
            .await
            .map(|report| (size, report))
    };
    let (descent, takeover) = site.world.run(async { tokio::join!(descent, takeover) }).await;
    let descent = descent.unwrap();
    assert_eq!(descent.status, Status::Superseded, "{descent}");
    let (size, reverted) = takeover.unwrap();
    assert_eq!((size, reverted.status), (48, Status::Compensated), "{reverted}");
    site.world.pass(MINUTE);
    assert_eq!(site.size(API), (50, 50), "as before the descent, not as in its middle");
}

#[tokio::test]
async fn a_descent_waits_for_nobody_and_takes_nothing_over() {
    let site = Site::new(quiet());
    let plan = site.plan().await.unwrap();
    let approval = Approval::of(&plan, "test");
    let first = site.engine.run(&site.playbook, &plan, &approval, &site.run);
    let second = async {
        site.world.context().sleep(Duration::from_secs(30)).await.unwrap();
        let playbook = GradualScaleDown::default().playbook(&Simulated::new(&site.world)).unwrap();
        let run = RunHandle::new("second").superseding();
        let error = site.engine.run(&playbook, &plan, &Approval::of(&plan, "test"), &run).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert_says(error.chain(), &["descent"]);
    };
    let (report, ()) = site.world.run(async { tokio::join!(first, second) }).await;
    assert_eq!(report.unwrap().status, Status::Succeeded);
}
