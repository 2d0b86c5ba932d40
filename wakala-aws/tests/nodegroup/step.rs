//! From plan to nodes that are ready.

use std::sync::Arc;
use std::time::Duration;

use wakala_aws::{NodeGroup, NodeGroupSize, iam_policy};
use wakala_core::{
    Applied, ChannelObserver, Engine, ErrorKind, Event, Notice, Record, Status, StepOutcome, step,
};
use wakala_testbed::aws::Operation;

use crate::rig::{Rig, connect, outcome, until};

#[tokio::test]
async fn raises_min_with_desired_and_follows_the_update_to_ready_nodes() {
    let mut rig = Rig::start().await;
    rig.endpoint.set_update_duration(Duration::from_secs(1));
    let (observer, mut events) = ChannelObserver::new();
    rig.engine = Engine::new().with_observer(Arc::new(observer));
    let run = rig.run_to_30().await;

    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert_eq!(*outcome(&run.report), StepOutcome::Done);
    assert_eq!(rig.sizes().await, (30, 30, 50));
    // One call, of what differs and no more.
    assert_eq!(rig.asked(), [(Some(30), Some(30), None)]);
    let started = run.report.journal.iter().find_map(|entry| match &entry.record {
        Record::Applied { applied: Applied::Started(update), .. } => Some(update.clone()),
        _ => None,
    });
    let followed = rig.endpoint.calls_of(Operation::DescribeUpdate);
    let path = format!("/clusters/prod/updates/{}", started.expect("the run keeps the update's id"));
    assert!(!followed.is_empty() && followed.iter().all(|call| call.path == path), "{followed:?}");
    assert!(rig.endpoint.calls_of(Operation::ListUpdates).is_empty());

    let mut progress = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Notice { notice: Notice::Progress { done, total, note, .. }, .. } = event {
            progress.push((done, total, note));
        }
    }
    let (done, total, note) = progress.first().expect("progress while the update goes on");
    assert_eq!((*done, *total), (10, 30));
    assert!(note.starts_with("10 of 30 nodes ready, ConfigUpdate "), "{note}");
    assert_eq!(progress.last().map(|(done, total, _)| (*done, *total)), Some((30, 30)));
}

#[tokio::test]
async fn plan_shows_sizes_undo_and_the_least_policy() {
    let rig = Rig::start().await;
    let run = rig.run_to_30().await;
    let text = run.plan.to_string();
    for line in [
        "scale node group prod/api to at least 30 nodes",
        "desired  10 -> 30",
        "min      2 -> 30",
        "undo: min and max go back; desired stays 30 (was 10)",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    let policy = iam_policy(&run.plan.permissions());
    let statements = policy["Statement"].as_array().unwrap();
    assert_eq!(statements.len(), 2, "{policy:#}");
    let group = statements[0]["Resource"][0].as_str().unwrap();
    assert!(group.starts_with("arn:aws:eks:us-east-1:123456789012:"), "{policy:#}");
    for action in ["DescribeNodegroup", "DescribeUpdate", "ListUpdates", "UpdateNodegroupConfig"] {
        assert!(policy.to_string().contains(&format!("eks:{action}")), "{policy:#}");
    }
    assert!(!policy.to_string().contains('*'), "the account and the group are known: {policy:#}");
}

#[tokio::test]
async fn waits_for_nodes_that_join_after_the_update() {
    let rig = Rig::start().await;
    let late = Late::new(10);
    let group = rig.uncounted().with_readiness(Arc::clone(&late) as _);
    let run = rig.run(NodeGroupSize::at_least(group, 30));
    let join = async {
        until("the sizes are there", || async { rig.sizes().await == (30, 30, 50) }).await;
        let looks = late.looks();
        until("nodes are counted after the update", || async { late.looks() > looks + 1 }).await;
        late.join(30);
    };
    let (run, ()) = tokio::join!(run, join);
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
}

#[tokio::test]
async fn without_a_counter_the_word_of_eks_has_to_do_and_the_plan_says_so() {
    let rig = Rig::start().await;
    let run = rig.run(NodeGroupSize::at_least(rig.uncounted(), 30)).await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert_eq!(rig.sizes().await, (30, 30, 50));
    assert!(run.plan.to_string().contains("nobody counts ready nodes"), "{}", run.plan);
}

#[tokio::test]
async fn a_larger_group_keeps_its_nodes_and_gets_the_minimum() {
    let rig = Rig::with_sizes(2, 40, 50).await;
    let run = rig.run_to_30().await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert_eq!(rig.asked(), [(Some(30), None, None)]);
    assert_eq!(rig.sizes().await, (30, 40, 50));
}

#[tokio::test]
async fn nothing_is_written_where_it_is_so_already() {
    let rig = Rig::with_sizes(30, 31, 50).await;
    let run = rig.run_to_30().await;
    assert_eq!(*outcome(&run.report), StepOutcome::WasSo);
    assert!(rig.updates().is_empty());
}

#[tokio::test]
async fn an_autoscaler_may_move_desired_between_plan_and_run() {
    let rig = Rig::start().await;
    for (moved, left) in [(14, 30), (36, 36)] {
        let playbook = wakala_core::Playbook::builder("more nodes")
            .then(step(NodeGroupSize::at_least(rig.group(), 30).step("nodes")))
            .build()
            .unwrap();
        let plan = rig.engine.plan(&playbook).await.unwrap();
        rig.set(None, Some(moved)).await;
        let run = wakala_core::RunHandle::generate();
        let approval = wakala_core::Approval::of(&plan, "ada");
        let report = rig.engine.run(&playbook, &plan, &approval, &run).await.unwrap();
        assert_eq!(report.status, Status::Succeeded, "{report}");
        assert_eq!(rig.sizes().await, (30, left, 50));
        rig.set(Some(2), Some(10)).await;
    }
}

#[tokio::test]
async fn a_bound_that_somebody_moved_is_drift() {
    let rig = Rig::start().await;
    let playbook = wakala_core::Playbook::builder("more nodes")
        .then(step(NodeGroupSize::at_least(rig.group(), 30).step("nodes")))
        .build()
        .unwrap();
    let plan = rig.engine.plan(&playbook).await.unwrap();
    rig.set(Some(5), None).await;
    rig.endpoint.clear_calls();
    let approval = wakala_core::Approval::of(&plan, "ada");
    let report =
        rig.engine.run(&playbook, &plan, &approval, &wakala_core::RunHandle::generate()).await.unwrap();
    assert!(report.reason.contains("min: 2 -> 5"), "{report}");
    assert!(rig.updates().is_empty());
}

#[tokio::test]
async fn sizes_that_cannot_be_are_refused_in_the_plan() {
    let rig = Rig::with_sizes(2, 10, 20).await;
    let cases = [
        (30, "30 nodes are above its maximum of 20; raise the maximum, allow raising_max, or choose less"),
        (0, "at least 0 nodes asks for nothing"),
    ];
    for (size, words) in cases {
        let error = rig.refused(NodeGroupSize::at_least(rig.group(), size)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.chain().contains("node group prod/api"), "{}", error.chain());
        assert!(error.chain().contains(words), "{}", error.chain());
    }
    let error = rig.refused(NodeGroupSize::at_least(rig.group(), u32::MAX).raising_max(true)).await;
    assert!(error.chain().contains("more than EKS can count"), "{}", error.chain());
}

#[tokio::test]
async fn raises_the_maximum_only_where_it_may() {
    let rig = Rig::with_sizes(2, 10, 20).await;
    let run = rig.run(NodeGroupSize::at_least(rig.group(), 30).raising_max(true)).await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert_eq!(rig.asked(), [(Some(30), Some(30), Some(30))]);
    assert_eq!(rig.sizes().await, (30, 30, 30));
}

#[tokio::test]
async fn unknown_names_are_named() {
    let rig = Rig::start().await;
    for (cluster, group) in [("prod", "nope"), ("nope", "api")] {
        let aws = connect(&rig.endpoint).await;
        let group = NodeGroup::new(&aws, cluster, group);
        let error = rig.refused(NodeGroupSize::at_least(group, 30)).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let chain = error.chain();
        for word in ["ResourceNotFoundException", "nope", "in region us-east-1", "request "] {
            assert!(chain.contains(word), "no {word:?} in {chain}");
        }
    }
}

#[tokio::test]
async fn a_group_on_its_way_out_is_refused() {
    use wakala_testbed::aws::NodegroupStatus::{CreateFailed, Deleting};
    let rig = Rig::start().await;
    for (status, word) in [(Deleting, "DELETING"), (CreateFailed, "CREATE_FAILED")] {
        rig.endpoint.set_nodegroup_status("prod", "api", status).await.unwrap();
        let error = rig.refused(NodeGroupSize::at_least(rig.group(), 30)).await;
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.chain().contains(&format!("it is {word}")), "{}", error.chain());
    }
}

#[tokio::test]
async fn somebody_elses_update_is_waited_for() {
    let rig = Rig::start().await;
    rig.endpoint.set_update_duration(Duration::from_secs(2));
    let label = rig.label_update().await;
    rig.endpoint.set_update_duration(Duration::from_millis(100));
    let run = rig.run_to_30().await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert!(run.plan.to_string().contains(&format!("ConfigUpdate {label} is in progress")), "{}", run.plan);
    assert_eq!(rig.sizes().await, (30, 30, 50));
}

/// Nodes that join when the test says so.
#[derive(Debug)]
struct Late {
    ready: std::sync::atomic::AtomicU32,
    looks: std::sync::atomic::AtomicU32,
}

impl Late {
    fn new(ready: u32) -> Arc<Self> {
        Arc::new(Self { ready: ready.into(), looks: 0.into() })
    }

    fn join(&self, ready: u32) {
        self.ready.store(ready, std::sync::atomic::Ordering::SeqCst);
    }

    fn looks(&self) -> u32 {
        self.looks.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl wakala_aws::NodeReadiness for Late {
    async fn ready(&self, _cx: &wakala_core::RunContext) -> wakala_core::Result<wakala_core::Units> {
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(wakala_core::Units(self.ready.load(std::sync::atomic::Ordering::SeqCst)))
    }
}
