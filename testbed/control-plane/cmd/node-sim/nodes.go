package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	deadAnnotation = annotationPrefix + "dead"
	podsByNode     = "by-node"

	heartbeat      = 10 * time.Second
	heartbeatRetry = time.Second
	drainInterval  = 200 * time.Millisecond
	leaseSeconds   = 40
	parallelCalls  = 16
)

// nodes keeps the cluster's Node objects at what the groups ask for.
type nodes struct {
	client     kubernetes.Interface
	lister     corelisters.NodeLister
	pods       cache.Indexer
	configs    corelisters.ConfigMapLister
	drainAfter time.Duration
	wake       chan struct{}

	// Owned by the reconciling goroutine.
	groups   map[string]*group
	bootAt   map[string]time.Time
	draining map[string]time.Time
}

func newNodes(client kubernetes.Interface, cluster, groupConfig informers.SharedInformerFactory, drain time.Duration) (*nodes, error) {
	n := &nodes{
		client:     client,
		lister:     cluster.Core().V1().Nodes().Lister(),
		pods:       cluster.Core().V1().Pods().Informer().GetIndexer(),
		configs:    groupConfig.Core().V1().ConfigMaps().Lister(),
		drainAfter: drain,
		wake:       make(chan struct{}, 1),
		groups:     map[string]*group{},
		bootAt:     map[string]time.Time{},
		draining:   map[string]time.Time{},
	}
	err := cluster.Core().V1().Pods().Informer().AddIndexers(cache.Indexers{podsByNode: func(object any) ([]string, error) {
		return []string{object.(*corev1.Pod).Spec.NodeName}, nil
	}})
	if err != nil {
		return nil, err
	}
	onChange := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { n.poke() },
		UpdateFunc: func(any, any) { n.poke() },
		DeleteFunc: func(any) { n.poke() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		cluster.Core().V1().Nodes().Informer(), groupConfig.Core().V1().ConfigMaps().Informer(),
	} {
		if _, err := informer.AddEventHandler(onChange); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *nodes) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// alive says whether a node is simulated here and works; known is false for a node that is not (or not yet) seen.
func (n *nodes) alive(name string) (alive, known bool) {
	node, err := n.lister.Get(name)
	if err != nil {
		return false, false
	}
	return node.Labels[groupLabel] != "" && node.Annotations[deadAnnotation] != "true", true
}

func (n *nodes) run(ctx context.Context) {
	go n.heartbeats(ctx)
	for {
		timer := time.NewTimer(n.reconcile(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-n.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// reconcile makes one pass and returns when the next is due at the latest.
func (n *nodes) reconcile(ctx context.Context) time.Duration {
	next := time.Minute
	if config, err := n.configs.ConfigMaps(metav1.NamespaceSystem).Get(groupsConfigMap); err == nil {
		n.groups = parseGroups(config, n.groups)
	}
	present := n.simulated()

	var work []func() error
	wanted := map[string]bool{}
	for groupName, g := range n.groups {
		for index := range g.Count {
			name := nodeName(groupName, index)
			wanted[name] = true
			node := present[name]
			if node != nil {
				delete(n.bootAt, name)
				work = append(work, n.upkeep(ctx, node)...)
				continue
			}
			if _, booting := n.bootAt[name]; !booting {
				n.bootAt[name] = time.Now().Add(g.bootDelay())
			}
			if wait := time.Until(n.bootAt[name]); wait > 0 {
				next = min(next, wait)
				continue
			}
			next = min(next, heartbeatRetry)
			work = append(work, func() error { return n.create(ctx, g.node(groupName, index, metav1.Now())) })
		}
	}
	for name := range n.bootAt {
		if !wanted[name] {
			delete(n.bootAt, name)
		}
	}
	for name, node := range present {
		if !wanted[name] {
			next = min(next, drainInterval)
			work = append(work, n.drain(ctx, node)...)
		}
	}
	for name := range n.draining {
		if present[name] == nil {
			delete(n.draining, name)
		}
	}
	if !inParallel(work) {
		next = min(next, heartbeatRetry)
	}
	return next
}

func (n *nodes) simulated() map[string]*corev1.Node {
	all, _ := n.lister.List(labels.Everything())
	present := make(map[string]*corev1.Node, len(all))
	for _, node := range all {
		if node.Labels[groupLabel] != "" {
			present[node.Name] = node
		}
	}
	return present
}

func (n *nodes) create(ctx context.Context, node *corev1.Node) error {
	created, err := n.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return n.renew(ctx, created)
}

// upkeep brings a wanted node back that was leaving, or that the node controller gave up while we were cut off.
func (n *nodes) upkeep(ctx context.Context, node *corev1.Node) []func() error {
	var work []func() error
	if _, leaving := n.draining[node.Name]; leaving {
		delete(n.draining, node.Name)
		work = append(work, func() error { return n.cordon(ctx, node.Name, false) })
	}
	if node.Annotations[deadAnnotation] != "true" && !isReady(node) {
		work = append(work, func() error {
			if err := n.renew(ctx, node); err != nil {
				return err
			}
			patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": nodeConditions(metav1.Now())}})
			if err != nil {
				return err
			}
			_, err = n.client.CoreV1().Nodes().PatchStatus(ctx, node.Name, patch)
			return err
		})
	}
	return work
}

func isReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// drain lets a node go as a managed node group does: cordon, evict (disruption budgets count), then remove.
func (n *nodes) drain(ctx context.Context, node *corev1.Node) []func() error {
	since, leaving := n.draining[node.Name]
	if !leaving {
		n.draining[node.Name] = time.Now()
		return []func() error{func() error { return n.cordon(ctx, node.Name, true) }}
	}
	bound, err := n.pods.ByIndex(podsByNode, node.Name)
	if err != nil {
		return []func() error{func() error { return err }}
	}
	forced := time.Since(since) > n.drainAfter
	var work []func() error
	for _, object := range bound {
		pod := object.(*corev1.Pod)
		if pod.DeletionTimestamp != nil && !forced {
			continue
		}
		work = append(work, func() error { return n.evict(ctx, pod, forced) })
	}
	if len(bound) == 0 {
		work = append(work, func() error { return n.remove(ctx, node) })
	}
	return work
}

func (n *nodes) evict(ctx context.Context, pod *corev1.Pod, forced bool) error {
	samePod := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	if forced {
		samePod.GracePeriodSeconds = new(int64)
		return ignoreGone(n.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, samePod))
	}
	err := n.client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
		DeleteOptions: &samePod,
	})
	if apierrors.IsTooManyRequests(err) {
		return nil // a disruption budget says not yet; the next pass asks again
	}
	return ignoreGone(err)
}

func (n *nodes) remove(ctx context.Context, node *corev1.Node) error {
	sameNode := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(node.UID))}
	return ignoreGone(n.client.CoreV1().Nodes().Delete(ctx, node.Name, sameNode))
}

func (n *nodes) cordon(ctx context.Context, name string, on bool) error {
	patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, on)
	_, err := n.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return ignoreNotFound(err)
}

func (n *nodes) heartbeats(ctx context.Context) {
	for {
		var work []func() error
		for _, node := range n.simulated() {
			if node.Annotations[deadAnnotation] != "true" {
				work = append(work, func() error { return n.renew(ctx, node) })
			}
		}
		pause := heartbeat
		if !inParallel(work) {
			pause = heartbeatRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (n *nodes) renew(ctx context.Context, node *corev1.Node) error {
	leases := n.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"renewTime": now}})
	if err != nil {
		return err
	}
	_, err = leases.Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	seconds := int32(leaseSeconds)
	_, err = leases.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID,
		}}},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// inParallel does all work, logs what failed, and says whether all of it succeeded.
func inParallel(work []func() error) bool {
	var group sync.WaitGroup
	slots := make(chan struct{}, parallelCalls)
	failures := make(chan error, len(work))
	for _, item := range work {
		slots <- struct{}{}
		group.Go(func() {
			if err := item(); err != nil {
				failures <- err
			}
			<-slots
		})
	}
	group.Wait()
	close(failures)
	ok := true
	for err := range failures {
		ok = false
		log.Print(err)
	}
	return ok
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// ignoreGone also takes a failed precondition for success: the object of that name is a newer one.
func ignoreGone(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return ignoreNotFound(err)
}
