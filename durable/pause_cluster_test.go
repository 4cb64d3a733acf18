package durable_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable"
)

// On a cluster, too, a pause is in effect when Pause returns, whichever servers
// the members are connected to; one that was cut off goes by it when it is back.
func TestPauseOnACluster(t *testing.T) {
	t.Parallel()
	replicated := bustest.WithConfig(func(c *bus.Config) { c.Replicas = 3 })
	servers := bustest.Cluster(t, 3, bustest.IgnoreLeaks()) // one of them is killed
	b := bustest.Connect(t, servers[0], replicated)
	serveCounter(t, bustest.Connect(t, servers[0], replicated), durable.Config{})
	serveCounter(t, bustest.Connect(t, servers[1], replicated), durable.Config{})
	c := openClass(t, b, "counter")
	cl := client.New(b, client.Config{NoShortcut: true, Timeout: 30 * time.Second, MaxAttempts: 1000})
	t.Cleanup(cl.Close)
	var ids []string
	for i := range 24 {
		ids = append(ids, fmt.Sprintf("id %02d", i))
	}
	all := func(code rpc.Code, texts ...string) {
		t.Helper()
		increment, _ := methods()
		for _, id := range ids {
			_, err := increment.Call(t.Context(), cl, id, incrementParams{By: 1})
			wantError(t, id, err, code, texts...)
		}
	}
	all(0)
	for range 3 {
		if err := c.PauseClass(t.Context(), "cluster"); err != nil {
			t.Fatal(err)
		}
		all(rpc.Unavailable, "paused: cluster")
		// Whoever joins knows it before the first call.
		stop := serveCounter(t, bustest.Connect(t, servers[2], replicated), durable.Config{})
		all(rpc.Unavailable, "paused: cluster")
		if err := c.ResumeClass(t.Context()); err != nil {
			t.Fatal(err)
		}
		all(0)
		stop()
	}
	comesTrue(t, "the list of ids on every replica", func() bool {
		got, err := collect(c.All(t.Context(), ""))
		return err == nil && slices.Equal(got, ids)
	})
	for _, id := range ids {
		if info, err := c.State(t.Context(), id); err != nil || string(info.State) != `{"value":4}` {
			t.Errorf("state of %s: %s, %v", id, info.State, err)
		}
	}

	servers[1].Shutdown() // and with it a member is cut off
	comesTrue(t, "a pause without it", func() bool {
		return c.PauseClass(t.Context(), "one is cut off") == nil
	})
	all(rpc.Unavailable, "paused: one is cut off")
	if err := servers[1].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		all(rpc.Unavailable, "paused: one is cut off")
	}
	comesTrue(t, "resuming with it", func() bool { return c.ResumeClass(t.Context()) == nil })
	all(0)
}
