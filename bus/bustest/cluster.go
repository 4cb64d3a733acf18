package bustest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"rpc.do/bus/natsd"
)

// clusterPatience is how long the members of a cluster may take to meet.
const clusterPatience = 30 * time.Second

// Cluster starts the members of a cluster of n servers, two or more, and waits
// until JetStream can use all of them. They are shut down when the test ends.
func Cluster(t testing.TB, n int, opts ...Option) []*natsd.Server {
	t.Helper()
	set := newSettings(opts)
	dirs := make([]string, n)
	for i := range dirs {
		dirs[i] = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), clusterPatience)
	defer cancel()
	servers, err := startCluster(ctx, dirs, set)
	// The members must know each other's ports before the first one starts, so
	// somebody else may have taken one by the time it is listened on.
	for tries := 1; tries < 5 && errors.Is(err, syscall.EADDRINUSE); tries++ {
		servers, err = startCluster(ctx, dirs, set)
	}
	if err != nil {
		t.Fatalf("bustest: %v", err)
	}
	for _, s := range servers {
		cleanUpServer(t, s, set)
	}
	if err := waitPeers(ctx, servers); err != nil {
		t.Fatalf("bustest: %v", err)
	}
	return servers
}

func startCluster(ctx context.Context, dirs []string, set *settings) (servers []*natsd.Server, err error) {
	defer func() {
		if err != nil {
			for _, s := range servers {
				s.Shutdown()
			}
		}
	}()
	ports, err := freePorts(len(dirs))
	if err != nil {
		return nil, err
	}
	routes := make([]string, len(ports))
	for i, port := range ports {
		routes[i] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	for i, dir := range dirs {
		cfg := natsd.Config{
			Port:       natsd.FreePort,
			StoreDir:   dir,
			Sync:       natsd.SyncInterval,
			ServerName: fmt.Sprintf("member-%d", i+1),
			Cluster:    &natsd.Cluster{Name: "test", Port: ports[i], Routes: routes},
		}
		for _, change := range set.server {
			change(&cfg)
		}
		s, err := natsd.Start(ctx, cfg)
		if err != nil {
			return servers, err
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// freePorts returns ports that were free a moment ago.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // after the last one, so that all differ
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// waitPeers waits until every member has a route to every other, and the
// JetStream leader has heard from all.
func waitPeers(ctx context.Context, servers []*natsd.Server) error {
	for !met(servers) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the members of the cluster have not met: %w", ctx.Err())
		case <-time.After(leakInterval):
		}
	}
	for _, s := range servers {
		if err := s.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

func met(servers []*natsd.Server) bool {
	led := servers[0].Config().NoJetStream
	for _, s := range servers {
		ns := s.NATS()
		if ns.NumRemotes() != len(servers)-1 {
			return false
		}
		led = led || ns.JetStreamIsLeader() && len(ns.JetStreamClusterPeers()) == len(servers)
	}
	return led
}
