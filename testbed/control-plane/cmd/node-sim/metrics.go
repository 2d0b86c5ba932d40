package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	portAnnotation     = "prometheus.io/port"
	pathAnnotation     = "prometheus.io/path"
	pageAnnotation     = annotationPrefix + "metrics"
	pagesLabel         = annotationPrefix + "pod-metrics"
	revisionAnnotation = annotationPrefix + "revision"
	observedAnnotation = annotationPrefix + "observed"

	workloadLabel  = "app"
	podsByWorkload = "by-workload"
	everyPod       = "page"
	onePodPrefix   = "pod."

	growInterval       = 50 * time.Millisecond
	acknowledgeRetries = 10
)

// metrics answers for the pods' metrics endpoints, each at its pod's own address.
type metrics struct {
	client kubernetes.Interface
	nodes  *nodes
	pods   cache.Indexer
	// Changed pages, to be put in force.
	changed chan *corev1.ConfigMap

	mu      sync.Mutex
	pages   map[cache.ObjectName]map[string]*page
	traffic map[cache.ObjectName]*traffic
	servers map[cache.ObjectName]*endpoint
}

// traffic is what all pods of a workload were asked together.
type traffic struct{ inFlight, peak int }

// endpoint is the listener of one pod. What it counts is guarded by the mutex of metrics.
type endpoint struct {
	pod      *corev1.Pod
	address  string
	path     string
	workload cache.ObjectName
	given    *page // by the pod's own annotation
	grown    map[string]float64
	grownAt  time.Time
	requests int
	server   *http.Server // nil while connections are refused
}

func newMetrics(client kubernetes.Interface, nodes *nodes, cluster, pageConfig informers.SharedInformerFactory) (*metrics, error) {
	m := &metrics{
		client:  client,
		nodes:   nodes,
		pods:    cluster.Core().V1().Pods().Informer().GetIndexer(),
		changed: make(chan *corev1.ConfigMap, 64),
		pages:   map[cache.ObjectName]map[string]*page{},
		traffic: map[cache.ObjectName]*traffic{},
		servers: map[cache.ObjectName]*endpoint{},
	}
	err := cluster.Core().V1().Pods().Informer().AddIndexers(cache.Indexers{podsByWorkload: func(object any) ([]string, error) {
		return []string{workloadOf(object.(*corev1.Pod)).String()}, nil
	}})
	if err != nil {
		return nil, err
	}
	_, err = pageConfig.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { m.changed <- object.(*corev1.ConfigMap) },
		UpdateFunc: func(_, object any) { m.changed <- object.(*corev1.ConfigMap) },
		DeleteFunc: func(object any) {
			if config, ok := object.(*corev1.ConfigMap); ok {
				gone := config.DeepCopy()
				gone.Data = nil
				m.changed <- gone
			}
		},
	})
	return m, err
}

func workloadOf(pod *corev1.Pod) cache.ObjectName {
	return cache.ObjectName{Namespace: pod.Namespace, Name: pod.Labels[workloadLabel]}
}

// metricsPort is where a pod says that it serves metrics; 0 where it does not.
func metricsPort(pod *corev1.Pod) int {
	if text, given := pod.Annotations[portAnnotation]; given {
		port, err := strconv.Atoi(text)
		if err != nil {
			log.Printf("pod %s/%s: annotation %s: %v", pod.Namespace, pod.Name, portAnnotation, err)
		}
		return port
	}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			return int(port.ContainerPort)
		}
	}
	return 0
}

func (m *metrics) run(ctx context.Context) {
	grow := time.NewTicker(growInterval)
	defer grow.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case config := <-m.changed:
			m.apply(ctx, config)
		case now := <-grow.C:
			m.mu.Lock()
			ready := map[cache.ObjectName]int{}
			for _, e := range m.servers {
				if _, counted := ready[e.workload]; !counted {
					ready[e.workload] = m.ready(e.workload)
				}
				m.grow(e, ready[e.workload], now)
			}
			m.mu.Unlock()
		}
	}
}

// apply puts pages in force and then says so on their ConfigMap.
func (m *metrics) apply(ctx context.Context, config *corev1.ConfigMap) {
	workload := cache.ObjectName{Namespace: config.Namespace, Name: config.Labels[pagesLabel]}
	pages := map[string]*page{}
	for key, text := range config.Data {
		p, err := parsePage(text)
		if err != nil {
			log.Printf("page %s of %s: %v", key, workload, err)
			return
		}
		pages[key] = p
	}
	m.mu.Lock()
	m.pages[workload] = pages
	for key, e := range m.servers {
		if e.workload == workload {
			if err := m.listen(e); err != nil {
				log.Printf("pod %s: metrics at %s: %v", key, e.address, err)
			}
		}
	}
	m.mu.Unlock()
	revision := config.Annotations[revisionAnnotation]
	if revision != config.Annotations[observedAnnotation] && config.Data != nil {
		go m.acknowledge(ctx, config, revision)
	}
}

func (m *metrics) acknowledge(ctx context.Context, config *corev1.ConfigMap, revision string) {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, observedAnnotation, revision)
	for range acknowledgeRetries {
		_, err := m.client.CoreV1().ConfigMaps(config.Namespace).Patch(ctx, config.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if ignoreNotFound(err) == nil || ctx.Err() != nil {
			return
		}
		log.Printf("pages %s/%s: %v", config.Namespace, config.Name, err)
		time.Sleep(heartbeatRetry)
	}
}

// ensure lets a pod answer at ip from now on. An address that another process has is [syscall.EADDRINUSE].
func (m *metrics) ensure(key cache.ObjectName, pod *corev1.Pod, ip string) error {
	port := metricsPort(pod)
	if port == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.servers[key]
	if e != nil && e.pod.UID != pod.UID {
		m.stopLocked(key)
		e = nil
	}
	if e != nil {
		e.pod = pod
		return nil
	}
	e = &endpoint{
		pod: pod, address: net.JoinHostPort(ip, strconv.Itoa(port)), path: "/metrics",
		workload: workloadOf(pod), grown: map[string]float64{}, grownAt: time.Now(),
	}
	if path, given := pod.Annotations[pathAnnotation]; given {
		e.path = "/" + strings.TrimPrefix(path, "/")
	}
	if text, given := pod.Annotations[pageAnnotation]; given {
		p, err := parsePage(text)
		if err != nil {
			log.Printf("pod %s: annotation %s: %v", key, pageAnnotation, err)
		}
		e.given = p
	}
	if err := m.listen(e); err != nil {
		return err
	}
	m.servers[key] = e
	return nil
}

// stop ends a pod's listener and its connections.
func (m *metrics) stop(key cache.ObjectName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopLocked(key)
}

func (m *metrics) stopLocked(key cache.ObjectName) {
	if e := m.servers[key]; e != nil {
		if e.server != nil {
			_ = e.server.Close()
		}
		delete(m.servers, key)
	}
}

// page is what the endpoint serves now.
func (m *metrics) page(e *endpoint) *page {
	pages := m.pages[e.workload]
	for _, p := range []*page{pages[onePodPrefix+e.pod.Name], pages[everyPod], e.given} {
		if p != nil {
			return p
		}
	}
	return &page{}
}

// listen opens or closes the endpoint's port, as its page says.
func (m *metrics) listen(e *endpoint) error {
	refuse := m.page(e).Refuse
	switch {
	case refuse && e.server != nil:
		err := e.server.Close()
		e.server = nil
		return err
	case !refuse && e.server == nil:
		listener, err := net.Listen("tcp4", e.address)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: m.handler(e)}
		e.server = server
		go func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				log.Printf("metrics at %s: %v", e.address, err)
			}
		}()
	}
	return nil
}

// grow lets counters grow up to now, at the rate that belongs to so many ready pods.
func (m *metrics) grow(e *endpoint, ready int, now time.Time) {
	seconds := now.Sub(e.grownAt).Seconds()
	if seconds <= 0 {
		return
	}
	e.grownAt = now
	for _, metric := range m.page(e).Metrics {
		if metric.Kind == "growing" {
			e.grown[metric.series()] += metric.Level.at(ready) * seconds
		}
	}
}

// ready counts the pods that a Service would send traffic to.
func (m *metrics) ready(workload cache.ObjectName) int {
	pods, _ := m.pods.ByIndex(podsByWorkload, workload.String())
	ready := 0
	for _, object := range pods {
		pod := object.(*corev1.Pod)
		for _, condition := range pod.Status.Conditions {
			if pod.DeletionTimestamp == nil && condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	return ready
}

func (m *metrics) handler(e *endpoint) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/testbed", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		seen := m.trafficOf(e.workload)
		_ = json.NewEncoder(w).Encode(map[string]int{"requests": e.requests, "peakInFlight": seen.peak})
	})
	mux.HandleFunc(e.path, func(w http.ResponseWriter, r *http.Request) { m.serve(e, w, r) })
	return mux
}

func (m *metrics) trafficOf(workload cache.ObjectName) *traffic {
	seen := m.traffic[workload]
	if seen == nil {
		seen = &traffic{}
		m.traffic[workload] = seen
	}
	return seen
}

func (m *metrics) serve(e *endpoint, w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	e.requests++
	seen := m.trafficOf(e.workload)
	seen.inFlight++
	seen.peak = max(seen.peak, seen.inFlight)
	p := m.page(e)
	node := e.pod.Spec.NodeName
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		seen.inFlight--
		m.mu.Unlock()
	}()

	if alive, _ := m.nodes.alive(node); p.Hang || !alive {
		<-r.Context().Done()
		return
	}
	select {
	case <-r.Context().Done():
		return
	case <-time.After(time.Duration(p.DelayMillis) * time.Millisecond):
	}
	m.mu.Lock()
	ready := m.ready(e.workload)
	m.grow(e, ready, time.Now())
	text := p.text(ready, e.grown)
	m.mu.Unlock()

	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if p.Status != 0 {
		w.WriteHeader(p.Status)
	}
	if p.Trickle {
		trickle(w, r)
		return
	}
	_, _ = io.WriteString(w, text)
}

// trickle writes a comment that goes on until the client leaves.
func trickle(w http.ResponseWriter, r *http.Request) {
	for {
		_, err := io.WriteString(w, "#")
		if err == nil {
			err = http.NewResponseController(w).Flush()
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(growInterval):
		}
		if err != nil {
			return
		}
	}
}

func isAddressInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
