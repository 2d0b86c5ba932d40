// Command node-sim stands in for the kubelets (and the machines under them) of a test cluster.
//
// Node groups are read from the ConfigMap kube-system/node-sim and followed while it runs: every key is the name
// of a group and every value its JSON, see [group]. Nodes of a group appear, stay Ready (Lease heartbeats) and go
// (cordoned, evicted, deleted) as its count says. Pods that the scheduler binds to such a node become Running and
// Ready after a delay, and vanish when they are deleted. There are no containers: no logs, no exec, no probes.
//
// A pod that names a port (annotation prometheus.io/port, else its first container port) serves metrics there, at its
// own address on loopback, from the moment that it runs until it is gone. What it serves is a [page]: the entry
// "pod.<name>" or else "page" of the ConfigMap of its namespace that is labelled testbed.wakala.dev/pod-metrics=<value
// of its label app>, else that of its own annotation testbed.wakala.dev/metrics. Pages are followed while it runs; the
// annotation testbed.wakala.dev/revision of a ConfigMap is copied to testbed.wakala.dev/observed once they are in
// force. The path /testbed tells how often the pod was asked.
//
// Annotations on pods:
//
//	testbed.wakala.dev/ready-after      duration from being scheduled to being ready (default: --ready-after)
//	testbed.wakala.dev/terminate-after  duration from being deleted to being gone (default: --terminate-after),
//	                                    at most the pod's grace period
//	testbed.wakala.dev/unready          "true": runs, but its readiness probe fails
//
// Images: "never/..." can never be pulled (ImagePullBackOff), "crash/..." crashes on start (CrashLoopBackOff).
//
// Annotation on nodes: testbed.wakala.dev/dead "true" stops everything that the node does, as a power cut would.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const annotationPrefix = "testbed.wakala.dev/"

func main() {
	kubeconfig := flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "path of the kubeconfig file")
	readyAfter := flag.Duration("ready-after", 200*time.Millisecond, "delay from scheduled to ready, unless a pod is annotated")
	terminateAfter := flag.Duration("terminate-after", 0, "delay from deleted to gone, unless a pod is annotated")
	drainTimeout := flag.Duration("drain-timeout", time.Minute, "pods that cannot be evicted from a leaving node are deleted after this")
	flag.Parse()
	log.SetFlags(log.Ltime | log.Lmicroseconds)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *kubeconfig, delays{ready: *readyAfter, terminate: *terminateAfter, drain: *drainTimeout}); err != nil {
		log.Fatal(err)
	}
}

type delays struct {
	ready, terminate, drain time.Duration
}

func run(ctx context.Context, kubeconfig string, delays delays) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.UserAgent = "node-sim"
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}

	cluster := informers.NewSharedInformerFactory(client, 0)
	groupConfig := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector("metadata.name", groupsConfigMap).String()
		}))

	pageConfig := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = pagesLabel }))

	nodes, err := newNodes(client, cluster, groupConfig, delays.drain)
	if err != nil {
		return err
	}
	metrics, err := newMetrics(client, nodes, cluster, pageConfig)
	if err != nil {
		return err
	}
	pods, err := newPods(client, cluster, nodes, metrics, delays)
	if err != nil {
		return err
	}
	for _, factory := range []informers.SharedInformerFactory{cluster, groupConfig, pageConfig} {
		factory.Start(ctx.Done())
		for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
			if !synced {
				return errors.New("cache of " + kind.String() + " did not fill")
			}
		}
	}
	go nodes.run(ctx)
	go metrics.run(ctx)
	pods.run(ctx)
	return nil
}
