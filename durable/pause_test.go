package durable_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable"
)

// tryCounter calls both methods of a counter, which must both be served or both
// be refused.
func tryCounter(t testing.TB, c rpc.Caller, id string) error {
	t.Helper()
	increment, value := methods()
	begun := time.Now()
	_, turn := increment.Call(t.Context(), c, id, incrementParams{By: 1})
	_, view := value.Call(t.Context(), c, id, rpc.None{})
	if rpc.CodeOf(turn) != rpc.CodeOf(view) {
		t.Errorf("%s: a turn: %v, a view: %v", id, turn, view)
	}
	if e, ok := turn.(*rpc.Error); ok && (e.Retryable || e.RetryAfter > 0 || time.Since(begun) > 4*time.Second) {
		t.Errorf("%s: refused after %v with %+v: want it at once, not to be tried again", id, time.Since(begun), e)
	}
	return turn
}

func TestPause(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	serveCounter(t, bustest.Connect(t, s), durable.Config{})
	stop := serveCounter(t, bustest.Connect(t, s), durable.Config{})
	b := bustest.Connect(t, s)
	cl, c := caller(t, b), openClass(t, b, "counter")
	// Enough ids for either instance to own some.
	var ids []string
	for i := range 40 {
		ids = append(ids, fmt.Sprint("id ", i))
	}
	increments(t, cl, ids...)
	all := func(code rpc.Code, texts ...string) {
		t.Helper()
		for _, id := range ids {
			wantError(t, id, tryCounter(t, cl, id), code, texts...)
		}
	}
	pause := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // each time it is in effect at once
		pause(c.PauseClass(t.Context(), "maintenance until noon"))
		all(rpc.Unavailable, "the class counter is paused: maintenance until noon")
		pause(c.ResumeClass(t.Context()))
		all(0)
	}
	for _, id := range ids[:10] {
		pause(c.Pause(t.Context(), id, "under investigation"))
		wantError(t, id, tryCounter(t, cl, id), rpc.Unavailable, "the object counter/"+id+" is paused: under investigation")
	}
	increments(t, cl, ids[10:]...)
	pause(c.PauseClass(t.Context(), ""))
	all(rpc.Unavailable, "the class counter is paused, no reason was given")
	paused, err := c.Paused(t.Context())
	if err != nil || len(paused) != 11 || paused[0].ID != "" || paused[1].ID != "id 0" || paused[1].Reason != "under investigation" ||
		time.Since(paused[1].Since).Abs() > time.Minute {
		t.Errorf("paused: %+v, %v", paused, err)
	}
	pause(c.ResumeClass(t.Context()))
	wantError(t, "still paused by itself", tryCounter(t, cl, ids[0]), rpc.Unavailable, "under investigation")
	if info, err := c.State(t.Context(), ids[0]); err != nil || info.Paused == nil || info.Paused.ID != ids[0] || info.Paused.Reason != "under investigation" {
		t.Errorf("state: %+v, %v", info, err)
	}

	// A foreign client's call goes to any instance.
	msg := nats.NewMsg(bus.CallSubject("counter", "increment"))
	msg.Data = []byte(`{"by":1}`)
	msg.Header.Set("Rpc-Object", ids[0])
	for range 10 {
		answer, err := b.Conn().RequestMsg(msg, 5*time.Second)
		if err != nil || answer.Header.Get("Rpc-Code") != "unavailable" {
			t.Fatalf("a foreign client's call: %v, %v", answer, err)
		}
	}

	// Whoever comes later knows it, and whoever goes does not take it along.
	serveCounter(t, bustest.Connect(t, s), durable.Config{})
	stop()
	for _, id := range ids[:10] {
		wantError(t, id, tryCounter(t, cl, id), rpc.Unavailable, "under investigation")
		pause(c.Resume(t.Context(), id))
		pause(c.Resume(t.Context(), id)) // is no error
	}
	all(0)
	if paused, err := c.Paused(t.Context()); err != nil || len(paused) != 0 {
		t.Errorf("paused: %+v, %v", paused, err)
	}
}

// After PauseClass has returned nothing is taken in any more, whatever was under
// way; what was taken in is done.
func TestPauseUnderLoad(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	for range 3 {
		serveCounter(t, bustest.Connect(t, s), durable.Config{})
	}
	b := bustest.Connect(t, s)
	c := openClass(t, b, "counter")
	increment, value := methods()
	var done atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	served := make(chan struct{}, 1)
	for i := range 8 {
		cl := caller(t, b)
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_, err := increment.Call(t.Context(), cl, fmt.Sprint("id ", (i+n)%32), incrementParams{By: 1})
				switch rpc.CodeOf(err) {
				case 0:
					done.Add(1)
					select {
					case served <- struct{}{}:
					default:
					}
				case rpc.Unavailable:
				default:
					t.Errorf("increment: %v", err)
					return
				}
			}
		})
	}
	reader := caller(t, b)
	for range 3 {
		<-served
		if err := c.PauseClass(t.Context(), "load"); err != nil {
			t.Fatal(err)
		}
		// Those that were taken in before need not be stored yet.
		stream := streamOf(t, b, "counter")
		var quiet uint64
		comesTrue(t, "commits to end", func() bool {
			last := lastSequence(t, stream)
			same := last == quiet
			quiet = last
			return same
		})
		for i := range 200 {
			_, err := increment.Call(t.Context(), reader, fmt.Sprint("id ", i%32), incrementParams{By: 1})
			wantError(t, "paused", err, rpc.Unavailable, "load")
		}
		if last := lastSequence(t, stream); last != quiet {
			t.Errorf("something was stored while the class was paused: sequence %d, want %d", last, quiet)
		}
		select {
		case <-served:
		default:
		}
		if err := c.ResumeClass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-served
	cancel()
	wg.Wait()
	sum := int64(0)
	for i := range 32 {
		n, err := value.Call(t.Context(), reader, fmt.Sprint("id ", i), rpc.None{})
		if err != nil {
			t.Fatal(err)
		}
		sum += int64(n)
	}
	if sum != done.Load() {
		t.Errorf("the counters have %d, %d calls were answered", sum, done.Load())
	}
}

// What is paused stays so when the bus restarts, and members go on to hear of
// it.
func TestPauseSurvivesARestartOfTheBus(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	serveCounter(t, bustest.Connect(t, s), durable.Config{Lease: 30 * time.Second})
	b := bustest.Connect(t, s)
	cl, c := caller(t, b), openClass(t, b, "counter")
	increments(t, cl, "alice", "bob")
	for _, id := range []string{"alice", "carol"} {
		if err := c.Pause(t.Context(), id, "restart"); err != nil {
			t.Fatal(err)
		}
	}
	s.Shutdown()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	patient := client.New(b, client.Config{NoShortcut: true, Timeout: 20 * time.Second, MaxAttempts: 100})
	defer patient.Close()
	increments(t, patient, "bob")
	wantError(t, "paused before", tryCounter(t, cl, "alice"), rpc.Unavailable, "restart")
	// Members may not have read anew what is paused: these wait for them.
	if err := c.Resume(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	wantError(t, "resumed after", tryCounter(t, cl, "alice"), 0)
	if err := c.Pause(t.Context(), "bob", "again"); err != nil {
		t.Fatal(err)
	}
	wantError(t, "paused after", tryCounter(t, cl, "bob"), rpc.Unavailable, "again")
}
