//! The whole of it, at the runbook's size.

use std::collections::BTreeMap;

use wakala_core::{Revert, Status, StepOutcome};
use wakala_testbed::wait_until;

use crate::bed::{Bed, DEADLINE, EKS, Shape, Site, assert_says, rehearsal, sizes};

#[tokio::test]
async fn the_runbook_there_and_back() {
    let (bed, site) = (Bed::shared().await, Site::new(Shape::FULL).await);
    let before = site.seen().await;
    assert_eq!((before.api, before.hpa, before.replica_sets), (10, Some((5, 50)), 1));
    let operator = site.operator(&rehearsal()).await;
    let plan = operator.plan().await.unwrap();
    assert_eq!(plan.refusals().count(), 0, "{plan}");
    assert_eq!(site.seen().await, before, "planning only reads");

    let report = operator.run(&plan).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert!(report.steps.iter().all(|step| step.outcome == StepOutcome::Done), "{report}");
    let after = site.seen().await;
    assert_eq!((after.hpa, after.api, after.api_ready, after.api_updated), (Some((50, 50)), 50, 50, 50));
    assert_eq!((after.cache, after.cache_ready), (5, 5));
    assert_eq!(bed.aws.nodegroup_sizes(EKS, &site.group).await.unwrap(), sizes(30, 30, 50));
    let groups = bed.control_plane.node_groups().await.unwrap();
    assert_eq!(groups.ready(&site.group).await.unwrap().len(), 30);
    // Three variables, one restart.
    assert_eq!((after.replica_sets, after.revision.as_str()), (2, "2"));
    assert_eq!(
        after.env(),
        BTreeMap::from(
            [
                ("AGGRESSIVE_CACHING", "true"),
                ("OTHER", "untouched"),
                ("RATE_LIMIT_REQUESTS", "10000"),
                ("RATE_LIMIT_WINDOW", "60"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        )
    );
    let owed: Vec<_> = report.obligations.iter().map(|owed| owed.step.as_str()).collect();
    assert_eq!(owed, ["nodes", "api-floor", "limits"]);

    let reverted = operator.revert(Revert::Temporary).await;
    // The template is back; its rollout goes on by itself.
    wait_until("the restart is through", DEADLINE, || async {
        let seen = site.seen().await;
        // All of the new template are made, and ready, while surplus pods of the old one still are: through is when none is.
        let through = (seen.api_pods, seen.api_ready, seen.api_updated) == (50, 50, 50);
        if through { Ok(()) } else { Err(format!("{seen:?}").into()) }
    })
    .await
    .unwrap();
    let back = site.seen().await;
    assert_eq!(back.hpa, Some((5, 50)));
    assert_eq!(back.template, before.template, "the environment exactly as it was");
    // The Deployment is back at the ReplicaSet that it had.
    assert_eq!((back.replica_sets, back.revision.as_str()), (2, "3"));
    assert_eq!((back.api, back.api_ready, back.cache), (50, 50, 5), "capacity is left to its autoscalers");
    assert_eq!(bed.aws.nodegroup_sizes(EKS, &site.group).await.unwrap(), sizes(5, 30, 50));
    // The nodes themselves are left to whoever drains them, and that is said.
    assert_eq!(reverted.status, Status::Held, "{reverted}");
    assert_says(&reverted, &["nodes", "taken back in part"]);

    let again = operator.revert(Revert::Temporary).await;
    assert_eq!((site.seen().await, again.steps), (back, reverted.steps));
}

#[tokio::test]
async fn a_deployment_without_autoscaler_is_scaled_alone() {
    let site = Site::new(Shape { hpa: None, ..Shape::SMALL }).await;
    let before = site.seen().await;
    let operator = site.operator(&Shape::small_parameters()).await;
    let plan = operator.plan().await.unwrap();
    assert!(plan.step(&"api-floor".into()).unwrap().step.is_no_change(), "{plan}");
    let report = operator.run(&plan).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(report.step("api-floor").unwrap().outcome, StepOutcome::WasSo);
    let after = site.seen().await;
    assert_eq!((after.api, after.api_ready, after.hpa), (4, 4, None));

    // Nobody else lowers it, so taking back everything does.
    operator.revert(Revert::Everything).await;
    wait_until("pods are gone", DEADLINE, || async {
        let seen = site.seen().await;
        if (seen.api_ready, seen.cache_ready) == (2, 1) { Ok(()) } else { Err(format!("{seen:?}").into()) }
    })
    .await
    .unwrap();
    let back = site.seen().await;
    assert_eq!((back.api, back.cache, back.template), (before.api, before.cache, before.template));
}
