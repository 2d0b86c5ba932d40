//! The autoscaler that owns a workload: a HorizontalPodAutoscaler, or the KEDA ScaledObject behind it.

use std::fmt;

use async_trait::async_trait;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use wakala_core::{
    Autoscaler, AutoscalerState, Bounds, Error, ErrorKind, Owner, Permission, ResourceKey, Result, Retry,
    RunContext, Units, Version,
};

use crate::Workload;
use crate::error::is_lost_race;
use crate::permissions::permit;
use crate::snapshot::unsigned;
use crate::workload::{RACES, patch_params};

/// What KEDA takes where a ScaledObject does not say.
const KEDA_MIN: u64 = 0;
const KEDA_MAX: u64 = 100;

/// The autoscaler that owns a [`Workload`], as an [`Autoscaler`] whose floor can be raised. Cheap to clone.
///
/// It is looked up at each call among those of the namespace, in `autoscaling/v2`. Where it belongs to a KEDA
/// ScaledObject, `minReplicaCount` and `maxReplicaCount` of that one are moved, since KEDA writes the autoscaler anew.
///
/// The version of its bounds is made of its uid and the bounds themselves: that the autoscaler notes new metrics does
/// not make it stale.
#[derive(Clone, Debug)]
pub struct HorizontalAutoscaler {
    workload: Workload,
}

impl HorizontalAutoscaler {
    /// The autoscaler of `workload`, whether or not there is one. Nothing is sent yet.
    pub fn of(workload: &Workload) -> Self {
        Self { workload: workload.clone() }
    }

    async fn found(&self, cx: &RunContext, operation: &'static str) -> Result<Found> {
        let found = find(&self.workload, cx, operation).await?;
        let mut found = found.ok_or_else(|| {
            let message = "nothing scales it by itself any more; plan again";
            Error::new(ErrorKind::NotFound, operation, message).on(self.id())
        })?;
        found.read_scaled_object(&self.workload, cx, operation).await?;
        Ok(found)
    }

    async fn patch(
        &self,
        cx: &RunContext,
        operation: &'static str,
        found: &Found,
        bounds: Bounds,
        dry_run: bool,
    ) -> Result<()> {
        let (cluster, namespace) = (self.workload.cluster(), self.workload.namespace());
        let (params, subject) = (patch_params(dry_run), found.title());
        let metadata = json!({"resourceVersion": found.resource_version});
        let (min, max) = (bounds.min.0, bounds.max.0);
        if let Some(name) = &found.scaled_object {
            let spec = json!({"minReplicaCount": min, "maxReplicaCount": max});
            let patch = Patch::Merge(json!({"metadata": metadata, "spec": spec}));
            let api = scaled_objects(&self.workload);
            let request = api.patch(name, &params, &patch);
            cluster.write(cx, operation, &subject, request).await.map(|_| ())
        } else {
            let spec = json!({"minReplicas": min, "maxReplicas": max});
            let patch = Patch::Merge(json!({"metadata": metadata, "spec": spec}));
            let api = cluster.namespaced::<HorizontalPodAutoscaler>(namespace);
            let request = api.patch(&found.name, &params, &patch);
            cluster.write(cx, operation, &subject, request).await.map(|_| ())
        }
    }
}

/// An autoscaler that targets a workload, as read.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    name: String,
    namespace: String,
    /// Of the object that bounds are written to.
    resource_version: String,
    uid: String,
    /// The name of the ScaledObject that it belongs to.
    scaled_object: Option<String>,
    pub(crate) bounds: Bounds,
}

impl Found {
    /// It as a person would name it.
    pub(crate) fn title(&self) -> String {
        match &self.scaled_object {
            Some(name) => format!("ScaledObject {}/{name}", self.namespace),
            None => format!("HorizontalPodAutoscaler {}/{}", self.namespace, self.name),
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner::new(self.title(), self.bounds)
    }

    fn version(&self) -> Version {
        format!("{}/{}", self.uid, self.bounds).into()
    }

    /// Takes bounds and version from the ScaledObject, where there is one.
    async fn read_scaled_object(
        &mut self,
        workload: &Workload,
        cx: &RunContext,
        operation: &'static str,
    ) -> Result<()> {
        let Some(name) = &self.scaled_object else { return Ok(()) };
        let (api, title) = (scaled_objects(workload), self.title());
        let object = workload.cluster().read(cx, operation, &title, api.get(name)).await?;
        let count = |field: &str, default: u64| {
            let count = object.data.pointer(&format!("/spec/{field}")).and_then(Value::as_u64);
            Units(u32::try_from(count.unwrap_or(default)).unwrap_or(u32::MAX))
        };
        self.bounds =
            Bounds { min: count("minReplicaCount", KEDA_MIN), max: count("maxReplicaCount", KEDA_MAX) };
        self.resource_version = object.resource_version().unwrap_or_default();
        self.uid = object.uid().unwrap_or_default();
        Ok(())
    }
}

impl From<HorizontalPodAutoscaler> for Found {
    fn from(object: HorizontalPodAutoscaler) -> Self {
        let owners = object.metadata.owner_references.iter().flatten();
        let scaled_object = owners
            .filter(|owner| owner.kind == "ScaledObject" && owner.api_version.starts_with("keda.sh/"))
            .map(|owner| owner.name.clone())
            .next();
        let bounds = Bounds {
            min: Units(unsigned(object.spec.min_replicas.unwrap_or(1))),
            max: Units(unsigned(object.spec.max_replicas)),
        };
        Self {
            name: object.name_any(),
            namespace: object.namespace().unwrap_or_default(),
            resource_version: object.resource_version().unwrap_or_default(),
            uid: object.uid().unwrap_or_default(),
            scaled_object,
            bounds,
        }
    }
}

/// The one autoscaler that targets `workload`.
pub(crate) async fn find(
    workload: &Workload,
    cx: &RunContext,
    operation: &'static str,
) -> Result<Option<Found>> {
    let api = workload.cluster().namespaced::<HorizontalPodAutoscaler>(workload.namespace());
    let all = ListParams::default();
    let listed = workload.cluster().read(cx, operation, &workload.to_string(), api.list(&all)).await?;
    let mut found: Vec<Found> = listed
        .items
        .into_iter()
        .filter(|object| targets(object, workload.kind(), workload.name()))
        .map(Found::from)
        .collect();
    if found.len() > 1 {
        let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
        let message = format!(
            "several HorizontalPodAutoscalers claim it ({}) and fight each other; delete all but one",
            names.join(", ")
        );
        return Err(Error::new(ErrorKind::Conflict, operation, message).on(workload));
    }
    Ok(found.pop())
}

/// What [`find`] needs.
pub(crate) fn find_permissions(workload: &Workload) -> Vec<Permission> {
    permit(&["list"], "autoscaling/horizontalpodautoscalers", workload.namespace(), "*")
}

fn targets(object: &HorizontalPodAutoscaler, kind: &str, name: &str) -> bool {
    let target = &object.spec.scale_target_ref;
    let group =
        target.api_version.as_deref().and_then(|version| version.split_once('/')).map(|(group, _)| group);
    target.kind == kind && target.name == name && group.is_none_or(|group| group == "apps")
}

fn scaled_objects(workload: &Workload) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject");
    let resource = ApiResource::from_gvk_with_plural(&kind, "scaledobjects");
    Api::namespaced_with(workload.cluster().client().clone(), workload.namespace(), &resource)
}

impl fmt::Display for HorizontalAutoscaler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "autoscaler of {}", self.workload)
    }
}

#[async_trait]
impl Autoscaler for HorizontalAutoscaler {
    fn id(&self) -> String {
        self.to_string()
    }

    fn resource(&self) -> ResourceKey {
        // Part of the workload's own key: who moves the bounds moves the size.
        format!("{}/autoscaler", self.workload.key()).into()
    }

    fn target(&self) -> ResourceKey {
        self.workload.key()
    }

    fn permissions(&self) -> Vec<Permission> {
        let namespace = self.workload.namespace();
        let mut permissions = find_permissions(&self.workload);
        let resource = format!("apps/{}", self.workload.plural());
        permissions.extend(permit(&["get"], &resource, namespace, self.workload.name()));
        permissions.extend(permit(&["patch"], "autoscaling/horizontalpodautoscalers", namespace, "*"));
        permissions.extend(permit(&["get", "patch"], "keda.sh/scaledobjects", namespace, "*"));
        permissions
    }

    async fn observe(&self, cx: &RunContext) -> Result<Option<AutoscalerState>> {
        const OPERATION: &str = "observe";
        let found = async {
            let mut found = find(&self.workload, cx, OPERATION).await?;
            if let Some(found) = &mut found {
                found.read_scaled_object(&self.workload, cx, OPERATION).await?;
            }
            Ok(found)
        };
        let (found, workload) = futures::try_join!(found, self.workload.snapshot(cx, OPERATION))?;
        Ok(found.map(|found| {
            AutoscalerState::new(found.title(), found.bounds, workload.replicas).with_version(found.version())
        }))
    }

    async fn set_bounds(&self, cx: &RunContext, bounds: Bounds, if_version: Option<&Version>) -> Result<()> {
        const OPERATION: &str = "set_bounds";
        let mut race = 1;
        loop {
            let found = self.found(cx, OPERATION).await?;
            if if_version.is_some_and(|version| *version != found.version()) {
                let message = format!("its bounds were changed meanwhile, to {}; look again", found.bounds);
                let error = Error::new(ErrorKind::Conflict, OPERATION, message).on(found.title());
                return Err(error.with_retry(Retry::Safe { after: None }));
            }
            if found.bounds == bounds {
                return Ok(());
            }
            // What was permitted counts as taken away, so that a race must not ask again.
            if race == 1 && cx.floor(&self.target()).is_some() {
                let size = Units(self.workload.snapshot(cx, OPERATION).await?.replicas);
                cx.permit_bounds(&self.target(), size, found.bounds, bounds)?;
            }
            match self.patch(cx, OPERATION, &found, bounds, false).await {
                // Lost to a note about metrics, unless the next look shows other bounds.
                Err(error) if is_lost_race(&error) && race < RACES => race += 1,
                other => return other,
            }
        }
    }

    async fn rehearse(&self, cx: &RunContext, bounds: Bounds) -> Result<()> {
        const OPERATION: &str = "rehearse";
        let mut race = 1;
        loop {
            let found = self.found(cx, OPERATION).await?;
            match self.patch(cx, OPERATION, &found, bounds, true).await {
                Err(error) if is_lost_race(&error) && race < RACES => race += 1,
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn autoscaler(target: Value) -> HorizontalPodAutoscaler {
        let spec = json!({"minReplicas": 3, "maxReplicas": 20, "scaleTargetRef": target});
        serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "h", "uid": "u", "resourceVersion": "5"},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn only_the_same_kind_of_the_same_group_and_name_is_targeted() {
        for (target, expected) in [
            (json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"}), true),
            (json!({"apiVersion": "apps/v1beta2", "kind": "Deployment", "name": "api"}), true),
            (json!({"kind": "Deployment", "name": "api"}), true),
            (json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "api"}), false),
            (json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}), false),
            (json!({"apiVersion": "example.com/v1", "kind": "Deployment", "name": "api"}), false),
        ] {
            assert_eq!(targets(&autoscaler(target.clone()), "Deployment", "api"), expected, "{target}");
        }
    }

    #[test]
    fn versions_follow_the_bounds_only() {
        let target = json!({"kind": "Deployment", "name": "api"});
        let first = Found::from(autoscaler(target.clone()));
        let mut later = autoscaler(target);
        later.metadata.resource_version = Some("6".into());
        assert_eq!(first.version(), Found::from(later.clone()).version());
        later.spec.max_replicas = 21;
        assert_ne!(first.version(), Found::from(later).version());
        assert_eq!(first.title(), "HorizontalPodAutoscaler a/h");
    }

    #[test]
    fn an_autoscaler_of_keda_is_known_by_its_owner() {
        let mut object = autoscaler(json!({"kind": "Deployment", "name": "api"}));
        let owner =
            json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "so", "uid": "x"}]);
        object.metadata.owner_references = serde_json::from_value(owner).unwrap();
        assert_eq!(Found::from(object).title(), "ScaledObject a/so");
    }
}
