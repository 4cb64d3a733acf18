package pipeline_test

import (
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
)

// On three servers, of which the one that leads the stream goes away.
func TestSendOnCluster(t *testing.T) {
	t.Parallel()
	members := bustest.Cluster(t, 3)
	b := bustest.Connect(t, members[0], bustest.WithConfig(func(c *bus.Config) {
		c.Replicas = 3
		c.URLs = []string{members[0].URL(), members[1].URL(), members[2].URL()}
	}))
	p := pipeline.New(b, pipeline.Config{Timeout: time.Minute})
	first, err := pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithID("one"), pipeline.WithExpectedSequence(0))
	if err != nil || first.Sequence != 1 {
		t.Fatal(first, err)
	}
	if again, err := pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithID("one")); err != nil || again.Sequence != 1 || !again.Duplicate {
		t.Errorf("%+v, %v", again, err)
	}
	_, err = pipeline.Send(t.Context(), p, accountClosed, account{}, pipeline.WithID("one"))
	fails(t, err, rpc.AlreadyExists, "Account.opened")
	_, err = pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithExpectedSequence(9))
	fails(t, err, rpc.Aborted, "sequence 1", "expected was 9")

	events, err := b.EnsureEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := events.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Config().ServerName == info.Cluster.Leader {
			m.Shutdown()
		}
	}
	const n = 200
	receipts, err := pipeline.SendBatch(t.Context(), p, numbered, numbers(n))
	if err != nil || len(receipts) != n {
		t.Fatal(err)
	}
	if last, err := pipeline.Send(t.Context(), p, accountOpened, account{}, pipeline.WithExpectedSequence(1)); err != nil || last.Sequence != n+2 {
		t.Errorf("%+v, %v", last, err)
	}
}
