package main

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type podState int

const (
	containerCreating podState = iota
	imagePullBackOff
	crashLoopBackOff
	running
)

// podStatus is what a kubelet reports of a pod in that state. What was true before keeps its times.
func podStatus(pod *corev1.Pod, state podState, ip string, now metav1.Time) corev1.PodStatus {
	ready := state == running && pod.Annotations[unreadyAnnotation] != "true"
	status := corev1.PodStatus{
		ObservedGeneration: pod.Generation,
		Phase:              corev1.PodPending,
		StartTime:          pod.Status.StartTime,
		HostIP:             "127.0.0.1",
		HostIPs:            []corev1.HostIP{{IP: "127.0.0.1"}},
	}
	if status.StartTime == nil {
		status.StartTime = &now
	}
	started := state == running || state == crashLoopBackOff
	if started {
		status.Phase = corev1.PodRunning
		status.PodIP = ip
		status.PodIPs = []corev1.PodIP{{IP: ip}}
	}

	reason := ""
	if !ready {
		reason = "ContainersNotReady"
	}
	for _, report := range []struct {
		kind corev1.PodConditionType
		held bool
	}{
		{corev1.PodReadyToStartContainers, started},
		{corev1.PodInitialized, true},
		{corev1.ContainersReady, ready},
		{corev1.PodReady, ready},
	} {
		condition := corev1.PodCondition{Type: report.kind, Status: corev1.ConditionFalse, LastTransitionTime: now}
		if report.held {
			condition.Status = corev1.ConditionTrue
		} else {
			condition.Reason = reason
		}
		status.Conditions = append(status.Conditions, keepTransition(pod.Status.Conditions, condition))
	}

	for _, container := range pod.Spec.InitContainers {
		status.InitContainerStatuses = append(status.InitContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, ImageID: "sim://" + container.Image, Ready: true,
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}},
		})
	}
	for index, container := range pod.Spec.Containers {
		one := corev1.ContainerStatus{Name: container.Name, Image: container.Image, Started: &started, Ready: ready}
		switch state {
		case containerCreating:
			one.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
		case imagePullBackOff:
			one.State.Waiting = &corev1.ContainerStateWaiting{
				Reason:  "ImagePullBackOff",
				Message: `Back-off pulling image "` + container.Image + `"`,
			}
		case crashLoopBackOff:
			one.RestartCount = 3
			one.State.Waiting = &corev1.ContainerStateWaiting{
				Reason:  "CrashLoopBackOff",
				Message: "back-off 40s restarting failed container=" + container.Name,
			}
			one.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}
		case running:
			one.ImageID = "sim://" + container.Image
			one.ContainerID = "sim://" + string(pod.UID) + "/" + container.Name
			one.State.Running = &corev1.ContainerStateRunning{StartedAt: startedAt(pod, index, now)}
		}
		status.ContainerStatuses = append(status.ContainerStatuses, one)
	}
	return status
}

func startedAt(pod *corev1.Pod, index int, now metav1.Time) metav1.Time {
	if index < len(pod.Status.ContainerStatuses) {
		if state := pod.Status.ContainerStatuses[index].State.Running; state != nil {
			return state.StartedAt
		}
	}
	return now
}

func keepTransition(former []corev1.PodCondition, condition corev1.PodCondition) corev1.PodCondition {
	for _, before := range former {
		if before.Type == condition.Type && before.Status == condition.Status {
			condition.LastTransitionTime = before.LastTransitionTime
		}
	}
	return condition
}

// mergeConditions is what the API server makes of a strategic merge: ours win, the others stay.
func mergeConditions(former, ours []corev1.PodCondition) []corev1.PodCondition {
	merged := make([]corev1.PodCondition, 0, len(former)+len(ours))
	seen := map[corev1.PodConditionType]bool{}
	for _, before := range former {
		for _, condition := range ours {
			if condition.Type == before.Type {
				before.Status, before.Reason = condition.Status, condition.Reason
				before.LastTransitionTime = condition.LastTransitionTime
			}
		}
		seen[before.Type] = true
		merged = append(merged, before)
	}
	for _, condition := range ours {
		if !seen[condition.Type] {
			merged = append(merged, condition)
		}
	}
	return merged
}

// statusPatch is a strategic merge patch that also takes away what an earlier state had and this one has not.
func statusPatch(pod *corev1.Pod, status corev1.PodStatus) ([]byte, error) {
	type condition struct {
		corev1.PodCondition
		Reason *string `json:"reason"`
	}
	conditions := make([]condition, 0, len(status.Conditions))
	for _, one := range status.Conditions {
		patched := condition{PodCondition: one}
		if one.Reason != "" {
			patched.Reason = &one.Reason
		}
		conditions = append(conditions, patched)
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": struct {
			corev1.PodStatus
			Conditions []condition `json:"conditions"`
		}{status, conditions},
	})
}
