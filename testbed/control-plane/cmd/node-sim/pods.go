package main

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	readyAfterAnnotation     = annotationPrefix + "ready-after"
	terminateAfterAnnotation = annotationPrefix + "terminate-after"
	unreadyAnnotation        = annotationPrefix + "unready"

	podWorkers = 32
	// A start shorter than this is written once, when it is over; a longer one shows ContainerCreating meanwhile.
	visibleStart = time.Second
	nodeRetry    = 200 * time.Millisecond
	// How many addresses are tried for a pod before giving up for now.
	addressAttempts = 20
)

// pods plays the kubelet for every pod that is bound to a simulated node.
type pods struct {
	client kubernetes.Interface
	lister corelisters.PodLister
	nodes  *nodes
	// Answers at the pods' addresses.
	metrics *metrics
	delays  delays
	queue   workqueue.TypedRateLimitingInterface[cache.ObjectName]
	nextIP  atomic.Uint32

	mu     sync.Mutex
	memory map[cache.ObjectName]*podMemory
}

// podMemory is what the API does not keep precisely enough: its times have whole seconds.
type podMemory struct {
	uid          types.UID
	ip           string
	boundSeen    time.Time
	deletionSeen time.Time
}

func newPods(
	client kubernetes.Interface, cluster informers.SharedInformerFactory, nodes *nodes, metrics *metrics, delays delays,
) (*pods, error) {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](20*time.Millisecond, 2*time.Second)
	p := &pods{
		client:  client,
		lister:  cluster.Core().V1().Pods().Lister(),
		nodes:   nodes,
		metrics: metrics,
		delays:  delays,
		queue:   workqueue.NewTypedRateLimitingQueue(limiter),
		memory:  map[cache.ObjectName]*podMemory{},
	}
	// Clusters on the same machine share its loopback addresses.
	p.nextIP.Store(rand.Uint32())
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingObjectToName(object); err == nil {
			p.queue.Add(key)
		}
	}
	_, err := cluster.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, object any) { enqueue(object) },
		DeleteFunc: enqueue,
	})
	return p, err
}

func (p *pods) run(ctx context.Context) {
	go func() {
		<-ctx.Done()
		p.queue.ShutDown()
	}()
	var workers sync.WaitGroup
	for range podWorkers {
		workers.Go(func() {
			for {
				key, quit := p.queue.Get()
				if quit {
					return
				}
				again, err := p.reconcile(ctx, key)
				switch {
				case err != nil:
					log.Printf("pod %s: %v", key, err)
					p.queue.AddRateLimited(key)
				default:
					p.queue.Forget(key)
					if again > 0 {
						p.queue.AddAfter(key, again)
					}
				}
				p.queue.Done(key)
			}
		})
	}
	workers.Wait()
}

// reconcile brings one pod on; a positive duration asks to be called again then.
func (p *pods) reconcile(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	pod, err := p.lister.Pods(key.Namespace).Get(key.Name)
	if err != nil {
		p.forget(key)
		return 0, nil
	}
	if pod.Spec.NodeName == "" {
		return 0, nil
	}
	switch alive, known := p.nodes.alive(pod.Spec.NodeName); {
	case !known:
		return nodeRetry, nil // its node is newer than our cache, or gone
	case !alive:
		return nodeRetry, nil // a dead machine does nothing, but it may come back
	}
	memory := p.remember(key, pod)

	if pod.DeletionTimestamp != nil {
		if wait := p.terminateAfter(pod) - time.Since(memory.deletionSeen); wait > 0 {
			return wait, nil
		}
		p.metrics.stop(key)
		return 0, ignoreGone(p.client.CoreV1().Pods(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64),
			Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
		}))
	}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		p.metrics.stop(key)
		return 0, nil
	}

	state := running
	wait := durationAnnotation(pod, readyAfterAnnotation, p.delays.ready) - time.Since(memory.boundSeen)
	switch {
	case hasImage(pod, "never/"):
		state, wait = imagePullBackOff, 0
	case pod.Status.Phase == corev1.PodRunning && !hasImage(pod, "crash/"):
		wait = 0 // started before; only its readiness may change
	case wait >= visibleStart || (wait > 0 && len(pod.Status.ContainerStatuses) > 0):
		state = containerCreating
	case wait > 0:
		return wait, nil
	case hasImage(pod, "crash/"):
		state = crashLoopBackOff
	}
	if state == running {
		// First the address answers, then it is made known.
		if memory.ip, err = p.listen(key, pod, memory.ip); err != nil {
			return 0, err
		}
	}
	return max(wait, 0), p.write(ctx, pod, podStatus(pod, state, memory.ip, metav1.Now()))
}

// listen lets the pod answer at ip, or at another address where that one is taken and not known yet.
func (p *pods) listen(key cache.ObjectName, pod *corev1.Pod, ip string) (string, error) {
	for attempt := 1; ; attempt++ {
		err := p.metrics.ensure(key, pod, ip)
		if !isAddressInUse(err) || pod.Status.PodIP != "" || attempt == addressAttempts {
			return ip, err
		}
		ip = p.newAddress()
		p.mu.Lock()
		if memory := p.memory[key]; memory != nil && memory.uid == pod.UID {
			memory.ip = ip
		}
		p.mu.Unlock()
	}
}

// newAddress is one of 127.64.0.0/10: on loopback, so that the pod's metrics, or a server of the test, really answer
// there.
func (p *pods) newAddress() string {
	for {
		number := p.nextIP.Add(1)
		if last := byte(number); last != 0 && last != 255 {
			return fmt.Sprintf("127.%d.%d.%d", 64+(number>>16&0x3f), byte(number>>8), last)
		}
	}
}

func (p *pods) remember(key cache.ObjectName, pod *corev1.Pod) podMemory {
	p.mu.Lock()
	defer p.mu.Unlock()
	memory := p.memory[key]
	if memory == nil || memory.uid != pod.UID {
		memory = &podMemory{uid: pod.UID, ip: pod.Status.PodIP, boundSeen: time.Now()}
		if memory.ip == "" {
			memory.ip = p.newAddress()
		}
		p.memory[key] = memory
	}
	if pod.DeletionTimestamp != nil && memory.deletionSeen.IsZero() {
		memory.deletionSeen = time.Now()
	}
	return *memory
}

func (p *pods) forget(key cache.ObjectName) {
	p.metrics.stop(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.memory, key)
}

func (p *pods) terminateAfter(pod *corev1.Pod) time.Duration {
	wanted := durationAnnotation(pod, terminateAfterAnnotation, p.delays.terminate)
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		return min(wanted, time.Duration(*grace)*time.Second)
	}
	return wanted
}

func durationAnnotation(pod *corev1.Pod, name string, otherwise time.Duration) time.Duration {
	text, given := pod.Annotations[name]
	if !given {
		return otherwise
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		log.Printf("pod %s/%s: annotation %s: %v; using %s", pod.Namespace, pod.Name, name, err, otherwise)
		return otherwise
	}
	return duration
}

func hasImage(pod *corev1.Pod, prefix string) bool {
	for _, container := range pod.Spec.Containers {
		if strings.HasPrefix(container.Image, prefix) {
			return true
		}
	}
	return false
}

func (p *pods) write(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	merged := pod.Status
	merged.Conditions = mergeConditions(pod.Status.Conditions, status.Conditions)
	merged.Phase, merged.HostIP, merged.PodIP = status.Phase, status.HostIP, status.PodIP
	merged.ContainerStatuses = status.ContainerStatuses
	if equality.Semantic.DeepEqual(merged, pod.Status) {
		return nil
	}
	patch, err := statusPatch(pod, status)
	if err != nil {
		return err
	}
	_, err = p.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{}, "status")
	return ignoreGone(err)
}
