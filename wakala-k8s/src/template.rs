//! Environment variables of a workload's pods: all changes of a run as one change of the pod template.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wakala_core::{
    Applied, Convergence, Error, ErrorKind, Result, Retry, RunContext, Setting, SettingInfo, SettingStep,
    StepId, Units, Version, Versioned,
};

use crate::Workload;
use crate::config::refuse;
use crate::error::is_lost_race;
use crate::permissions::permit;
use crate::snapshot::{Rollout, Snapshot, Strategy};
use crate::workload::RACES;

/// Without a change, how long until the pods are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Environment variables of one container of a [`Workload`] as a setting, for the whole of a run.
///
/// Each change of a pod template replaces all pods, so the variables that a run changes belong into one
/// `TemplateEnv`, which writes them as one patch: one rollout. Undo puts back the values that there were and takes away
/// variables that there were not; the template is then exactly what it was, and a Deployment goes back to the
/// ReplicaSet that it had. Variables that are not named are never touched.
///
/// It is in force once the rollout is through, as `kubectl rollout status` judges.
///
/// Refused while planning, with `InvalidConfig`: a variable that takes its value from elsewhere (`valueFrom`), a
/// Deployment that is paused, a StatefulSet whose pods are replaced by hand only (`OnDelete`), and a Deployment that
/// stops all pods at once (`Recreate`) unless [`allowing_downtime`](Self::allowing_downtime).
///
/// Values are shown in plans and journals. They are not for secrets.
#[derive(Clone, Debug)]
pub struct TemplateEnv {
    workload: Workload,
    container: Option<String>,
    variables: BTreeMap<String, String>,
    size: Option<Units>,
    downtime: bool,
    expected: Duration,
}

/// The value of [`TemplateEnv`] in a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnvValues {
    /// The variables that the setting names; `None` for one that is not there.
    pub env: BTreeMap<String, Option<String>>,
    // What they were read from: a circumstance of the values and not a part of them.
    #[serde(skip)]
    seen: Option<Box<Snapshot>>,
}

impl PartialEq for EnvValues {
    fn eq(&self, other: &Self) -> bool {
        self.env == other.env
    }
}

impl TemplateEnv {
    /// Variables of the only container of `workload`; add them by [`with_variable`](Self::with_variable).
    pub fn of(workload: &Workload) -> Self {
        Self {
            workload: workload.clone(),
            container: None,
            variables: BTreeMap::new(),
            size: None,
            downtime: false,
            expected: Duration::from_secs(180),
        }
    }

    /// Sets `name` to `value`.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Sets all of `variables`.
    #[must_use]
    pub fn with_variables<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<String>,
    {
        self.variables.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Names the container, where pods have several.
    #[must_use]
    pub fn with_container(mut self, name: impl Into<String>) -> Self {
        self.container = Some(name.into());
        self
    }

    /// Says how many pods there will be when they are replaced, for the plan's warnings; as many as now, as given.
    #[must_use]
    pub fn with_size(mut self, size: impl Into<Units>) -> Self {
        self.size = Some(size.into());
        self
    }

    /// Allows a change that stops all pods before new ones start.
    #[must_use]
    pub fn allowing_downtime(mut self, allowed: bool) -> Self {
        self.downtime = allowed;
        self
    }

    /// Says how long the rollout takes; three minutes as given.
    #[must_use]
    pub fn with_expected(mut self, expected: Duration) -> Self {
        self.expected = expected;
        self
    }

    /// The step of that name.
    pub fn step(self, id: impl Into<StepId>) -> SettingStep<Self> {
        SettingStep::new(id, self)
    }

    fn values(&self, snapshot: Snapshot) -> Result<Versioned<EnvValues>> {
        let container = self.container(&snapshot)?;
        let mut env = BTreeMap::new();
        for name in self.variables.keys() {
            env.insert(name.clone(), self.value(container, name)?);
        }
        let version = version(&snapshot);
        Ok(Versioned::at(EnvValues { env, seen: Some(Box::new(snapshot)) }, Some(version)))
    }

    fn container<'a>(&self, snapshot: &'a Snapshot) -> Result<&'a Container> {
        let containers =
            snapshot.template.spec.as_ref().map_or(&[][..], |PodSpec { containers, .. }| containers);
        let names =
            || containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ");
        match (&self.container, containers) {
            (None, [only]) => Ok(only),
            (None, _) => Err(refuse(
                &self.workload,
                format!(
                    "its pods have several containers ({}); name the one whose variables are meant",
                    names()
                ),
            )),
            (Some(name), _) => containers.iter().find(|container| container.name == *name).ok_or_else(|| {
                refuse(&self.workload, format!("its pods have no container {name}; there are: {}", names()))
            }),
        }
    }

    fn value(&self, container: &Container, name: &str) -> Result<Option<String>> {
        let mut entries = container.env.iter().flatten().filter(|entry| entry.name == name);
        let Some(EnvVar { value, value_from, .. }) = entries.next() else { return Ok(None) };
        let whose = || format!("variable {name} of container {}", container.name);
        if entries.next().is_some() {
            let message =
                format!("{} is there twice; remove one, since no patch can tell them apart", whose());
            return Err(refuse(&self.workload, message));
        }
        if value_from.is_some() {
            let message = format!(
                "{} takes its value from elsewhere (valueFrom); change it there, or leave it out here",
                whose()
            );
            return Err(refuse(&self.workload, message));
        }
        Ok(Some(value.clone().unwrap_or_default()))
    }

    fn check_strategy(&self, seen: &Snapshot) -> Result<()> {
        let message = if seen.paused {
            "its rollout is paused, so nothing would restart; kubectl rollout resume first"
        } else if seen.strategy == Strategy::OnDelete {
            "its pods take a new template only when somebody deletes them (OnDelete); change the update strategy"
        } else if seen.strategy == Strategy::Recreate && !self.downtime {
            "it stops all pods before new ones start (Recreate); change the strategy, or allow the downtime"
        } else {
            return Ok(());
        };
        Err(refuse(&self.workload, message))
    }

    /// The patch that leaves a template of `snapshot` with `values`; `None` where it has them.
    ///
    /// A strategic merge, by which Kubernetes merges `containers` and `env` by name: what is not named stays as it is
    /// and where it is, and a variable that was added is taken away without a trace. Server-side apply would have to
    /// take the fields over from whoever manages them; given up again, they are removed and not put back, and the
    /// managers recorded on the object are others than before.
    fn merge(&self, snapshot: &Snapshot, values: &EnvValues) -> Result<Option<Value>> {
        let container = self.container(snapshot)?;
        let mut entries = Vec::new();
        for (name, value) in &values.env {
            let current = self.value(container, name)?;
            match value {
                _ if current == *value => {}
                Some(value) => entries.push(json!({"name": name, "value": value})),
                None => entries.push(json!({"$patch": "delete", "name": name})),
            }
        }
        let containers = json!([{"name": container.name, "env": entries}]);
        let patch = json!({
            "metadata": {"resourceVersion": snapshot.resource_version},
            "spec": {"template": {"spec": {"containers": containers}}},
        });
        Ok((!entries.is_empty()).then_some(patch))
    }

    async fn put(
        &self,
        cx: &RunContext,
        operation: &'static str,
        values: &EnvValues,
        expected: Option<&Version>,
        dry_run: bool,
    ) -> Result<Applied> {
        let mut race = 1;
        loop {
            let snapshot = self.workload.snapshot(cx, operation).await?;
            if expected.is_some_and(|expected| *expected != version(&snapshot)) {
                let message = "changed by somebody else meanwhile; look again";
                let error = Error::new(ErrorKind::Conflict, operation, message).on(&self.workload);
                return Err(error.with_retry(Retry::Safe { after: None }));
            }
            let Some(patch) = self.merge(&snapshot, values)? else { return Ok(Applied::NoChange) };
            match self.workload.patch(cx, operation, &patch, dry_run).await {
                Ok(_) => return Ok(Applied::Changed),
                // Lost to a note of the controller, unless the next look shows another generation.
                Err(error) if is_lost_race(&error) && race < RACES => race += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The generation counts changes of the specification; the resource version would also count each pod that gets ready.
fn version(snapshot: &Snapshot) -> Version {
    format!("generation {}", snapshot.generation).into()
}

#[async_trait]
impl Setting for TemplateEnv {
    type Value = EnvValues;

    fn info(&self) -> SettingInfo {
        let names: Vec<_> = self.variables.keys().map(String::as_str).collect();
        let mut permissions = self.workload.read_permissions();
        let resource = format!("apps/{}", self.workload.plural());
        let (namespace, name) = (self.workload.namespace(), self.workload.name());
        permissions.extend(permit(&["patch"], &resource, namespace, name));
        SettingInfo::new(format!("set {} of {}", names.join(", "), self.workload), self.workload.key())
            .with_permissions(permissions)
            .with_expected(self.expected)
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<EnvValues>> {
        self.values(self.workload.snapshot(cx, "read").await?)
    }

    async fn write(&self, cx: &RunContext, value: &EnvValues, expected: Option<&Version>) -> Result<Applied> {
        self.put(cx, "write", value, expected, false).await
    }

    fn desired(&self, current: &EnvValues) -> Result<EnvValues> {
        if self.variables.is_empty() {
            return Err(refuse(&self.workload, "no variable is named; name one"));
        }
        let env = self.variables.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        let desired = EnvValues { env, seen: None };
        match &current.seen {
            Some(seen) if desired != *current => self.check_strategy(seen)?,
            _ => {}
        }
        Ok(desired)
    }

    fn warnings(&self, current: &EnvValues, desired: &EnvValues) -> Vec<String> {
        match &current.seen {
            Some(seen) if current != desired => {
                let size = self.size.map_or(seen.replicas, |size| size.0);
                restart_warnings(&self.workload, seen, size)
            }
            _ => Vec::new(),
        }
    }

    async fn rehearse(&self, cx: &RunContext, value: &EnvValues) -> Result<()> {
        self.put(cx, "rehearse", value, None, true).await.map(|_| ())
    }

    async fn convergence(&self, cx: &RunContext, current: &EnvValues) -> Result<Convergence> {
        let read;
        let seen = match &current.seen {
            Some(seen) => seen,
            None => {
                read = Box::new(self.workload.snapshot(cx, "convergence").await?);
                &read
            }
        };
        if let Some(error) = self.workload.given_up(cx, seen).await {
            return Err(error);
        }
        let Rollout::Following(how_far) = &seen.rollout else { return Ok(Convergence::Converged) };
        let note = match self.workload.problem(cx, seen).await {
            Some(problem) => format!("{how_far}: {problem}"),
            None => how_far.clone(),
        };
        cx.progress(0, 0, note.clone());
        Ok(Convergence::Following(note))
    }

    async fn changed(&self, cx: &RunContext, current: &EnvValues) -> Result<Versioned<EnvValues>> {
        let Some(seen) = &current.seen else { return self.read(cx).await };
        tokio::select! {
            changed = self.workload.next(cx, "changed", &seen.resource_version) => self.values(changed?),
            // A rollout that is stuck does not change, but what is known about the cause may.
            slept = cx.sleep(LOOK_AGAIN) => {
                slept?;
                self.read(cx).await
            }
        }
    }
}

fn restart_warnings(workload: &Workload, seen: &Snapshot, size: u32) -> Vec<String> {
    let mut warnings = Vec::new();
    let (surge, unavailable) = seen.strategy.limits(size);
    match &seen.strategy {
        Strategy::Recreate => {
            warnings.push(format!("STOPS ALL {size} pods of {workload} before new ones start (Recreate)"));
        }
        Strategy::Ordered { partition, .. } => {
            warnings.push(format!(
                "restarts all {size} pods of {workload}, {unavailable} at a time from the highest number down"
            ));
            if *partition > 0 {
                warnings.push(format!("pods numbered below {partition} keep the old values (partition)"));
            }
        }
        _ => warnings.push(format!(
            "restarts all {size} pods of {workload}: at most {unavailable} missing (maxUnavailable) and {surge} extra \
             (maxSurge) at any moment"
        )),
    }
    if seen.min_ready_seconds > 0 {
        let seconds = seen.min_ready_seconds;
        warnings.push(format!("a new pod counts only after it was ready for {seconds} s (minReadySeconds)"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;

    use super::*;
    use crate::testing::cluster_of_nothing;

    fn snapshot(containers: Value) -> Snapshot {
        let object = json!({
            "metadata": {"resourceVersion": "7", "generation": 3},
            "spec": {"replicas": 8, "selector": {}, "template": {"spec": {"containers": containers}}},
        });
        serde_json::from_value::<Deployment>(object).unwrap().into()
    }

    fn limits() -> TemplateEnv {
        let workload = Workload::deployment(&cluster_of_nothing(), "production", "api");
        TemplateEnv::of(&workload).with_variable("LIMIT", "10000").with_variable("WINDOW", "60")
    }

    #[tokio::test]
    async fn one_patch_changes_what_differs_and_takes_away_what_was_not() {
        let before = snapshot(json!([{"name": "api", "env": [{"name": "LIMIT", "value": "10000"}]}]));
        let env = limits();
        let current = env.values(before.clone()).unwrap().value;
        assert_eq!(current.env["LIMIT"].as_deref(), Some("10000"));
        assert_eq!(current.env["WINDOW"], None);
        let desired = env.desired(&current).unwrap();
        let patch = env.merge(&before, &desired).unwrap().unwrap();
        assert_eq!(
            patch,
            json!({
                "metadata": {"resourceVersion": "7"},
                "spec": {"template": {"spec": {"containers": [
                    {"name": "api", "env": [{"name": "WINDOW", "value": "60"}]}
                ]}}},
            })
        );
        assert_eq!(env.merge(&before, &current).unwrap(), None);

        let after = snapshot(json!([{"name": "api", "env": [
            {"name": "LIMIT", "value": "10000"}, {"name": "WINDOW", "value": "60"}
        ]}]));
        let undo = env.merge(&after, &current).unwrap().unwrap();
        assert_eq!(
            undo.pointer("/spec/template/spec/containers/0/env").unwrap(),
            &json!([{"$patch": "delete", "name": "WINDOW"}])
        );
    }

    #[tokio::test]
    async fn the_container_must_be_clear() {
        let two = snapshot(json!([{"name": "api"}, {"name": "proxy"}]));
        let error = limits().values(two.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("api, proxy"), "{error}");
        limits().with_container("proxy").values(two.clone()).unwrap();
        let error = limits().with_container("web").values(two).unwrap_err();
        assert!(error.to_string().contains("no container web; there are: api, proxy"), "{error}");
    }

    #[tokio::test]
    async fn values_from_elsewhere_and_doubles_are_refused() {
        for (env, word) in [
            (
                json!([{"name": "LIMIT", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
                "valueFrom",
            ),
            (json!([{"name": "LIMIT", "value": "1"}, {"name": "LIMIT", "value": "2"}]), "twice"),
        ] {
            let error = limits().values(snapshot(json!([{"name": "api", "env": env}]))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(word) && error.to_string().contains("LIMIT"), "{error}");
        }
        // Others may come from wherever they like.
        let other = json!([{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        limits().values(snapshot(json!([{"name": "api", "env": other}]))).unwrap();
    }

    #[tokio::test]
    async fn strategies_that_cannot_roll_are_refused_only_where_something_changes() {
        let mut paused = snapshot(json!([{"name": "api"}]));
        paused.paused = true;
        let current = limits().values(paused.clone()).unwrap().value;
        let error = limits().desired(&current).unwrap_err();
        assert!(error.to_string().contains("kubectl rollout resume"), "{error}");

        let there = json!([{"name": "LIMIT", "value": "10000"}, {"name": "WINDOW", "value": "60"}]);
        let mut paused = snapshot(json!([{"name": "api", "env": there}]));
        paused.paused = true;
        limits().desired(&limits().values(paused).unwrap().value).unwrap();

        let mut recreate = snapshot(json!([{"name": "api"}]));
        recreate.strategy = Strategy::Recreate;
        let current = limits().values(recreate).unwrap().value;
        assert!(limits().desired(&current).unwrap_err().to_string().contains("Recreate"));
        let desired = limits().allowing_downtime(true).desired(&current).unwrap();
        assert!(limits().warnings(&current, &desired)[0].starts_with("STOPS ALL 8 pods"));
    }

    #[tokio::test]
    async fn warnings_count_pods_at_the_size_to_come() {
        let current = limits().values(snapshot(json!([{"name": "api"}]))).unwrap().value;
        let desired = limits().desired(&current).unwrap();
        assert_eq!(
            limits().warnings(&current, &desired),
            [
                "restarts all 8 pods of deployment production/api: at most 2 missing (maxUnavailable) and 2 extra \
              (maxSurge) at any moment"
            ]
        );
        let at_50 = limits().with_size(50).warnings(&current, &desired).remove(0);
        assert!(at_50.contains("all 50 pods") && at_50.contains("at most 12 missing"), "{at_50}");
    }

    #[tokio::test]
    async fn plans_show_variables_and_nothing_else() {
        let current = limits().values(snapshot(json!([{"name": "api"}]))).unwrap().value;
        assert_eq!(serde_json::to_value(&current).unwrap(), json!({"env": {"LIMIT": null, "WINDOW": null}}));
    }
}
