//! Deployments and StatefulSets: their size as a target, and what the other parts of this crate do to them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::Selector;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wakala_core::{Error, ErrorKind, Permission, ResourceKey, Result, Retry, RunContext};

use crate::Cluster;
use crate::config::FIELD_MANAGER;
use crate::hpa::{self, Found};
use crate::permissions::permit;
use crate::problem::{of_pods, shorten};
use crate::snapshot::{Rollout, Snapshot};
use crate::watch::{Watch, Watched};

/// For how long pods that make no progress are left alone before somebody looks why.
const PROBLEM_AFTER: Duration = Duration::from_secs(2);
const PROBLEM_AFTER_AT_MOST: Duration = Duration::from_secs(15);

/// How often a write is repeated that lost to a change of status. Each lost race is another write that was made.
pub(crate) const RACES: u32 = 10;

/// A Deployment or StatefulSet as a [`ScalableTarget`](wakala_core::ScalableTarget). Cheap to clone.
///
/// The size is `spec.replicas`, read from the object and written through its scale subresource. It counts as settled
/// when `kubectl rollout status` would be content and no surplus pod is left. A size outside of the bounds of the
/// autoscaler that owns it is refused with `Conflict`: the autoscaler would take it back at once. Move its floor
/// first, with [`RaiseFloor`](wakala_core::RaiseFloor) on a [`HorizontalAutoscaler`](crate::HorizontalAutoscaler).
///
/// The [version](wakala_core::Observation::version) of an observation holds while nobody changes the specification: pods
/// that come and go, and the controller's notes about them, do not make it stale.
#[derive(Clone)]
pub struct Workload {
    cluster: Cluster,
    kind: Kind,
    namespace: Arc<str>,
    name: Arc<str>,
    subject: Arc<str>,
    progress: Arc<Mutex<Option<Progress>>>,
    watch: Arc<tokio::sync::Mutex<Option<Watch>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Deployment,
    StatefulSet,
}

/// How far the pods were when somebody looked, in the run's monotonic time: so that nobody looks at all of them at every
/// one that gets ready.
struct Progress {
    ready: u32,
    /// When pods were looked at, or when more of them were ready than before.
    looked: Duration,
    problem: Option<String>,
}

fn is_recent(now: Duration, then: Duration, limit: Duration) -> bool {
    // A time that is yet to come is one of another run's clock.
    now.checked_sub(then).is_some_and(|age| age < limit)
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workload").field(&self.subject).finish()
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)
    }
}

impl Workload {
    /// The Deployment `name` in `namespace`. Nothing is sent yet.
    pub fn deployment(cluster: &Cluster, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::new(cluster, Kind::Deployment, namespace.into(), name.into())
    }

    /// The StatefulSet `name` in `namespace`. Nothing is sent yet.
    pub fn stateful_set(cluster: &Cluster, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::new(cluster, Kind::StatefulSet, namespace.into(), name.into())
    }

    fn new(cluster: &Cluster, kind: Kind, namespace: String, name: String) -> Self {
        let word = match kind {
            Kind::Deployment => "deployment",
            Kind::StatefulSet => "statefulset",
        };
        Self {
            cluster: cluster.clone(),
            kind,
            subject: format!("{word} {namespace}/{name}").into(),
            namespace: namespace.into(),
            name: name.into(),
            progress: Arc::default(),
            watch: Arc::default(),
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object's kind: `Deployment`, `StatefulSet`.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Deployment => "Deployment",
            Kind::StatefulSet => "StatefulSet",
        }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn plural(&self) -> &'static str {
        match self.kind {
            Kind::Deployment => "deployments",
            Kind::StatefulSet => "statefulsets",
        }
    }

    pub(crate) fn is_stateful(&self) -> bool {
        self.kind == Kind::StatefulSet
    }

    pub(crate) fn key(&self) -> ResourceKey {
        format!("kubernetes/{}/{}/{}", self.namespace, self.plural(), self.name).into()
    }

    /// What reading and following the object, and telling why its pods are not ready, needs.
    pub(crate) fn read_permissions(&self) -> Vec<Permission> {
        let (namespace, resource) = (&*self.namespace, format!("apps/{}", self.plural()));
        let mut permissions = permit(&["get", "watch"], &resource, namespace, &self.name);
        permissions.extend(permit(&["list"], "core/pods", namespace, "*"));
        if self.is_stateful() {
            permissions.extend(permit(&["list"], "core/events", namespace, "*"));
        }
        permissions
    }

    /// The object now.
    pub(crate) async fn snapshot(&self, cx: &RunContext, operation: &'static str) -> Result<Snapshot> {
        let read = match self.kind {
            Kind::Deployment => self.get::<Deployment>(cx, operation).await,
            Kind::StatefulSet => self.get::<StatefulSet>(cx, operation).await,
        };
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(self.missing(cx, operation, error).await)
            }
            other => other,
        }
    }

    async fn get<K: Controller>(&self, cx: &RunContext, operation: &'static str) -> Result<Snapshot> {
        let api = self.cluster.namespaced::<K>(&self.namespace);
        let request = api.get(&self.name);
        self.cluster.read(cx, operation, &self.subject, request).await.map(Into::into)
    }

    /// The API server does not tell a missing namespace from a missing object.
    pub(crate) async fn missing(&self, cx: &RunContext, operation: &'static str, error: Error) -> Error {
        let namespaces = kube::Api::<Namespace>::all(self.cluster.client().clone());
        let request = namespaces.get_metadata_opt(&self.namespace);
        let namespace = self.cluster.read(cx, operation, &self.subject, request).await;
        let message = match namespace {
            Ok(None) => format!("namespace {} does not exist; list them with kubectl get ns", self.namespace),
            _ => format!(
                "there is no {} of that name; list them with kubectl get {} -n {}",
                self.kind(),
                self.plural(),
                self.namespace
            ),
        };
        Error::new(ErrorKind::NotFound, operation, message).on(self).with_source(error)
    }

    /// Patches the object by strategic merge.
    pub(crate) async fn patch(
        &self,
        cx: &RunContext,
        operation: &'static str,
        patch: &Value,
        dry_run: bool,
    ) -> Result<Snapshot> {
        match self.kind {
            Kind::Deployment => self.patch_as::<Deployment>(cx, operation, patch, dry_run).await,
            Kind::StatefulSet => self.patch_as::<StatefulSet>(cx, operation, patch, dry_run).await,
        }
    }

    async fn patch_as<K: Controller>(
        &self,
        cx: &RunContext,
        operation: &'static str,
        patch: &Value,
        dry_run: bool,
    ) -> Result<Snapshot> {
        let api = self.cluster.namespaced::<K>(&self.namespace);
        let (params, patch) = (patch_params(dry_run), Patch::Strategic(patch));
        let request = api.patch(&self.name, &params, &patch);
        self.cluster.write(cx, operation, &self.subject, request).await.map(Into::into)
    }

    pub(crate) async fn patch_scale(
        &self,
        cx: &RunContext,
        operation: &'static str,
        patch: &Value,
        dry_run: bool,
    ) -> Result<Scale> {
        let (params, patch) = (patch_params(dry_run), Patch::Merge(patch));
        match self.kind {
            Kind::Deployment => {
                let api = self.cluster.namespaced::<Deployment>(&self.namespace);
                let request = api.patch_scale(&self.name, &params, &patch);
                self.cluster.write(cx, operation, &self.subject, request).await
            }
            Kind::StatefulSet => {
                let api = self.cluster.namespaced::<StatefulSet>(&self.namespace);
                let request = api.patch_scale(&self.name, &params, &patch);
                self.cluster.write(cx, operation, &self.subject, request).await
            }
        }
    }

    /// The object once it differs from that resource version, or earlier.
    pub(crate) async fn next(
        &self,
        cx: &RunContext,
        operation: &'static str,
        from: &str,
    ) -> Result<Snapshot> {
        // One watch serves all changes on the way to a size. Who finds it in use opens one of its own.
        let mut shared = self.watch.try_lock().ok();
        let mut own = None;
        let watch = shared.as_deref_mut().unwrap_or(&mut own);
        if !watch.as_ref().is_some_and(|watch| watch.is_at(from)) {
            *watch = self.watch_from(cx, operation, from).await?;
        }
        let watched = match watch {
            Some(open) => open.next(cx, operation, &self.subject).await,
            None => Ok(Watched::Lost),
        };
        let next = match watched {
            Ok(Watched::Changed(next)) => *next,
            Ok(Watched::Lost) => {
                *watch = None;
                self.snapshot(cx, operation).await?
            }
            Err(error) => {
                *watch = None;
                return Err(error);
            }
        };
        if next.is_settled() {
            *watch = None;
        }
        Ok(next)
    }

    async fn watch_from(
        &self,
        cx: &RunContext,
        operation: &'static str,
        from: &str,
    ) -> Result<Option<Watch>> {
        let (cluster, subject, name) = (&self.cluster, &*self.subject, &*self.name);
        match self.kind {
            Kind::Deployment => {
                let api = cluster.namespaced::<Deployment>(&self.namespace);
                Watch::open(cluster, cx, operation, subject, (&api, name), from).await
            }
            Kind::StatefulSet => {
                let api = cluster.namespaced::<StatefulSet>(&self.namespace);
                Watch::open(cluster, cx, operation, subject, (&api, name), from).await
            }
        }
    }

    /// What sets the size by itself.
    pub(crate) async fn owner(&self, cx: &RunContext, operation: &'static str) -> Result<Option<Found>> {
        hpa::find(self, cx, operation).await
    }

    /// Notes that a size was just written: pods get a moment before anybody asks why they are not ready.
    pub(crate) fn begin(&self, cx: &RunContext, ready: u32) {
        let looked = cx.clock().monotonic();
        *self.progress() = Some(Progress { ready, looked, problem: None });
    }

    /// Why pods of a workload that lags are not ready. Looks at the pods only where it is new or makes no progress, so
    /// that it may be asked at every change; a look that fails is an answer too, and never an error.
    pub(crate) async fn problem(&self, cx: &RunContext, seen: &Snapshot) -> Option<String> {
        let now = cx.clock().monotonic();
        if !seen.is_lagging() {
            *self.progress() = None;
            return None;
        }
        if let Some(last) = &mut *self.progress() {
            if seen.ready > last.ready {
                *last = Progress { ready: seen.ready, looked: now, problem: None };
                return None;
            }
            if is_recent(now, last.looked, PROBLEM_AFTER) {
                return last.problem.clone();
            }
        }
        let problem = match self.look_for_problem(cx, seen).await {
            Ok(problem) => problem,
            Err(error) => Some(format!("why pods are not ready cannot be told: {}", error.chain())),
        };
        let looked = cx.clock().monotonic();
        *self.progress() = Some(Progress { ready: seen.ready, looked, problem: problem.clone() });
        problem
    }

    fn progress(&self) -> MutexGuard<'_, Option<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_for_problem(&self, cx: &RunContext, seen: &Snapshot) -> Result<Option<String>> {
        const OPERATION: &str = "observe";
        let mut problems = Vec::new();
        if let Some(failure) = &seen.create_failure {
            problems.push(format!("pods cannot be created ({})", shorten(failure)));
        }
        if seen.paused {
            problems.push("the rollout is paused (kubectl rollout resume)".to_owned());
        }
        if let Ok(selector) = Selector::try_from(seen.selector.clone()) {
            let api = self.cluster.namespaced::<Pod>(&self.namespace);
            // What the API server has at hand will do: a list that is certainly complete takes its time.
            let params = ListParams::default().labels_from(&selector).match_any();
            let pods = self.cluster.read(cx, OPERATION, &self.subject, api.list(&params)).await?;
            problems.extend(of_pods(&pods.items, cx.clock().now()));
        }
        // A StatefulSet has no condition for pods that cannot be created.
        if self.is_stateful() && problems.is_empty() && seen.existing < seen.replicas {
            let api = self.cluster.namespaced::<Event>(&self.namespace);
            let about = format!(
                "involvedObject.kind=StatefulSet,involvedObject.name={},reason=FailedCreate",
                self.name
            );
            let params = ListParams::default().fields(&about).match_any();
            let events = self.cluster.read(cx, OPERATION, &self.subject, api.list(&params)).await?.items;
            let newest = events.into_iter().max_by_key(|event| {
                let last = event.last_timestamp.as_ref().map(|time| time.0);
                last.or(event.event_time.as_ref().map(|time| time.0))
            });
            if let Some(message) = newest.and_then(|event| event.message) {
                problems.push(format!("pods cannot be created ({})", shorten(&message)));
            }
        }
        Ok((!problems.is_empty()).then(|| problems.join("; ")))
    }

    /// The error of a rollout that its controller gave up on; `None` for any other.
    pub(crate) async fn given_up(&self, cx: &RunContext, seen: &Snapshot) -> Option<Error> {
        let Rollout::Failed(why) = &seen.rollout else { return None };
        let problem = self.problem(cx, seen).await.map(|problem| format!(": {problem}")).unwrap_or_default();
        let message = format!(
            "the rollout made no progress within its progressDeadlineSeconds ({}){problem}; mend the cause or take \
             the change back",
            shorten(why)
        );
        let error = Error::new(ErrorKind::DeadlineExceeded, "rollout", message).on(self);
        Some(error.with_retry(Retry::Never))
    }

    /// Awaits a problem other than the known one of a workload that makes no progress.
    pub(crate) async fn other_problem(
        &self,
        cx: &RunContext,
        known: Option<&str>,
    ) -> Result<(Snapshot, Option<String>)> {
        let mut pause = PROBLEM_AFTER;
        loop {
            cx.sleep(pause).await?;
            let snapshot = self.snapshot(cx, "changed").await?;
            let problem = self.problem(cx, &snapshot).await;
            if problem.as_deref() != known {
                return Ok((snapshot, problem));
            }
            pause = (pause * 2).min(PROBLEM_AFTER_AT_MOST);
        }
    }
}

/// The kinds of the API that are a [`Workload`].
trait Controller:
    kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + fmt::Debug
    + DeserializeOwned
    + Into<Snapshot>
    + Send
    + 'static
{
}

impl Controller for Deployment {}
impl Controller for StatefulSet {}

pub(crate) fn patch_params(dry_run: bool) -> PatchParams {
    PatchParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}
