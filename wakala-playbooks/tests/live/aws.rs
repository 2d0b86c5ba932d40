//! AWS in trouble: at most one update, and its words in the report.

use std::time::Duration;

use wakala_core::{
    EffectKnown, ErrorKind, RunReport, ScalableTarget as _, ScaleOptions, Status, StepOutcome,
};
use wakala_playbooks::rapid_scale::RapidScale;
use wakala_testbed::aws::{AwsEndpoint, Fault, Operation, UpdateOutcome};

use crate::bed::{Bed, EKS, Shape, Site, assert_says, join_nodes, sizes};

const UPDATE: Operation = Operation::UpdateNodegroupConfig;

struct Trouble {
    aws: AwsEndpoint,
    site: Site,
    nodes: u32,
}

impl Trouble {
    /// On an endpoint of its own: a fault strikes whoever calls next.
    async fn start() -> Self {
        let control_plane = &Bed::shared().await.control_plane;
        let aws = AwsEndpoint::builder().start().await.unwrap();
        aws.create_cluster(EKS).await.unwrap();
        join_nodes(control_plane, &aws).await;
        let shape = Shape { nodes: (1, 2, 20), ..Shape::SMALL };
        let site = Site::on(control_plane, &aws, shape).await;
        Self { aws, site, nodes: 2 }
    }

    /// One node more than there are; all else is as it was after the first run.
    fn parameters(&self) -> RapidScale {
        let mut parameters = Shape::small_parameters();
        parameters.nodes = self.nodes + 1;
        parameters
    }

    async fn run(&mut self, faults: impl IntoIterator<Item = Fault>) -> RunReport {
        let operator = self.site.operator(&self.parameters()).await;
        let plan = operator.plan().await.unwrap();
        faults.into_iter().for_each(|fault| self.aws.inject(UPDATE, fault));
        self.aws.clear_calls();
        let report = operator.run(&plan).await;
        assert_eq!(self.aws.faults_left(), 0, "{report}");
        report
    }

    /// The run is through after so many calls, which were one update.
    async fn assert_one_update(&mut self, report: &RunReport, calls: usize) {
        assert_eq!(report.status, Status::Succeeded, "{report}");
        let made = self.aws.calls_of(UPDATE);
        assert_eq!(made.len(), calls, "{report}");
        let tokens: std::collections::BTreeSet<_> =
            made.iter().map(|call| call.client_request_token.clone().unwrap()).collect();
        assert_eq!(tokens.len(), 1, "a repetition must be known as one");
        self.nodes += 1;
        let now = self.aws.nodegroup_sizes(EKS, &self.site.group).await.unwrap();
        assert_eq!(now, sizes(self.nodes, self.nodes, 20));
    }

    async fn assert_held(&self, report: &RunReport, kind: ErrorKind, words: &[&str]) {
        assert_eq!(report.status, Status::Held, "{report}");
        let StepOutcome::Failed { effect, failure } = &report.step("nodes").unwrap().outcome else {
            panic!("{report}");
        };
        assert_eq!((failure.kind, *effect), (kind, EffectKnown::None), "{report}");
        assert_says(&report.reason, &["step nodes failed", &self.site.group]);
        assert_says(&report.reason, words);
        assert!(!report.residuals.iter().any(|left| left.step.as_str() == "nodes"), "{report}");
        let now = self.aws.nodegroup_sizes(EKS, &self.site.group).await.unwrap();
        assert_eq!(now, sizes(now.min, self.nodes, 20));
    }
}

#[tokio::test]
async fn trouble_with_the_node_group() {
    let mut trouble = Trouble::start().await;

    // Asked to slow down, in both of its forms.
    let report = trouble.run([Fault::throttled().times(2)]).await;
    trouble.assert_one_update(&report, 3).await;
    let report = trouble.run([Fault::request_limit_exceeded()]).await;
    trouble.assert_one_update(&report, 2).await;

    // The answer is lost: after the effect it is found, before it the call is made again.
    let report = trouble.run([Fault::dropped_connection().after_effect()]).await;
    trouble.assert_one_update(&report, 1).await;
    let report = trouble.run([Fault::dropped_connection()]).await;
    trouble.assert_one_update(&report, 2).await;
    let report = trouble.run([Fault::server_error().after_effect()]).await;
    trouble.assert_one_update(&report, 1).await;

    // Busy for a moment, as EKS answers it.
    let busy = Fault::error(409, "ResourceInUseException", "Nodegroup has an update in progress");
    let report = trouble.run([busy.times(2)]).await;
    trouble.assert_one_update(&report, 3).await;

    // Not allowed: known only now, since EKS has no rehearsal.
    let report = trouble.run([Fault::access_denied()]).await;
    trouble.assert_held(&report, ErrorKind::Denied, &["eks:UpdateNodegroupConfig"]).await;
    assert_eq!(trouble.aws.calls_of(UPDATE).len(), 1);

    // Accepted, and failed afterwards.
    trouble.aws.script_update(UpdateOutcome::Failed {
        code: "NodeCreationFailure".into(),
        message: "no instance joined the cluster".into(),
    });
    let report = trouble.run([]).await;
    assert_eq!(report.status, Status::Held, "{report}");
    assert_says(
        &report.reason,
        &["step nodes failed", "NodeCreationFailure", "no instance joined the cluster"],
    );
    let now = trouble.aws.nodegroup_sizes(EKS, &trouble.site.group).await.unwrap();
    assert_eq!(now.desired, trouble.nodes);
}

#[tokio::test]
async fn another_change_of_the_node_group_is_waited_for() {
    let mut trouble = Trouble::start().await;
    let operator = trouble.site.operator(&trouble.parameters()).await;
    let plan = operator.plan().await.unwrap();

    // Somebody else's update, under way when the run begins.
    trouble.aws.set_update_duration(Duration::from_secs(2));
    let theirs = trouble.site.node_group().await;
    let cx =
        wakala_core::RunContext::new("theirs".into(), std::sync::Arc::new(wakala_core::SystemClock::new()));
    theirs.set_desired(&cx, 4.into(), ScaleOptions::default()).await.unwrap();
    trouble.aws.clear_calls();
    let report = operator.run(&plan).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(trouble.aws.calls_of(UPDATE).len(), 1, "it was waited for, not run into\n{report}");
    // Theirs is larger and stays; ours is the minimum.
    let now = trouble.aws.nodegroup_sizes(EKS, &trouble.site.group).await.unwrap();
    assert_eq!(now, sizes(3, 4, 20));
    trouble.nodes = 4;
}
