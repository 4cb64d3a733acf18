//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpc.do/e2e/internal/eventwork"
	"rpc.do/e2e/internal/linear"
	"rpc.do/pipeline"
)

// TestPoisonEvent has one event among many fail every time. The others are not
// delayed by it; it ends as a dead letter, which a better version handles.
func TestPoisonEvent(t *testing.T) {
	b := startBus(t)
	p, _ := newPipeline(t, b.url)
	const n, poison, attempts = 10_000, 500, 3
	handlers := func(pattern string, fixed bool) (all []eventwork.Handler) {
		for _, ordered := range []bool{false, true} {
			// Pauses that add up to more than everything else takes.
			all = append(all, eventwork.Handler{
				Name: map[bool]string{false: "plain", true: "ordered"}[ordered], Ordered: ordered, Pattern: pattern, Fixed: fixed,
				Concurrency: 8, Work: 2 * time.Millisecond, Attempts: attempts, Backoff: 2500 * time.Millisecond,
			})
		}
		return all
	}
	names := []string{"plain", "ordered"}
	// What the handlers do with the items of one type, which are all there before.
	measure := func(service, event string, bad bool) (*eventWorker, map[string]times) {
		items := make([]pipeline.Item, n)
		for i := range items {
			items[i] = pipeline.Item{Event: event, Data: eventwork.Item{N: i, Key: fmt.Sprint("key-", i), Bad: bad && i == poison}}
		}
		if _, err := p.SendBatch(t.Context(), items); err != nil {
			t.Fatal(err)
		}
		w := startEventWorker(t, b.url, service, service+"-1", handlers(event, false)...)
		took := map[string]times{}
		for _, name := range names {
			until(t, name+" has handled all but the poison", func() bool {
				done := w.read(t).Done(name)
				return done >= n || bad && done >= n-1
			})
			took[name] = timesOf(t, w, name, poison)
		}
		return w, took
	}
	calm, without := measure("calm", eventwork.Added.Name(), false)
	calm.stop(t, syscall.SIGTERM)
	w, with := measure("poisoned", eventwork.Echoed.Name(), true)
	for _, name := range names {
		t.Logf("%s: %d events in %v, the median begun after %v; with a poison among them %v, %v",
			name, n, without[name].all, without[name].median, with[name].all, with[name].median)
		const more = 500 * time.Millisecond // what else goes on
		if a, b := with[name].all, without[name].all; a > b*3/2+more {
			t.Errorf("%s: with a poison the others took %v, without %v", name, a, b)
		}
		if a, b := with[name].median, without[name].median; a > b*3/2+more {
			t.Errorf("%s: with a poison the median has begun after %v, without after %v", name, a, b)
		}
	}
	ids := []string{}
	for _, name := range names {
		dead := deadLettersOf(t, p, "poisoned", name, 1)
		d := dead[0]
		var item eventwork.Item
		err := json.Unmarshal(d.Event.Data, &item)
		if len(dead) != 1 || err != nil || item.N != poison || d.Error != eventwork.BadError || d.Attempts != attempts || d.Reason != pipeline.ReasonAttempts {
			t.Errorf("%s: dead letters %+v, %v: want event %d with all %d attempts", name, dead, err, poison, attempts)
		}
		ids = append(ids, fmt.Sprint(d.ID))
	}
	w.stop(t, syscall.SIGTERM)

	better := startEventWorker(t, b.url, "poisoned", "poisoned-2", handlers(eventwork.Echoed.Name(), true)...)
	if r := rpcdo(t, append([]string{"events", "dead", "retry", "--server", b.url}, ids...)...); r.status != 0 {
		t.Fatalf("rpcdo events dead retry: %+v", r)
	}
	for _, name := range names {
		until(t, name+" has handled the poison", func() bool { return better.read(t).Done(name) > 0 })
		for _, a := range attemptsOf(t, name, better) {
			if a.N != poison || !a.Again || a.Number != 1 {
				t.Errorf("the better version was given %+v", a)
			}
		}
	}
	if left, err := p.DeadLetters(t.Context(), pipeline.DeadQuery{}); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

// times is how long a handler took.
type times struct{ all, median time.Duration }

func timesOf(t testing.TB, w *eventWorker, handler string, except int) times {
	t.Helper()
	var first, last int64
	var begins []int64
	for _, a := range attemptsOf(t, handler, w) {
		if first == 0 {
			first = a.Begin
		}
		if a.N == except {
			continue
		}
		last = max(last, a.End)
		begins = append(begins, a.Begin-first)
	}
	return times{time.Duration(last - first).Round(time.Millisecond), quantile(begins, 0.5).Round(time.Millisecond)}
}

// quantile returns what that share of the values, which are nanoseconds, does not exceed.
func quantile(values []int64, share float64) time.Duration {
	slices.Sort(values)
	return time.Duration(values[int(share*float64(len(values)))])
}

// TestDeadlyEvent has an event kill whoever handles it. It ends as a dead letter,
// and those that only waited in the processes that died do not, however often.
func TestDeadlyEvent(t *testing.T) {
	t.Parallel()
	b := startBus(t)
	p, _ := newPipeline(t, b.url)
	const n, attempts = 60, 2
	h := eventwork.Handler{Name: "ordered", Ordered: true, Concurrency: 1, Attempts: attempts}
	sendItems(t, p, numbered(n, func(i *eventwork.Item) { i.Key, i.Deadly = fmt.Sprint("key-", i.N), i.N == 0 })...)
	for i := range attempts {
		w := startEventWorker(t, b.url, "ledger", fmt.Sprint("ledger-", i+1), h)
		if status := w.wait(t); status != -1 {
			t.Fatalf("%s ended with status %d", w.name, status)
		}
		if tried := attemptsOf(t, h.Name, w); len(tried) != 1 || tried[0].N != 0 || tried[0].Number != i+1 {
			t.Fatalf("%s has tried %+v, want attempt %d of event 0", w.name, tried, i+1)
		}
	}
	w := startEventWorker(t, b.url, "ledger", "ledger-last", h)
	until(t, "all others are handled, or dead letters", func() bool {
		dead, err := p.DeadLetters(t.Context(), pipeline.DeadQuery{Limit: 1000})
		return err == nil && w.read(t).Done(h.Name)+len(dead) >= n
	})
	dead := deadLettersOf(t, p, "ledger", h.Name, 1)
	if d := dead[0]; len(dead) != 1 || d.Reason != pipeline.ReasonDied || d.Attempts != attempts || !strings.Contains(string(d.Event.Data), `"n":0,`) {
		t.Errorf("dead letters %+v, want event 0 alone, which died %d times", dead, attempts)
	}
	for _, a := range attemptsOf(t, h.Name, w) {
		if a.N == 0 || a.Number > attempts {
			t.Errorf("the last process was given %+v", a)
		}
	}
	if handled := handledBy(t, h.Name, w); len(handled) != n-1 {
		t.Errorf("%d events handled, want the %d that waited", len(handled), n-1)
	}
}

// TestSlowHandler has one handler take a second for each event. Nobody else
// notices, and everybody can see how far it is behind.
func TestSlowHandler(t *testing.T) {
	b := startBus(t)
	p, _ := newPipeline(t, b.url)
	quick := eventwork.Handler{Name: "quick"}
	slow := eventwork.Handler{Name: "slow", Takes: time.Second, Concurrency: 4}
	const n = 1000
	next := 0
	// Latencies of sending, and until the quick handler begins.
	measure := func(w *eventWorker) (sending, handling []int64) {
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		sent := map[int]int64{}
		for range n {
			<-pace.C
			i := next
			next++
			sent[i] = linear.Now()
			if _, err := pipeline.Send(t.Context(), p, eventwork.Added, eventwork.Item{N: i}); err != nil {
				t.Fatal(err)
			}
			sending = append(sending, linear.Now()-sent[i])
		}
		until(t, "the quick handler has them all", func() bool { return w.read(t).Done("quick") >= next })
		for _, a := range attemptsOf(t, "quick", w) {
			if at, ok := sent[a.N]; ok {
				handling = append(handling, a.Begin-at)
			}
		}
		return sending, handling
	}
	w := startEventWorker(t, b.url, "shop", "shop-1", quick)
	aloneSending, aloneHandling := measure(w)
	w.stop(t, syscall.SIGTERM)
	next = 0
	w = startEventWorker(t, b.url, "mixed", "mixed-1", quick, slow)
	until(t, "both have the earlier ones", func() bool { return w.read(t).Done("quick") >= n })
	next = n
	sending, handling := measure(w)
	for what, m := range map[string][2][]int64{"sending": {aloneSending, sending}, "handling": {aloneHandling, handling}} {
		for _, share := range []float64{0.5, 0.9} {
			alone, beside := quantile(m[0], share), quantile(m[1], share)
			t.Logf("%s: %v of them within %v, beside the slow handler %v", what, share, alone.Round(time.Microsecond), beside.Round(time.Microsecond))
			if beside > 3*alone+10*time.Millisecond {
				t.Errorf("%s: %v of them takes up to %v beside a slow handler, %v without", what, share, beside, alone)
			}
		}
	}
	lag, err := p.Handler(t.Context(), "mixed", "slow")
	done := w.read(t).Done("slow")
	if err != nil || lag.Pending+uint64(lag.Running) < n || lag.Age() < time.Second || !lag.Waiting && lag.Running == 0 {
		t.Errorf("lag %+v, %v: want what is left of %d events, %d of which are done", lag.Lag, err, 2*n, done)
	}
	if r := rpcdo(t, "events", "lag", "mixed", "slow", "--server", b.url, "--max-pending", "10"); r.status != 1 {
		t.Errorf("rpcdo events lag finds nothing wrong: %+v", r)
	}
	t.Logf("the slow handler: %d done, %d running, %d to come, the oldest %v old", done, lag.Running, lag.Pending, lag.Age().Round(time.Millisecond))
}

// TestEventLoop has a handler send what it handles. The chain ends, and can be
// looked at.
func TestEventLoop(t *testing.T) {
	t.Parallel()
	b := startBus(t)
	p, _ := newPipeline(t, b.url)
	w := startEventWorker(t, b.url, "mirror", "mirror-1", eventwork.Handler{Name: "echo", Pattern: eventwork.Echoed.Name(), Echo: true})
	first, err := pipeline.Send(t.Context(), p, eventwork.Echoed, eventwork.Item{N: 1})
	if err != nil {
		t.Fatal(err)
	}
	const hops = 64
	dead := deadLettersOf(t, p, "mirror", "echo", 1)
	if d := dead[0]; len(dead) != 1 || d.Reason != pipeline.ReasonLoop || d.Event.Hops != hops+1 || d.Event.CorrelationID != first.ID {
		t.Errorf("dead letters %+v, want the one after %d hops", dead, hops)
	}
	if n := w.read(t).Done("echo"); n != hops+1 {
		t.Errorf("%d events were handled, want %d", n, hops+1)
	}
	trace, err := p.Trace(t.Context(), dead[0].Event.ID, pipeline.TraceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if trace.Root.ID != first.ID || trace.Events != hops+2 {
		t.Errorf("the trace has %d events and begins with %s, want %d and %s", trace.Events, trace.Root.ID, hops+2, first.ID)
	}
	last, depth := trace.Root, 0
	for ; len(last.Children) == 1; last = last.Children[0] {
		if last.Hops != depth {
			t.Errorf("%d below the first: %+v", depth, last)
		}
		depth++
	}
	if len(last.Children) != 0 || depth != hops+1 || last.ID != dead[0].Event.ID {
		t.Errorf("the chain is %d long and ends with %+v, want %d and the dead letter", depth, last, hops+1)
	}
}
