//! Stopped by a person: what the report says is what there is.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use wakala_core::{
    Approval, ChannelObserver, Event, Notice, Record, Revert, RunHandle, RunReport, Status, StepOutcome, Stop,
};
use wakala_playbooks::rapid_scale::RapidScale;

use crate::bed::{Bed, EKS, Operator, Seen, Shape, Site, assert_says, sizes};

/// Runs until `moment`, then stops.
async fn stopped(
    site: &Site,
    parameters: &RapidScale,
    stop: Stop,
    moment: impl Fn(&Event) -> bool,
) -> (Operator, RunReport) {
    let (observer, events) = ChannelObserver::new();
    let playbook = parameters.playbook(&site.production().await).unwrap();
    let operator = Operator::observed(playbook, std::sync::Arc::new(observer));
    let plan = operator.plan().await.unwrap();
    let approval = Approval::of(&plan, "test");
    let run = operator.engine.run(&operator.playbook, &plan, &approval, &operator.run);
    let (report, ()) = tokio::join!(run, stop_at(events, &operator.run, stop, moment));
    (operator, report.unwrap())
}

async fn stop_at(
    mut events: UnboundedReceiver<Event>,
    run: &RunHandle,
    stop: Stop,
    moment: impl Fn(&Event) -> bool,
) {
    while let Some(event) = events.recv().await {
        if moment(&event) {
            return run.stop(stop);
        }
    }
}

fn long_soak() -> RapidScale {
    let mut parameters = Shape::small_parameters();
    parameters.soak = Duration::from_secs(600);
    parameters
}

fn soaking(event: &Event) -> bool {
    matches!(event, Event::Notice { notice: Notice::Soaking { .. }, .. })
}

#[tokio::test]
async fn in_the_soak() {
    let (bed, site) = (Bed::shared().await, Site::new(Shape::SMALL).await);
    let before = site.seen().await;
    let (operator, report) = stopped(&site, &long_soak(), Stop::Keep, soaking).await;
    assert_eq!(report.status, Status::Stopped, "{report}");
    assert!(report.steps.iter().all(|step| step.outcome == StepOutcome::Done), "{report}");
    assert!(report.residuals.iter().all(|left| left.certain), "{report}");
    let kept = site.seen().await;
    assert_eq!((kept.api_ready, kept.cache_ready, kept.hpa), (4, 2, Some((4, 8))));
    assert_eq!(bed.aws.nodegroup_sizes(EKS, &site.group).await.unwrap(), sizes(3, 3, 8));
    assert_eq!(report.obligations.len(), 3);

    let reverted = operator.revert(Revert::Everything).await;
    assert_left(&site, &before, 2, &reverted).await;

    // The same again, now with the three nodes that were left, taken back at once.
    let (_, report) = stopped(&site, &long_soak(), Stop::TakeBack, soaking).await;
    assert_left(&site, &before, 3, &report).await;
    assert_says(&report.reason, &["stopped as asked"]);
}

#[tokio::test]
async fn in_the_middle_of_the_steps() {
    let (bed, site) = (Bed::shared().await, Site::new(Shape::SMALL).await);
    let before = site.seen().await;
    let scaled = |event: &Event| matches!(event.record(), Some(Record::Applied { step, .. }) if step.as_str() == "api");
    let (operator, report) = stopped(&site, &long_soak(), Stop::Keep, scaled).await;
    assert_eq!(report.status, Status::Stopped, "{report}");
    assert_eq!(report.step("limits").unwrap().outcome, StepOutcome::NotBegun);
    let kept = site.seen().await;
    assert_eq!((kept.api, kept.hpa), (4, Some((4, 8))));
    assert_eq!(kept.template, before.template);
    // Each change is in the report, and each one in the report may be there.
    let changed = |step: &str| report.residuals.iter().any(|left| left.step.as_str() == step);
    assert!(changed("api") && changed("api-floor") && !changed("limits"), "{report}");
    assert_eq!(changed("cache"), report.step("cache").unwrap().outcome != StepOutcome::NotBegun);
    assert!(changed("cache") || kept.cache == before.cache, "{report}");
    let nodes = bed.aws.nodegroup_sizes(EKS, &site.group).await.unwrap();
    assert!(changed("nodes") || nodes == sizes(1, 2, 8), "{report}");

    let reverted = operator.revert(Revert::Everything).await;
    assert_left(&site, &before, 2, &reverted).await;
}

/// All settings are back; the pods of the API and the nodes are left to their autoscalers, and that is said.
async fn assert_left(site: &Site, before: &Seen, desired: u32, report: &RunReport) {
    let after = site.seen().await;
    assert_eq!((after.hpa, after.cache), (before.hpa, before.cache), "{report}");
    assert_eq!(after.template, before.template, "{report}");
    let nodes = Bed::shared().await.aws.nodegroup_sizes(EKS, &site.group).await.unwrap();
    assert_eq!((nodes.min, nodes.max), (1, 8), "{report}");
    match report.status {
        Status::Held => assert_says(&report.reason, &["nodes only in part"]),
        status => assert_eq!((status, nodes.desired), (Status::Compensated, desired), "{report}"),
    }
}
