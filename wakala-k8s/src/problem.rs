//! Why pods are not ready, in a line for the person who waits for them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// How long a pod may run without being ready before that is worth a word.
const SLOW_START: Duration = Duration::from_secs(60);
const MAX_REASONS: usize = 3;
const MAX_MESSAGE: usize = 200;

/// What keeps these pods from being ready; `None` where nothing is known.
pub(crate) fn of_pods(pods: &[Pod], now: SystemTime) -> Option<String> {
    let mut reasons: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (reason, message) in pods.iter().filter_map(|pod| of_pod(pod, now)) {
        let entry = reasons.entry(reason).or_insert_with(|| (0, message));
        entry.0 += 1;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    reasons.truncate(MAX_REASONS);
    let line = |(reason, (count, message)): (String, (usize, String))| {
        let pods = if count == 1 { "pod" } else { "pods" };
        let message = shorten(&message);
        if message.is_empty() {
            format!("{count} {pods} {reason}")
        } else {
            format!("{count} {pods} {reason} ({message})")
        }
    };
    let lines: Vec<_> = reasons.into_iter().map(line).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// Reason and message.
fn of_pod(pod: &Pod, now: SystemTime) -> Option<(String, String)> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        return None;
    }
    if let Some(unscheduled) = condition("PodScheduled").filter(|scheduled| scheduled.status == "False") {
        let reason = match unscheduled.reason.as_deref() {
            Some("Unschedulable") | None => "unschedulable".to_owned(),
            Some(other) => other.to_owned(),
        };
        return Some((reason, unscheduled.message.clone().unwrap_or_default()));
    }
    let init = status.init_container_statuses.iter().flatten();
    let containers = init.chain(status.container_statuses.iter().flatten());
    if let Some(stuck) = containers.filter_map(of_container).next() {
        return Some(stuck);
    }
    let started = SystemTime::from(status.start_time.as_ref()?.0);
    let slow = now.duration_since(started).is_ok_and(|age| age > SLOW_START);
    slow.then(|| ("started over a minute ago and not ready".to_owned(), String::new()))
}

fn of_container(status: &ContainerStatus) -> Option<(String, String)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if matches!(reason, "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let message = match waiting.message.as_deref() {
        Some(message) if reason != "CrashLoopBackOff" => message.to_owned(),
        // The message of a crash loop is only about the pause; which container and how it ended says more.
        _ => {
            let ended = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            match ended {
                Some(ended) => format!("container {} exits with code {}", status.name, ended.exit_code),
                None => format!("container {}", status.name),
            }
        }
    };
    Some((reason.to_owned(), message))
}

/// The beginning of a message that goes on for too long.
pub(crate) fn shorten(message: &str) -> String {
    let message = message.trim().trim_end_matches('.');
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pods(statuses: &[Value]) -> Vec<Pod> {
        let pod = |status| serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        statuses.iter().map(pod).collect()
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{
            "name": "api", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}},
        }]})
    }

    #[test]
    fn reasons_are_counted_the_commonest_first() {
        let unschedulable = json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/5 nodes are available: 5 Insufficient cpu.",
        }]});
        let image = waiting("ImagePullBackOff", "Back-off pulling image \"never/api:2\"");
        let pods = pods(&[image, unschedulable.clone(), waiting("ContainerCreating", ""), unschedulable]);
        assert_eq!(
            of_pods(&pods, SystemTime::now()).unwrap(),
            "2 pods unschedulable (0/5 nodes are available: 5 Insufficient cpu); \
             1 pod ImagePullBackOff (Back-off pulling image \"never/api:2\")"
        );
    }

    #[test]
    fn a_crash_loop_tells_how_it_ends() {
        let mut crash = waiting("CrashLoopBackOff", "back-off 40s restarting failed container=api");
        crash["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 137}});
        let problem = of_pods(&pods(&[crash]), SystemTime::now()).unwrap();
        assert_eq!(problem, "1 pod CrashLoopBackOff (container api exits with code 137)");
    }

    #[test]
    fn ready_ended_and_young_pods_are_no_problem() {
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let young = json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z"});
        let pods = pods(&[ready, json!({"phase": "Failed"}), young]);
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let start = SystemTime::from(start);
        assert_eq!(of_pods(&pods, start + Duration::from_secs(30)), None);
        let late = of_pods(&pods, start + Duration::from_secs(61)).unwrap();
        assert_eq!(late, "1 pod started over a minute ago and not ready");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = shorten(&"é".repeat(300));
        assert_eq!(cut.chars().count(), MAX_MESSAGE + 1);
    }
}
