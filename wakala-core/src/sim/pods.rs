//! Pods of one workload, and the controller that keeps them as they should be.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use super::nodes::{Place, chance};
use super::workload::Workload;

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Not on a node.
    Pending,
    /// On a node, ready at that second.
    Starting(u64),
    /// At work.
    Ready,
}

/// One pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod {
    // Of a StatefulSet the ordinal, else rising with age.
    serial: u64,
    /// Which of the workload's templates it was made from.
    pub(super) template: usize,
    pub(super) phase: Phase,
    pub(super) place: Option<Place>,
}

impl Pod {
    fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }
}

/// A workload in the running world.
#[derive(Debug)]
pub(super) struct WorkloadState {
    pub(super) config: Workload,
    /// As a person would name it.
    pub(super) id: String,
    pub(super) desired: u32,
    pub(super) replicas_version: u64,
    pub(super) template_version: u64,
    // Every environment that it ever had; equal ones are one template, so that going back finds its pods again.
    templates: Vec<BTreeMap<String, String>>,
    pub(super) template: usize,
    pub(super) pods: Vec<Pod>,
    next_serial: u64,
    /// Requests that wait.
    pub(super) queue: f64,
    rng: ChaCha8Rng,
}

impl WorkloadState {
    pub(super) fn new(config: Workload, namespace: &str, rng: ChaCha8Rng) -> Self {
        let kind = if config.stateful { "statefulset" } else { "deployment" };
        let mut state = Self {
            id: format!("{kind} {namespace}/{}", config.name),
            desired: config.replicas,
            replicas_version: 1,
            template_version: 1,
            templates: vec![config.env.clone()],
            template: 0,
            pods: Vec::new(),
            next_serial: 0,
            queue: 0.0,
            config,
            rng,
        };
        state.create(state.desired as usize);
        state
    }

    pub(super) fn env(&self) -> &BTreeMap<String, String> {
        &self.templates[self.template]
    }

    /// The environment of a pod.
    pub(super) fn env_of(&self, pod: &Pod) -> &BTreeMap<String, String> {
        &self.templates[pod.template]
    }

    /// Makes `env` the environment of new pods. Changes nothing where it is so already.
    pub(super) fn set_env(&mut self, env: BTreeMap<String, String>) {
        if env == *self.env() {
            return;
        }
        self.template_version += 1;
        self.template = self.templates.iter().position(|known| *known == env).unwrap_or_else(|| {
            self.templates.push(env);
            self.templates.len() - 1
        });
    }

    /// Asks for so many replicas. Changes nothing where it is so already.
    pub(super) fn set_desired(&mut self, desired: u32) {
        if desired != self.desired {
            self.desired = desired;
            self.replicas_version += 1;
        }
    }

    pub(super) fn ready(&self) -> u32 {
        self.count(Pod::is_ready)
    }

    pub(super) fn outdated(&self) -> u32 {
        self.count(|pod| pod.template != self.template)
    }

    pub(super) fn pending(&self) -> u32 {
        self.count(|pod| pod.phase == Phase::Pending)
    }

    fn count(&self, holds: impl Fn(&Pod) -> bool) -> u32 {
        u32::try_from(self.pods.iter().filter(|pod| holds(pod)).count()).unwrap_or(u32::MAX)
    }

    /// Whether nothing old is left and nothing is on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.pods.len() == self.desired as usize && self.outdated() == 0 && self.ready() == self.desired
    }

    /// Puts a pod on its node, where it starts.
    pub(super) fn bind(&mut self, index: usize, place: Place, now: u64) {
        let startup = self.config.startup.as_secs() + chance(&mut self.rng, self.config.startup_jitter);
        let pod = &mut self.pods[index];
        pod.place = Some(place);
        pod.phase = Phase::Starting(now + startup);
    }

    /// Makes all pods that are on a node ready, as they are when the world begins.
    pub(super) fn start_all(&mut self) {
        self.pods.iter_mut().filter(|pod| pod.place.is_some()).for_each(|pod| pod.phase = Phase::Ready);
    }

    /// Makes those ready whose time has come.
    pub(super) fn start(&mut self, now: u64) {
        for pod in &mut self.pods {
            if matches!(pod.phase, Phase::Starting(at) if at <= now) {
                pod.phase = Phase::Ready;
            }
        }
    }

    /// Up to `count` ready pods fall over and start again where they are.
    pub(super) fn crash(&mut self, count: u32, now: u64) {
        let startup = self.config.startup.as_secs();
        for pod in self.pods.iter_mut().filter(|pod| pod.is_ready()).take(count as usize) {
            pod.phase = Phase::Starting(now + startup);
        }
    }

    /// The pods of a node that is gone are to be placed anew.
    pub(super) fn evict(&mut self, from: Place) {
        for pod in self.pods.iter_mut().filter(|pod| pod.place == Some(from)) {
            pod.place = None;
            pod.phase = Phase::Pending;
        }
    }

    /// One round of the controller: makes and removes pods.
    pub(super) fn reconcile(&mut self) {
        if self.config.stateful { self.reconcile_stateful() } else { self.reconcile_deployment() }
    }

    /// As the Deployment controller does it, except that a resize in the midst of a rollout goes to the new pods.
    fn reconcile_deployment(&mut self) {
        let desired = self.desired as usize;
        let outdated = self.outdated() as usize;
        let (surge, unavailable) = self.config.rollout(self.desired);
        let limit = if outdated == 0 { desired } else { desired + surge as usize };
        let current = self.pods.len() - outdated;
        if current > desired {
            self.remove(current - desired, |pod, template| pod.template == template);
        }
        self.create(desired.saturating_sub(current).min(limit.saturating_sub(self.pods.len())));
        if outdated == 0 {
            return;
        }
        // Old pods that do not work go first; of the others as many as the new ones that work make up for.
        let enough = self.desired.saturating_sub(unavailable) as usize;
        let starting = self.count(|pod| pod.template == self.template && !pod.is_ready()) as usize;
        let spare = self.pods.len().saturating_sub(enough + starting);
        self.remove(spare, |pod, template| pod.template != template && !pod.is_ready());
        let spare = (self.ready() as usize).saturating_sub(enough);
        self.remove(spare, |pod, template| pod.template != template && pod.is_ready());
    }

    /// One pod after the other, and none while another is not ready.
    fn reconcile_stateful(&mut self) {
        let desired = self.desired as usize;
        if let Some(waiting) = self.pods.iter().find(|pod| !pod.is_ready()).copied() {
            if self.pods.len() > desired {
                self.pods.pop();
            } else if waiting.template != self.template {
                // One of an old template may never get ready, so it is not waited for.
                self.replace(waiting.serial);
            }
        } else if self.pods.len() < desired {
            self.next_serial = self.pods.len() as u64;
            self.create(1);
        } else if self.pods.len() > desired {
            self.pods.pop();
        } else if let Some(old) = self.pods.iter().rev().find(|pod| pod.template != self.template) {
            self.replace(old.serial);
        }
    }

    fn replace(&mut self, ordinal: u64) {
        let template = self.template;
        for pod in self.pods.iter_mut().filter(|pod| pod.serial == ordinal) {
            *pod = Pod { serial: ordinal, template, phase: Phase::Pending, place: None };
        }
    }

    fn create(&mut self, count: usize) {
        for _ in 0..count {
            let (serial, template) = (self.next_serial, self.template);
            self.next_serial += 1;
            self.pods.push(Pod { serial, template, phase: Phase::Pending, place: None });
        }
    }

    /// Removes up to `count` pods of a sort: the least far, then the youngest first.
    fn remove(&mut self, count: usize, sort: impl Fn(&Pod, usize) -> bool) {
        let mut victims: Vec<_> = self.pods.iter().filter(|pod| sort(pod, self.template)).copied().collect();
        victims.sort_by_key(|pod| (rank(pod.phase), u64::MAX - pod.serial));
        victims.truncate(count);
        self.pods.retain(|pod| !victims.iter().any(|victim| victim.serial == pod.serial));
    }
}

fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Pending => 0,
        Phase::Starting(_) => 1,
        Phase::Ready => 2,
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn workload(config: Workload) -> WorkloadState {
        let mut state = WorkloadState::new(config, "production", ChaCha8Rng::seed_from_u64(1));
        second(&mut state, 0);
        state.start_all();
        assert!(state.is_settled());
        state
    }

    /// One second with room for every pod.
    fn second(state: &mut WorkloadState, now: u64) {
        state.start(now);
        state.reconcile();
        for index in 0..state.pods.len() {
            if state.pods[index].phase == Phase::Pending {
                state.bind(index, Place { pool: 0, node: 0 }, now);
            }
        }
    }

    fn env(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("MODE".to_owned(), value.to_owned())])
    }

    #[test]
    fn a_restart_keeps_within_surge_and_unavailable() {
        let mut state = workload(Workload::new("api", 10));
        state.set_env(env("fast"));
        let (mut fewest, mut most, mut now) = (10, 10, 0);
        while !state.is_settled() {
            now += 1;
            second(&mut state, now);
            fewest = fewest.min(state.ready());
            most = most.max(state.pods.len());
            assert!(now < 300, "the rollout does not end");
        }
        assert_eq!((fewest, most), (8, 13));
        assert!(now >= 40, "two rounds of starting take longer than {now} s");
    }

    #[test]
    fn going_back_keeps_the_pods_that_are_still_old() {
        let mut state = workload(Workload::new("api", 10));
        state.set_env(env("fast"));
        second(&mut state, 1);
        state.set_env(BTreeMap::new());
        assert_eq!((state.template, state.template_version), (0, 3));
        for now in 2..30 {
            second(&mut state, now);
        }
        assert!(state.is_settled());
        assert!(state.pods.iter().filter(|pod| pod.serial < 10).count() >= 8);
    }

    #[test]
    fn a_stateful_set_goes_one_by_one() {
        let mut state = workload(Workload::stateful("redis", 2));
        state.set_desired(5);
        for now in 1..=64 {
            second(&mut state, now);
            assert!(state.pods.len() - state.ready() as usize <= 1);
        }
        assert!(state.is_settled());
        state.set_env(env("fast"));
        let mut now = 64;
        while !state.is_settled() {
            now += 1;
            second(&mut state, now);
            assert!(state.ready() >= 4 && now < 300);
        }
        state.set_desired(1);
        for now in 300..304 {
            second(&mut state, now);
        }
        assert_eq!(state.pods.iter().map(|pod| pod.serial).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn shrinking_takes_what_does_not_work_yet() {
        let mut state = workload(Workload::new("api", 4));
        state.set_desired(8);
        second(&mut state, 1);
        state.set_desired(5);
        second(&mut state, 2);
        assert_eq!((state.pods.len(), state.ready()), (5, 4));
    }
}
