// Podroutes keeps one node's routes to the pods of all other nodes.
//
// It runs on every node with the host's network, follows the Node objects, and for each other node writes
// "podCIDR via InternalIP" into the kernel's main table, marked with a protocol number of its own so that it
// removes nothing it did not write. It takes kindnetd's place where that image can't be had; it enforces no
// NetworkPolicy.
package main

import (
	"context"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Any number above 200 is free for local use (rtnetlink(7)); this one marks our routes.
const protocol netlink.RouteProtocol = 237

func main() {
	self := os.Getenv("NODE_NAME")
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatalf("this program runs in a pod: %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()

	client := kubernetes.NewForConfigOrDie(config)
	waitForAPI(ctx, client, self)
	// Hundreds of simulated nodes may join: they have no pod network, and their heartbeats are not for us to hear.
	real := informers.WithTweakListOptions(func(options *metav1.ListOptions) {
		options.LabelSelector = "!kailab.dev/simulated"
	})
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, real)
	nodes := factory.Core().V1().Nodes()
	// A node object changes at every heartbeat; one pending look is enough for any number of changes.
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err = nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { notify() },
		UpdateFunc: func(any, any) { notify() },
		DeleteFunc: func(any) { notify() },
	})
	if err != nil {
		log.Fatal(err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if err := reconcile(nodes.Lister(), self); err != nil {
				log.Printf("routes are not complete, once more in a second: %v", err)
				time.AfterFunc(time.Second, notify)
			}
		}
	}
}

// waitForAPI returns when the API server answers, or ctx ends. On a new node kube-proxy, which leads there, may be
// later than this program; an informer that has failed would try again only after one second, two, four...
func waitForAPI(ctx context.Context, client kubernetes.Interface, self string) {
	patience := time.Second
	_ = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		brief, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		_, err := client.CoreV1().Nodes().Get(brief, self, metav1.GetOptions{})
		// A server that is slow to answer gets slower by everyone who gives up and shakes hands again.
		if brief.Err() != nil {
			patience = min(2*patience, 30*time.Second)
		}
		return err == nil, nil
	})
}

// reconcile makes our routes equal to what the Node objects say.
func reconcile(nodes listers.NodeLister, self string) error {
	all, err := nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	wanted := map[string]net.IP{}
	for _, node := range all {
		gateway := internalIP(node)
		if node.Name == self || gateway == nil {
			continue
		}
		for _, cidr := range node.Spec.PodCIDRs {
			wanted[cidr] = gateway
		}
	}
	present, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return err
	}
	for _, route := range present {
		key := route.Dst.String()
		if route.Gw.Equal(wanted[key]) {
			delete(wanted, key)
		} else if _, moved := wanted[key]; !moved {
			if err := netlink.RouteDel(&route); err != nil {
				return err
			}
			log.Printf("removed %s", key)
		}
	}
	for cidr, gateway := range wanted {
		_, destination, err := net.ParseCIDR(cidr)
		if err != nil {
			return err
		}
		if destination.IP.To4() == nil {
			continue
		}
		route := netlink.Route{Dst: destination, Gw: gateway, Protocol: protocol}
		if err := netlink.RouteReplace(&route); err != nil {
			return err
		}
		log.Printf("%s via %s", cidr, gateway)
	}
	return nil
}

func internalIP(node *corev1.Node) net.IP {
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			if ip := net.ParseIP(address.Address); ip.To4() != nil {
				return ip
			}
		}
	}
	return nil
}
