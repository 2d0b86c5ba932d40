use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use kube::api::ListParams;
use serde_json::json;
use wakala_core::{
    Applied, Engine, ErrorKind, Playbook, Retry, Revert, ScalableTarget, ScalableTargetExt, Setting, Status,
    Units, step,
};
use wakala_k8s::{TemplateEnv, Workload};
use wakala_testbed::{self as bed, TestNamespace, wait_until};

use crate::support::{
    MINUTE, cluster, cx, deployment, patch, replica_sets, run, scale_by_hand, stateful_set, succeeded,
    wait_ready,
};

fn limits(workload: &Workload) -> TemplateEnv {
    TemplateEnv::of(workload)
        .with_variable("RATE_LIMIT_REQUESTS", "10000")
        .with_variable("RATE_LIMIT_WINDOW", "60")
        .with_variable("AGGRESSIVE_CACHING", "true")
}

fn playbook(env: TemplateEnv) -> Playbook {
    Playbook::builder("limits").then(step(env.step("limits"))).build().unwrap()
}

/// The variables of all pods that are not on their way out.
async fn variables(namespace: &TestNamespace) -> Vec<Vec<String>> {
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let alive = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    alive
        .map(|pod| {
            let env = pod.spec.unwrap().containers.remove(0).env.unwrap_or_default();
            env.into_iter()
                .map(|entry| format!("{}={}", entry.name, entry.value.unwrap_or_default()))
                .collect()
        })
        .collect()
}

#[tokio::test]
async fn all_variables_are_one_rollout_and_undo_restores_the_template() {
    let (cluster, namespace) = cluster("env").await;
    let object = bed::Workload::new("api", 4)
        .with_env("FIRST", "1")
        .with_env("RATE_LIMIT_REQUESTS", "1000")
        .with_env("LAST", "9")
        .deployment();
    namespace.create(&object).await.unwrap();
    wait_ready(&namespace, "api", 4).await;
    let before = deployment(&namespace, "api").await.spec.unwrap().template;
    let sets = replica_sets(&namespace).await;
    assert_eq!(sets.len(), 1);

    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let (engine, playbook) = (Engine::new(), playbook(limits(&api)));
    let plan = engine.plan(&playbook).await.unwrap();
    let planned = plan.steps()[0].step.clone();
    let changes: Vec<_> = planned.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "env.AGGRESSIVE_CACHING: (none) -> true",
            "env.RATE_LIMIT_REQUESTS: 1000 -> 10000",
            "env.RATE_LIMIT_WINDOW: (none) -> 60",
        ]
    );
    assert!(planned.warnings[0].contains("restarts all 4 pods"), "{:?}", planned.warnings);
    assert_eq!(deployment(&namespace, "api").await.spec.unwrap().template, before, "planning changed it");

    let (handle, report) = run(&engine, &playbook).await.unwrap();
    succeeded(&report);
    assert_eq!(replica_sets(&namespace).await.len(), 2, "one more template, one more ReplicaSet");
    let expected =
        ["FIRST=1", "RATE_LIMIT_REQUESTS=10000", "LAST=9", "AGGRESSIVE_CACHING=true", "RATE_LIMIT_WINDOW=60"];
    let seen = variables(&namespace).await;
    assert_eq!(seen.len(), 4);
    for variables in seen {
        assert_eq!(
            variables.iter().filter(|variable| expected.contains(&variable.as_str())).count(),
            5,
            "{variables:?}"
        );
        assert_eq!(variables.len(), 5);
    }

    let report = engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!(deployment(&namespace, "api").await.spec.unwrap().template, before);
    api.wait_ready(&cx(), Units(4), MINUTE).await.unwrap();
    assert_eq!(replica_sets(&namespace).await.len(), 2, "the old ReplicaSet serves again");
    assert!(
        variables(&namespace)
            .await
            .iter()
            .all(|variables| variables.contains(&"RATE_LIMIT_REQUESTS=1000".into()))
    );
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_stateful_set_is_restarted_one_by_one_to_the_end() {
    let (cluster, namespace) = cluster("env-sts").await;
    namespace.create(&bed::Workload::new("redis", 3).stateful_set()).await.unwrap();
    let redis = Workload::stateful_set(&cluster, namespace.name(), "redis");
    redis.wait_ready(&cx(), Units(3), MINUTE).await.unwrap();
    let before = stateful_set(&namespace, "redis").await;

    let engine = Engine::new();
    let playbook = playbook(TemplateEnv::of(&redis).with_variable("MODE", "burst"));
    let (handle, report) = run(&engine, &playbook).await.unwrap();
    succeeded(&report);
    let after = stateful_set(&namespace, "redis").await.status.unwrap();
    assert_eq!((after.updated_replicas, after.ready_replicas), (Some(3), Some(3)));
    assert_ne!(after.current_revision, before.status.unwrap().current_revision);
    assert!(variables(&namespace).await.iter().all(|variables| *variables == ["MODE=burst"]));

    engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert_eq!(stateful_set(&namespace, "redis").await.spec.unwrap().template, before.spec.unwrap().template);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn what_is_so_already_restarts_nothing() {
    let (cluster, namespace) = cluster("env-same").await;
    namespace.create(&bed::Workload::new("api", 2).with_env("MODE", "burst").deployment()).await.unwrap();
    wait_ready(&namespace, "api", 2).await;
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let engine = Engine::new();
    let playbook = playbook(TemplateEnv::of(&api).with_variable("MODE", "burst"));
    assert_eq!(engine.plan(&playbook).await.unwrap().steps()[0].step.warnings, Vec::<String>::new());
    succeeded(&run(&engine, &playbook).await.unwrap().1);
    assert_eq!(replica_sets(&namespace).await.len(), 1);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_restored_or_rolled_out_is_refused_in_the_plan() {
    let (cluster, namespace) = cluster("env-refused").await;
    let from_field = EnvVar {
        value_from: serde_json::from_value(json!({"fieldRef": {"fieldPath": "metadata.name"}})).unwrap(),
        ..env_var("RATE_LIMIT_WINDOW")
    };
    let container = |name: &str, env| Container {
        name: name.into(),
        image: Some("api:1".into()),
        env: Some(env),
        ..Container::default()
    };
    let with = |name: &str, change: &dyn Fn(&mut Deployment)| {
        let mut object = bed::Workload::new(name, 1).deployment();
        change(&mut object);
        object
    };
    let containers = |object: &mut Deployment, list: Vec<Container>| {
        object.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers = list;
    };
    let objects = [
        (
            with("elsewhere", &|o| containers(o, vec![container("api", vec![from_field.clone()])])),
            "valueFrom",
        ),
        (with("several", &|o| containers(o, vec![container("a", vec![]), container("b", vec![])])), "(a, b)"),
        (with("paused", &|o| o.spec.as_mut().unwrap().paused = Some(true)), "kubectl rollout resume"),
        (bed::Workload::new("recreate", 1).with_recreate().deployment(), "Recreate"),
    ];
    for (object, word) in objects {
        let name = object.metadata.name.clone().unwrap();
        namespace.create(&object).await.unwrap();
        let workload = Workload::deployment(&cluster, namespace.name(), &name);
        let error = Engine::new().plan(&playbook(limits(&workload))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        let text = error.to_string();
        assert!(text.contains(word) && text.contains(workload.id().as_str()), "{text}");
    }

    let mut set = bed::Workload::new("by-hand", 1).stateful_set();
    set.spec.as_mut().unwrap().update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).unwrap();
    namespace.create(&set).await.unwrap();
    let workload = Workload::stateful_set(&cluster, namespace.name(), "by-hand");
    let error = Engine::new().plan(&playbook(limits(&workload))).await.unwrap_err();
    assert!(error.to_string().contains("OnDelete"), "{error}");

    // A name that the API server does not take is found by the rehearsal.
    let workload = Workload::deployment(&cluster, namespace.name(), "recreate");
    let odd = TemplateEnv::of(&workload).with_variable("A=B", "1").allowing_downtime(true);
    let error = Engine::new().plan(&playbook(odd)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("A=B"), "{error}");
    namespace.delete().await.unwrap();
}

fn env_var(name: &str) -> EnvVar {
    EnvVar { name: name.into(), ..EnvVar::default() }
}

#[tokio::test]
async fn a_write_holds_against_notes_and_yields_to_changes() {
    let (cluster, namespace) = cluster("env-race").await;
    namespace.create(&bed::Workload::new("api", 2).deployment()).await.unwrap();
    let env = limits(&Workload::deployment(&cluster, namespace.name(), "api"));
    let early = env.read(&cx()).await.unwrap();
    let wanted = env.desired(&early.value).unwrap();
    wait_ready(&namespace, "api", 2).await;
    assert_eq!(env.write(&cx(), &wanted, early.version.as_ref()).await.unwrap(), Applied::Changed);
    assert_eq!(env.write(&cx(), &wanted, None).await.unwrap(), Applied::NoChange);

    let seen = env.read(&cx()).await.unwrap();
    scale_by_hand(&namespace, "api", 3).await;
    let error = env.write(&cx(), &early.value, seen.version.as_ref()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Safe { after: None }));
    assert_eq!(env.read(&cx()).await.unwrap().value, wanted);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_variable_changed_by_somebody_else_is_left_alone_by_undo() {
    let (cluster, namespace) = cluster("env-ours").await;
    namespace.create(&bed::Workload::new("api", 1).deployment()).await.unwrap();
    wait_ready(&namespace, "api", 1).await;
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let (engine, playbook) = (Engine::new(), playbook(TemplateEnv::of(&api).with_variable("MODE", "burst")));
    let (handle, report) = run(&engine, &playbook).await.unwrap();
    succeeded(&report);
    let other = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "api", "image": "api:1", "env": [{"name": "MODE", "value": "mine"}]}
    ]}}}});
    patch::<Deployment>(&namespace, "api", other).await;
    let report = engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert!(report.to_string().contains("mine"), "{report}");
    let env = TemplateEnv::of(&api).with_variable("MODE", "").read(&cx()).await.unwrap().value.env;
    assert_eq!(env["MODE"].as_deref(), Some("mine"));
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_rollout_that_its_controller_gives_up_ends_the_step() {
    let (cluster, namespace) = cluster("env-stuck").await;
    // New pods wait for longer than anybody does.
    let mut object = bed::Workload::new("api", 1).with_ready_after(Duration::from_secs(3600)).deployment();
    object.spec.as_mut().unwrap().progress_deadline_seconds = Some(2);
    namespace.create(&object).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let (_, report) = run(&Engine::new(), &playbook(limits(&api))).await.unwrap();
    assert_eq!(report.status, Status::Held, "{report}");
    assert!(report.to_string().contains("progressDeadlineSeconds"), "{report}");

    let env = limits(&api);
    let error = wait_until("a rollout given up", MINUTE, || async {
        let seen = env.read(&cx()).await?;
        env.convergence(&cx(), &seen.value).await.err().ok_or_else(|| "it still follows".into())
    });
    let error = error.await.unwrap();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::DeadlineExceeded, Retry::Never));
    namespace.delete().await.unwrap();
}
