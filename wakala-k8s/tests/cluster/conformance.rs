//! The checks that `wakala-core` has for every implementation of its traits.

use wakala_core::testing::conformance::{SettingCase, StepCase, TargetCase};
use wakala_core::{ScalableTargetExt, Units};
use wakala_k8s::{TemplateEnv, Workload};
use wakala_testbed as bed;

use crate::support::{MINUTE, cluster, cx};

async fn deployment_of_3() -> Workload {
    let (cluster, namespace) = cluster("conforming").await;
    namespace.create(&bed::Workload::new("api", 3).with_env("MODE", "calm").deployment()).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    api.wait_ready(&cx(), Units(3), MINUTE).await.unwrap();
    api
}

async fn deployment() -> TargetCase {
    let api = deployment_of_3().await;
    let (cluster, _) = cluster("empty").await;
    let missing = Workload::deployment(&cluster, api.namespace(), "nobody");
    TargetCase::new(api).with_missing(missing)
}

async fn stateful_set() -> TargetCase {
    let (cluster, namespace) = cluster("conforming").await;
    namespace.create(&bed::Workload::new("redis", 1).stateful_set()).await.unwrap();
    let redis = Workload::stateful_set(&cluster, namespace.name(), "redis");
    redis.wait_ready(&cx(), Units(1), MINUTE).await.unwrap();
    TargetCase::new(redis).with_missing(Workload::stateful_set(&cluster, namespace.name(), "nobody"))
}

async fn variables() -> TemplateEnv {
    let api = deployment_of_3().await;
    TemplateEnv::of(&api).with_variable("MODE", "burst").with_variable("LIMIT", "10000")
}

async fn template_env() -> SettingCase<TemplateEnv> {
    variables().await.into()
}

async fn template_env_step() -> StepCase {
    StepCase::new(variables().await.step("env"))
}

mod a_deployment {
    wakala_core::target_conformance!(super::deployment);
}

mod a_stateful_set {
    wakala_core::target_conformance!(super::stateful_set);
}

mod variables_of_a_template {
    wakala_core::setting_conformance!(super::template_env);
}

mod the_step_of_variables {
    wakala_core::step_conformance!(super::template_env_step);
}
