//! The size of a workload as a target.

use std::fmt;

use async_trait::async_trait;
use serde_json::json;
use wakala_core::{
    Bounds, Capability, Error, ErrorKind, Observation, Permission, ResourceKey, Result, Retry, RunContext,
    ScalableTarget, ScaleOptions, TargetId, Units, Version,
};

use crate::Workload;
use crate::error::is_lost_race;
use crate::hpa::{self, Found};
use crate::permissions::permit;
use crate::snapshot::Snapshot;
use crate::workload::RACES;

/// What a version of a workload stands for: where to watch from, and whether the specification is still the same.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    resource_version: String,
    generation: Option<i64>,
}

impl Seen {
    fn of(snapshot: &Snapshot) -> Self {
        let resource_version = snapshot.resource_version.clone();
        Self { resource_version, generation: Some(snapshot.generation) }
    }
}

impl From<&Version> for Seen {
    fn from(version: &Version) -> Self {
        let text = version.as_str();
        match text.split_once('/') {
            Some((version, generation)) => {
                Self { resource_version: version.to_owned(), generation: generation.parse().ok() }
            }
            None => Self { resource_version: text.to_owned(), generation: None },
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource_version)?;
        self.generation.map_or(Ok(()), |generation| write!(f, "/{generation}"))
    }
}

#[async_trait]
impl ScalableTarget for Workload {
    fn id(&self) -> TargetId {
        TargetId::from(self.to_string())
    }

    fn resource(&self) -> ResourceKey {
        self.key()
    }

    fn capability(&self) -> Capability {
        let sizes = Bounds { min: Units(0), max: Units(i32::MAX.unsigned_abs()) };
        Capability::new(sizes).with_dry_run().with_preconditions()
    }

    fn permissions(&self) -> Vec<Permission> {
        let scale = format!("apps/{}/scale", self.plural());
        let mut permissions = self.read_permissions();
        permissions.extend(permit(&["patch"], &scale, self.namespace(), self.name()));
        permissions.extend(hpa::find_permissions(self));
        permissions
    }

    fn read_permissions(&self) -> Vec<Permission> {
        let mut permissions = Self::read_permissions(self);
        permissions.extend(hpa::find_permissions(self));
        permissions
    }

    async fn observe(&self, cx: &RunContext) -> Result<Observation> {
        const OPERATION: &str = "observe";
        let (snapshot, owner) = futures::try_join!(self.snapshot(cx, OPERATION), self.owner(cx, OPERATION))?;
        let problem = self.problem(cx, &snapshot).await;
        Ok(self.observation(&snapshot, owner.as_ref()).with_problem(problem))
    }

    async fn set_desired(
        &self,
        cx: &RunContext,
        desired: Units,
        options: ScaleOptions,
    ) -> Result<Observation> {
        const OPERATION: &str = "set_desired";
        let Ok(replicas) = i32::try_from(desired.0) else {
            let message = format!("size {desired} is more than Kubernetes can count; choose less");
            return Err(Error::invalid(OPERATION, message).on(self));
        };
        let owner = self.owner(cx, OPERATION).await?;
        // An autoscaler leaves a workload of no pods alone. A rehearsal may come before the floor is moved.
        if let Some(owner) = &owner
            && replicas > 0
            && !options.dry_run
            && !owner.bounds.contains(desired)
        {
            return Err(self.owned(OPERATION, owner, desired));
        }
        if !options.dry_run && cx.floor(&self.key()).is_some() {
            let now = self.snapshot(cx, OPERATION).await?;
            cx.permit(&self.key(), Units(now.replicas), desired)?;
        }

        let mut expected = options.if_version.as_ref().map(Seen::from);
        let mut race = 1;
        loop {
            let mut patch = json!({"spec": {"replicas": replicas}});
            if let Some(expected) = &expected {
                patch["metadata"] = json!({"resourceVersion": expected.resource_version});
            }
            let lost = match self.patch_scale(cx, OPERATION, &patch, options.dry_run).await {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(self.missing(cx, OPERATION, error).await);
                }
                Err(error) if is_lost_race(&error) && race < RACES => error,
                Err(error) => return Err(error),
            };
            // The API server compares the version of the whole object, which every note of the controller changes.
            // Only a change of the specification is somebody else's.
            let now = self.snapshot(cx, OPERATION).await?;
            match &mut expected {
                Some(seen) if seen.generation == Some(now.generation) => {
                    seen.resource_version = now.resource_version;
                }
                Some(_) => {
                    let message = format!(
                        "changed by somebody else meanwhile: its size is {} now; look again",
                        now.replicas
                    );
                    let error = Error::new(ErrorKind::Conflict, OPERATION, message).on(self);
                    return Err(error.with_retry(Retry::Safe { after: None }).with_source(lost));
                }
                None => {}
            }
            race += 1;
        }

        let snapshot = self.snapshot(cx, OPERATION).await.map_err(|error| {
            if options.dry_run {
                return error;
            }
            let message = format!("size {desired} was accepted, but could not be read back");
            Error::new(error.kind(), OPERATION, message)
                .on(self)
                .with_retry(Retry::ObserveFirst)
                .with_source(error)
        })?;
        if !options.dry_run {
            self.begin(cx, snapshot.ready);
        }
        Ok(self.observation(&snapshot, owner.as_ref()))
    }

    async fn changed(&self, cx: &RunContext, seen: &Observation) -> Result<Observation> {
        const OPERATION: &str = "changed";
        let Some(version) = &seen.version else { return self.observe(cx).await };
        let from = Seen::from(version).resource_version;
        let waits = !seen.settled || seen.ready < seen.desired;
        let other_problem = async {
            if waits {
                self.other_problem(cx, seen.problem.as_deref()).await
            } else {
                std::future::pending().await
            }
        };
        let (snapshot, problem) = tokio::select! {
            biased;
            snapshot = self.next(cx, OPERATION, &from) => {
                let snapshot = snapshot?;
                // What was in the way of fewer ready pods need not be in the way of the rest.
                let progress = snapshot.ready > seen.ready.0 || !snapshot.is_lagging();
                (snapshot, seen.problem.clone().filter(|_| !progress))
            }
            found = other_problem => found?,
        };
        // Whoever owned it a moment ago still does; asking at every ready pod would be of no use.
        Ok(self.observation(&snapshot, None).with_owner(seen.owner.clone()).with_problem(problem))
    }
}

impl Workload {
    fn observation(&self, seen: &Snapshot, owner: Option<&Found>) -> Observation {
        Observation::new(seen.replicas, seen.ready)
            .with_settled(seen.is_settled())
            .with_version(Seen::of(seen).to_string())
            .with_owner(owner.map(Found::owner))
    }

    fn owned(&self, operation: &'static str, owner: &Found, desired: Units) -> Error {
        let message = format!(
            "{} keeps the size within {} and would take {desired} back; move its bounds first, or choose a size \
             within",
            owner.title(),
            owner.bounds
        );
        Error::new(ErrorKind::Conflict, operation, message).on(self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;
    use wakala_core::{Floor, ScalableTargetExt};

    use super::*;
    use crate::testing::scripted;

    const ITEM: &str = "/apis/apps/v1/namespaces/production/deployments/api";
    const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/production/horizontalpodautoscalers";

    fn deployment(resource_version: &str, generation: i64, replicas: u32) -> (u16, Value) {
        let metadata = json!({"name": "api", "resourceVersion": resource_version, "generation": generation});
        let status = json!({"observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
            "readyReplicas": replicas, "availableReplicas": replicas});
        let spec = json!({"replicas": replicas, "selector": {}, "template": {}});
        (200, json!({"metadata": metadata, "spec": spec, "status": status}))
    }

    fn autoscalers(items: &[Value]) -> (u16, Value) {
        (
            200,
            json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscalerList", "metadata": {},
            "items": items}),
        )
    }

    fn autoscaler(name: &str, min: u32, max: u32) -> Value {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"});
        let spec = json!({"minReplicas": min, "maxReplicas": max, "scaleTargetRef": target});
        json!({"metadata": {"namespace": "production", "name": name}, "spec": spec})
    }

    fn scale(replicas: u32) -> (u16, Value) {
        (
            200,
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {}, "spec": {"replicas": replicas}}),
        )
    }

    fn failure(code: u16, reason: &str) -> (u16, Value) {
        (
            code,
            json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no"}),
        )
    }

    fn at(version: &str) -> ScaleOptions {
        ScaleOptions::if_version(Some(version.into()))
    }

    #[tokio::test]
    async fn who_only_reads_needs_all_but_the_write() {
        let (cluster, _) = scripted(Vec::<(u16, Value)>::new());
        for workload in [
            Workload::deployment(&cluster, "production", "api"),
            Workload::stateful_set(&cluster, "production", "redis"),
        ] {
            let target: &dyn ScalableTarget = &workload;
            let (mut all, reading) = (target.permissions(), target.read_permissions());
            all.retain(|permission| permission.action != "patch");
            assert_eq!(reading, all);
            assert!(reading.len() < target.permissions().len());
        }
    }

    /// What `set_desired` to 50 answers, and the requests that it made.
    async fn set(
        options: ScaleOptions,
        answers: Vec<(u16, Value)>,
    ) -> (Result<Observation>, Vec<(String, Value)>) {
        set_in(|cx| cx, options, answers).await
    }

    async fn set_in(
        context: impl FnOnce(RunContext) -> RunContext,
        options: ScaleOptions,
        answers: Vec<(u16, Value)>,
    ) -> (Result<Observation>, Vec<(String, Value)>) {
        let (cluster, served) = scripted(answers);
        let workload = Workload::deployment(&cluster, "production", "api");
        let cx = context(RunContext::detached());
        let result = workload.set_desired(&cx, Units(50), options).await;
        let asked = served.await.unwrap();
        for request in &asked {
            let patch = request.line.starts_with("PATCH");
            assert_eq!(request.content_type == "application/merge-patch+json", patch, "{request:?}");
        }
        (result, asked.into_iter().map(|asked| (asked.line, asked.body)).collect())
    }

    #[tokio::test]
    async fn a_size_is_set_by_one_patch_of_the_scale() {
        let answers = vec![autoscalers(&[]), scale(50), deployment("9", 4, 50)];
        let (result, asked) = set(at("7/3"), answers).await;
        let seen = result.unwrap();
        assert_eq!((seen.desired, seen.settled, seen.version), (Units(50), true, Some("9/4".into())));
        let lines: Vec<_> = asked.iter().map(|(line, _)| line.as_str()).collect();
        let patch = format!("PATCH {ITEM}/scale?&fieldManager=wakala");
        assert_eq!(lines, [format!("GET {AUTOSCALERS}?"), patch, format!("GET {ITEM}")]);
        assert_eq!(asked[1].1, json!({"metadata": {"resourceVersion": "7"}, "spec": {"replicas": 50}}));
    }

    #[tokio::test]
    async fn a_wait_opens_one_watch_and_asks_no_more() {
        let starting = |version: &str, ready: u32| {
            let (_, mut object) = deployment(version, 3, 3);
            object["status"]["readyReplicas"] = json!(ready);
            object["status"]["availableReplicas"] = json!(ready);
            object
        };
        let event = |object: Value| format!("{}\n", json!({"type": "MODIFIED", "object": object}));
        let events = event(starting("8", 2)) + &event(starting("9", 3));
        let pods = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": []});
        let answers = [starting("7", 1), autoscalers(&[]).1, pods].map(|body| body.to_string());
        let (cluster, served) = scripted(answers.into_iter().chain([events]).map(|body| (200, body)));
        let workload = Workload::deployment(&cluster, "production", "api");
        let context = RunContext::detached();
        let seen = workload.wait_ready(&context, Units(3), Duration::from_secs(5)).await.unwrap();
        assert_eq!(seen.version, Some("9/3".into()));
        let lines: Vec<_> = served.await.unwrap().into_iter().map(|asked| asked.line).collect();
        assert!(lines.last().unwrap().contains("watch=true"), "{lines:?}");
    }

    #[tokio::test]
    async fn without_a_precondition_none_is_sent() {
        let answers = vec![autoscalers(&[]), scale(50), deployment("9", 4, 50)];
        let (_, asked) = set(ScaleOptions::default(), answers).await;
        assert_eq!(asked[1].1, json!({"spec": {"replicas": 50}}));
    }

    #[tokio::test]
    async fn a_size_below_the_floor_of_the_run_is_not_sent() {
        let answers = vec![autoscalers(&[]), deployment("7", 3, 60)];
        let floored =
            |cx: RunContext, min: u32| cx.with_floor("kubernetes/production/deployments/api", Floor::at(min));
        let (result, asked) = set_in(|cx| floored(cx, 51), ScaleOptions::default(), answers).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never));
        assert!(error.to_string().contains("below its floor of 51"), "{error}");
        assert!(asked.iter().all(|(line, _)| line.starts_with("GET")), "{asked:?}");

        let answers = vec![autoscalers(&[]), deployment("7", 3, 60), scale(50), deployment("9", 4, 50)];
        let (result, _) = set_in(|cx| floored(cx, 50), ScaleOptions::default(), answers).await;
        assert_eq!(result.unwrap().desired, Units(50));
    }

    #[tokio::test]
    async fn a_rehearsal_says_so_and_may_exceed_the_autoscalers_bounds() {
        let answers = vec![autoscalers(&[autoscaler("h", 3, 20)]), scale(50), deployment("7", 3, 3)];
        let (result, asked) = set(ScaleOptions::dry_run(), answers).await;
        assert_eq!(result.unwrap().desired, Units(3));
        assert!(asked[1].0.contains("dryRun=All"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_race_with_the_controllers_notes_is_run_again() {
        let answers = vec![
            autoscalers(&[]),
            failure(409, "Conflict"),
            deployment("8", 3, 3),
            scale(50),
            deployment("9", 4, 50),
        ];
        let (result, asked) = set(at("7/3"), answers).await;
        assert_eq!(result.unwrap().desired, Units(50));
        assert_eq!(asked[3].1["metadata"]["resourceVersion"], "8");
    }

    #[tokio::test]
    async fn a_change_of_the_specification_is_somebody_elses() {
        for version in ["7/3", "7"] {
            let answers = vec![autoscalers(&[]), failure(409, "Conflict"), deployment("8", 4, 12)];
            let error = set(at(version), answers).await.0.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Safe { after: None }));
            assert!(error.to_string().contains("its size is 12 now"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_size_that_the_autoscaler_would_take_back_is_not_sent() {
        let answers = vec![autoscalers(&[autoscaler("h", 3, 20)])];
        let (result, asked) = set(at("7/3"), answers).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never));
        assert!(
            error.to_string().contains("HorizontalPodAutoscaler production/h keeps the size within 3..20"),
            "{error}"
        );
        assert_eq!(asked.len(), 1);
    }

    #[tokio::test]
    async fn two_autoscalers_are_a_conflict() {
        let answers = vec![autoscalers(&[autoscaler("h", 3, 60), autoscaler("other", 3, 60)])];
        let error = set(at("7/3"), answers).await.0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("(h, other)"), "{error}");
    }

    #[tokio::test]
    async fn nothing_is_repeated_here() {
        for (code, reason, kind) in [
            (429, "TooManyRequests", ErrorKind::RateLimited),
            (503, "ServiceUnavailable", ErrorKind::Unavailable),
        ] {
            let answers = vec![autoscalers(&[]), failure(code, reason)];
            let (result, asked) = set(at("7/3"), answers).await;
            assert_eq!(result.unwrap_err().kind(), kind);
            assert_eq!(asked.len(), 2);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_back_may_have_happened() {
        let answers = vec![autoscalers(&[]), scale(50), failure(503, "ServiceUnavailable")];
        let error = set(at("7/3"), answers).await.0.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst));
        assert!(error.to_string().contains("accepted"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_namespace_is_told_from_a_missing_object() {
        let (gone, there) = (failure(404, "NotFound"), (200, json!({"metadata": {"name": "production"}})));
        for (namespace, word) in
            [(gone.clone(), "namespace production does not exist"), (there, "no Deployment")]
        {
            let (cluster, _) = scripted([gone.clone(), namespace]);
            let workload = Workload::deployment(&cluster, "production", "api");
            let error = workload.snapshot(&RunContext::detached(), "observe").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[tokio::test]
    async fn a_cancelled_run_sends_no_write() {
        let (cluster, _served) = scripted(Vec::<(u16, Value)>::new());
        let cx = RunContext::detached();
        cx.cancellation().cancel();
        let workload = Workload::deployment(&cluster, "production", "api");
        let error = workload.set_desired(&cx, Units(50), ScaleOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }

    #[tokio::test]
    async fn sizes_beyond_counting_are_refused() {
        let (cluster, _served) = scripted(Vec::<(u16, Value)>::new());
        let workload = Workload::deployment(&cluster, "production", "api");
        let cx = RunContext::detached();
        let error = workload.set_desired(&cx, Units(u32::MAX), ScaleOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(workload.capability().sizes.contains(Units(0)));
    }

    #[test]
    fn versions_are_read_back_as_written() {
        let seen = Seen { resource_version: "81234".into(), generation: Some(7) };
        assert_eq!(Seen::from(&Version::from(seen.to_string())), seen);
        let foreign = Seen::from(&Version::from("81234"));
        assert_eq!(foreign, Seen { resource_version: "81234".into(), generation: None });
    }
}
