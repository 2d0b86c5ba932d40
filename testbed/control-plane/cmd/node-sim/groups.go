package main

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	groupsConfigMap = "node-sim"
	groupLabel      = annotationPrefix + "node-group"
	region          = "local-1"
)

// A group of equal nodes, as the ConfigMap gives it.
type group struct {
	Count        int               `json:"count"`
	CPU          string            `json:"cpu"`
	Memory       string            `json:"memory"`
	Pods         int               `json:"pods"`
	InstanceType string            `json:"instanceType"`
	Labels       map[string]string `json:"labels"`
	// Nodes are dealt to the zones in turn.
	Zones []string `json:"zones"`
	// From wanting a node to its being Ready, in milliseconds: what a cloud needs to boot a machine.
	BootMillis int64 `json:"bootMillis"`
}

func (g *group) bootDelay() time.Duration { return time.Duration(g.BootMillis) * time.Millisecond }

func parseGroup(text string) (*group, error) {
	g := &group{CPU: "32", Memory: "128Gi", Pods: 250, InstanceType: "sim.large", Zones: []string{region + "a"}}
	if err := json.Unmarshal([]byte(text), g); err != nil {
		return nil, err
	}
	if g.Count < 0 || g.Pods < 0 || g.BootMillis < 0 || len(g.Zones) == 0 {
		return nil, fmt.Errorf("count, pods and bootMillis must not be negative and zones not empty: %+v", *g)
	}
	for _, quantity := range []string{g.CPU, g.Memory} {
		if _, err := resource.ParseQuantity(quantity); err != nil {
			return nil, fmt.Errorf("%q: %w", quantity, err)
		}
	}
	return g, nil
}

// A group whose text cannot be read keeps its former definition: a typing error must not remove machines.
func parseGroups(config *corev1.ConfigMap, former map[string]*group) map[string]*group {
	groups := make(map[string]*group, len(config.Data))
	for name, text := range config.Data {
		g, err := parseGroup(text)
		if err != nil {
			log.Printf("node group %s: %v; keeping its former definition", name, err)
			if g = former[name]; g == nil {
				continue
			}
		}
		groups[name] = g
	}
	return groups
}

func nodeName(groupName string, index int) string { return fmt.Sprintf("%s-%d", groupName, index) }

func (g *group) node(groupName string, index int, now metav1.Time) *corev1.Node {
	name := nodeName(groupName, index)
	zone := g.Zones[index%len(g.Zones)]
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(name))
	id := hash.Sum64()

	labels := map[string]string{
		corev1.LabelHostname:           name,
		corev1.LabelOSStable:           "linux",
		corev1.LabelArchStable:         runtime.GOARCH,
		corev1.LabelInstanceTypeStable: g.InstanceType,
		corev1.LabelTopologyRegion:     region,
		corev1.LabelTopologyZone:       zone,
		groupLabel:                     groupName,
	}
	for key, value := range g.Labels {
		labels[key] = value
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse(g.CPU),
		corev1.ResourceMemory:           resource.MustParse(g.Memory),
		corev1.ResourcePods:             *resource.NewQuantity(int64(g.Pods), resource.DecimalSI),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.NodeSpec{ProviderID: fmt.Sprintf("aws:///%s/i-%017x", zone, id)},
		Status: corev1.NodeStatus{
			Capacity:    capacity,
			Allocatable: capacity,
			Conditions:  nodeConditions(now),
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("127.1.%d.%d", byte(id>>8), byte(id))},
				{Type: corev1.NodeHostName, Address: name},
			},
			NodeInfo: corev1.NodeSystemInfo{
				Architecture:            runtime.GOARCH,
				OperatingSystem:         "linux",
				ContainerRuntimeVersion: "none://simulated",
				KubeletVersion:          "v0.0.0-node-sim",
			},
		},
	}
}

func nodeConditions(now metav1.Time) []corev1.NodeCondition {
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason string) corev1.NodeCondition {
		return corev1.NodeCondition{
			Type: kind, Status: status, Reason: reason, Message: "simulated by node-sim",
			LastHeartbeatTime: now, LastTransitionTime: now,
		}
	}
	return []corev1.NodeCondition{
		condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory"),
		condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure"),
		condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID"),
		condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady"),
	}
}
