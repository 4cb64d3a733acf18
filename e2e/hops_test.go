//go:build unix

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/e2e/internal/work"
)

// chain is three services, each in a process of its own, that call each other.
type chain struct {
	services []*process
	first    rpc.Caller
	rest     []string
}

func startChain(t *testing.T) *chain {
	b := startBus(t)
	ch := &chain{rest: []string{"middle", "back"}}
	for _, name := range []string{"front", "middle", "back"} {
		ch.services = append(ch.services, startWorker(t, b.url, name, "-service", name))
	}
	ch.first = newClient(t, b.url, client.Config{}).Service("front")
	return ch
}

// TestHops calls through three processes.
func TestHops(t *testing.T) {
	ch := startChain(t)
	t.Run("deadline shrinks", ch.deadlineShrinks)
	t.Run("deadline ends all", ch.deadlineEndsAll)
	t.Run("cancel reaches all", ch.cancelReachesAll)
	t.Run("every code", ch.everyCode)
}

func (ch *chain) deadlineShrinks(t *testing.T) {
	const timeout, ms = 3 * time.Second, 50
	trace, err := work.Hop.Call(t.Context(), ch.first, work.Route{Next: ch.rest, Ms: ms}, rpc.WithTimeout(timeout))
	if err != nil || len(trace.LeftUs) != 3 {
		t.Fatalf("trace %v, error %v: want three hops", trace, err)
	}
	t.Logf("time left at each hop of %v: %v µs", timeout, trace.LeftUs)
	before := timeout.Microseconds()
	for i, left := range trace.LeftUs {
		if i > 0 {
			before -= ms * 1000 // at work before it called
		}
		// Clocks agree, so each hop has what the one before it had when it
		// called, less the way; no more than a millisecond of rounding is gained.
		if left > before+1000 || left < before-500_000 {
			t.Errorf("hop %d had %d µs left, the one before it %d when it called", i+1, left, before)
		}
		before = left
	}
}

// moments returns when the services said that something happened to a call.
func (ch *chain) moments(t *testing.T, what string, n int64) []time.Time {
	t.Helper()
	prefix := fmt.Sprintf("%s %d ", what, n)
	times := make([]time.Time, len(ch.services))
	for i, p := range ch.services {
		var ns int64
		if _, err := fmt.Sscan(strings.TrimPrefix(p.line(t, prefix), prefix), &ns); err != nil {
			t.Fatal(err)
		}
		times[i] = time.Unix(0, ns)
	}
	return times
}

func (ch *chain) deadlineEndsAll(t *testing.T) {
	const timeout = 300 * time.Millisecond
	n := numbers.Add(1)
	begin := time.Now()
	_, err := work.Hop.Call(t.Context(), ch.first, work.Route{N: n, Next: ch.rest, Stay: true}, rpc.WithTimeout(timeout))
	took := time.Since(begin)
	if rpc.CodeOf(err) != rpc.DeadlineExceeded || took < timeout-10*time.Millisecond || took > timeout+slack {
		t.Errorf("error %v after %v, want deadline_exceeded after %v", err, took, timeout)
	}
	for i, at := range ch.moments(t, "failed", n) {
		if late := at.Sub(begin) - timeout; late < -10*time.Millisecond || late > slack {
			t.Errorf("%s ended %v after the deadline", ch.services[i].name, late)
		}
	}
}

// cancelReachesAll measures how long it takes until the handlers of all hops
// see that the caller at the root has given up.
func (ch *chain) cancelReachesAll(t *testing.T) {
	const bound = 50 * time.Millisecond
	var delays []time.Duration
	for range rounds(20, 500) {
		n := numbers.Add(1)
		ctx, cancel := context.WithCancel(t.Context())
		call := work.Hop.Go(ctx, ch.first, work.Route{N: n, Next: ch.rest, Stay: true}, rpc.WithTimeout(patience))
		ch.services[2].line(t, fmt.Sprintf("began hop %d", n))
		begin := time.Now()
		cancel()
		if _, err := call.Wait(t.Context()); rpc.CodeOf(err) != rpc.Canceled {
			t.Errorf("error %v, want canceled", err)
		}
		slowest := time.Duration(0)
		for _, at := range ch.moments(t, "cancelled", n) {
			slowest = max(slowest, at.Sub(begin))
		}
		delays = append(delays, slowest)
	}
	slices.Sort(delays)
	t.Logf("all three handlers saw the cancel within: median %v, slowest of %d rounds %v",
		delays[len(delays)/2], len(delays), delays[len(delays)-1])
	// One round in twenty may be held up by whatever else the machine does.
	if at := delays[len(delays)*19/20-1]; at > bound {
		t.Errorf("95 %% of cancels were seen by all within %v, want %v", at, bound)
	}
}

func (ch *chain) everyCode(t *testing.T) {
	for _, code := range rpc.Codes() {
		_, err := work.Hop.Call(t.Context(), ch.first, work.Route{Next: ch.rest, Fail: code.String()})
		reason, ok := rpc.DetailOf[work.Reason](err)
		if rpc.CodeOf(err) != code || !rpc.IsRemote(err) || !ok || reason.By != "back" ||
			!strings.Contains(err.Error(), "made to order: "+code.String()) {
			t.Errorf("%v came through three processes as %v, detail %v", code, err, reason)
		}
	}
}
