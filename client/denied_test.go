package client_test

import (
	"context"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/server"
)

var allowed = rpc.NewMethod[rpc.None, rpc.None]("shop.list", rpc.Timeout(10*time.Second))

// restricted returns a bus whose user may do what perms say.
func restricted(t *testing.T, perms *natsserver.Permissions) *bus.Bus {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true,
		Users: []*natsserver.User{{Username: "app", Password: "secret", Permissions: perms}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{s.ClientURL()}, User: "app", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// What the bus does not permit is said at once, and not by a timeout that
// leaves open whether the call ran.
func TestDenied(t *testing.T) {
	t.Parallel()
	all := &natsserver.SubjectPermission{Allow: []string{">"}}
	for _, test := range []struct {
		name  string
		perms natsserver.Permissions
		want  string
	}{
		{"publish", natsserver.Permissions{Publish: &natsserver.SubjectPermission{Deny: []string{"rpc.shop.>"}}, Subscribe: all},
			"does not permit this user to publish on rpc.shop.list"},
		{"inbox", natsserver.Permissions{Publish: all, Subscribe: &natsserver.SubjectPermission{Deny: []string{"_INBOX.>"}}},
			"does not permit this user to subscribe to its inbox"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := restricted(t, &test.perms)
			start := time.Now()
			_, err := allowed.Call(t.Context(), client.New(b, client.Config{}), rpc.None{})
			if rpc.CodeOf(err) != rpc.PermissionDenied || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want permission_denied with %q", err, test.want)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v of the call's 10s", took)
			}
		})
	}
}

// A service that may not take calls says so when it starts.
func TestDeniedService(t *testing.T) {
	t.Parallel()
	b := restricted(t, &natsserver.Permissions{Subscribe: &natsserver.SubjectPermission{Deny: []string{"rpc.>"}}})
	svc := server.New(b, "shop", server.Config{})
	server.Handle(svc, allowed, func(context.Context, rpc.None) (rpc.None, error) { return rpc.None{}, nil })
	err := svc.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "does not permit this user to subscribe to rpc.shop.>") {
		t.Errorf("Run: %v", err)
	}
}
