//! The API server goes away in the middle of a run.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::{
    Approval, ChannelObserver, ErrorKind, Event, Notice, Playbook, RaiseFloor, Record, Revert, ScaleUp,
    Status, StepOutcome, sequence, step,
};
use wakala_k8s::{Cluster, HorizontalAutoscaler, Workload};

use crate::bed::{Bed, DEADLINE, EKS, Operator, Shape, Site, assert_says, sizes};

#[tokio::test]
async fn the_api_server_goes_and_comes_back() {
    let bed = Bed::start().await;
    let site = Site::on(&bed.control_plane, &bed.aws, Shape::SMALL).await;
    let before = site.seen().await;
    comes_back(&bed, &site).await;
    stays_away(&bed, &before, &site).await;
}

async fn comes_back(bed: &Bed, site: &Site) {
    let (observer, mut events) = ChannelObserver::new();
    let playbook = Shape::small_parameters().playbook(&site.production().await).unwrap();
    let operator = Operator::observed(playbook, Arc::new(observer));
    let plan = operator.plan().await.unwrap();
    let approval = Approval::of(&plan, "test");
    let run = operator.engine.run(&operator.playbook, &plan, &approval, &operator.run);
    let outage = async {
        let mut stopped = false;
        while let Some(event) = events.recv().await {
            match event {
                Event::Record(entry) if matches!(&entry.record, Record::Applied { step, .. } if step.as_str() == "api") =>
                {
                    bed.control_plane.stop_api_server().await.unwrap();
                    stopped = true;
                }
                // The run has noticed.
                Event::Notice { notice: Notice::Retrying { .. }, .. } if stopped => break,
                _ => {}
            }
        }
        bed.control_plane.start_api_server().await.unwrap();
        stopped
    };
    let (report, stopped) = tokio::join!(run, outage);
    let report = report.unwrap();
    assert!(stopped, "{report}");
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let after = site.seen().await;
    assert_eq!((after.api_ready, after.cache_ready, after.hpa), (4, 2, Some((4, 8))));
    assert_eq!((after.replica_sets, after.revision.as_str()), (2, "2"));
    assert_eq!(bed.aws.nodegroup_sizes(EKS, &site.group).await.unwrap(), sizes(3, 3, 8));
    operator.revert(Revert::Everything).await;
}

/// With limits of seconds, since the playbook's own are minutes.
async fn stays_away(bed: &Bed, before: &crate::bed::Seen, site: &Site) {
    wakala_testbed::wait_until("the autoscaler's floor is back", DEADLINE, || async {
        let seen = site.seen().await;
        if seen.hpa == before.hpa { Ok(()) } else { Err(format!("{seen:?}").into()) }
    })
    .await
    .unwrap();
    let cluster = Cluster::from_kubeconfig(site.access().kubeconfig_path(), None).await.unwrap();
    let api = Workload::deployment(&cluster, site.namespace.name(), "wakala-api");
    let limit = Duration::from_secs(6);
    let floor = RaiseFloor::to(Arc::new(HorizontalAutoscaler::of(&api)), 6).step("floor");
    let scale = ScaleUp::to(Arc::new(api), 6).with_floor_raised().step("scale");
    let playbook = Playbook::builder("small")
        .then(sequence([step(floor).with_limit(limit).into(), step(scale).with_limit(limit).into()]))
        .build()
        .unwrap();
    let (observer, mut events) = ChannelObserver::new();
    let operator = Operator::observed(playbook, Arc::new(observer));
    let plan = operator.plan().await.unwrap();
    let approval = Approval::of(&plan, "test");
    let run = operator.engine.run(&operator.playbook, &plan, &approval, &operator.run);
    let outage = async {
        while let Some(event) = events.recv().await {
            if matches!(event.record(), Some(Record::Verified { step }) if step.as_str() == "floor") {
                return bed.control_plane.stop_api_server().await.unwrap();
            }
        }
    };
    let (report, ()) = tokio::join!(run, outage);
    let report = report.unwrap();
    assert_eq!(report.status, Status::Held, "{report}");
    let StepOutcome::Failed { failure, .. } = &report.step("scale").unwrap().outcome else {
        panic!("{report}")
    };
    assert!(matches!(failure.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded), "{report}");
    assert_says(&report.reason, &["step scale failed", "wakala-api", "what was done is kept"]);
    assert_eq!(report.step("floor").unwrap().outcome, StepOutcome::Done);
    assert!(report.residuals.iter().any(|left| left.step.as_str() == "floor" && left.certain), "{report}");

    // Taking back without it is stuck, is said, and can be repeated.
    let stuck = operator.revert(Revert::Everything).await;
    assert_eq!(stuck.status, Status::Stuck, "{stuck}");
    assert_says(&stuck, &["UNDO FAILED", "a person must look"]);
    bed.control_plane.start_api_server().await.unwrap();
    operator.revert(Revert::Everything).await;
    assert_eq!(site.seen().await.hpa, before.hpa);
}
