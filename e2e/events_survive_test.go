//go:build unix

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/e2e/internal/eventwork"
	"rpc.do/e2e/internal/linear"
	"rpc.do/pipeline"
)

// eventSender sends numbered items, in batches and one by one, and knows which of
// them were acknowledged.
type eventSender struct {
	wg      sync.WaitGroup
	next    atomic.Int64
	mu      sync.Mutex // for what follows
	allowed int
	more    chan struct{}  // closed when more is allowed
	acked   map[int]uint64 // their place in the stream
	lost    map[int]error
}

const (
	sendersOfBatches = 2
	sendersOfOne     = 4
	batchOfItems     = 100
)

// startSending sends n items, spread over some keys, as many of them as it is
// allowed to.
func startSending(t testing.TB, url string, n, keys int) *eventSender {
	s := &eventSender{acked: map[int]uint64{}, lost: map[int]error{}, more: make(chan struct{})}
	take := func(most int) (items []eventwork.Item) {
		end := s.next.Add(int64(most))
		if !s.await(t, min(int(end), n)) {
			return nil
		}
		for i := end - int64(most); i < min(end, int64(n)); i++ {
			items = append(items, eventwork.Item{N: int(i), Key: fmt.Sprint("key-", i%int64(keys))})
		}
		return items
	}
	// In time for a bus that restarts.
	const limit = time.Minute
	for range sendersOfBatches {
		p, _ := newPipeline(t, url)
		s.wg.Go(func() {
			for items := take(batchOfItems); len(items) > 0; items = take(batchOfItems) {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				receipts, err := pipeline.SendBatch(ctx, p, eventwork.Added, items)
				cancel()
				s.note(items, receipts, err)
			}
		})
	}
	one, _ := newPipeline(t, url)
	for range sendersOfOne {
		s.wg.Go(func() {
			for items := take(1); len(items) > 0; items = take(1) {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				receipt, err := pipeline.Send(ctx, one, eventwork.Added, items[0])
				cancel()
				s.note(items, []pipeline.Receipt{receipt}, err)
			}
		})
	}
	return s
}

// allow lets the senders go on until they have sent so many.
func (s *eventSender) allow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = n
	close(s.more)
	s.more = make(chan struct{})
}

// await waits until so many may be sent.
func (s *eventSender) await(t testing.TB, n int) bool {
	for {
		s.mu.Lock()
		enough, more := s.allowed >= n, s.more
		s.mu.Unlock()
		if enough {
			return true
		}
		select {
		case <-more:
		case <-t.Context().Done():
			return false
		}
	}
}

func (s *eventSender) note(items []eventwork.Item, receipts []pipeline.Receipt, err error) {
	failed := map[int]error{}
	if several, ok := errors.AsType[*pipeline.BatchError](err); ok {
		for _, f := range several.Failed {
			failed[f.Index] = f.Err
		}
	} else if err != nil {
		for i := range items {
			failed[i] = err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, item := range items {
		if err, ok := failed[i]; ok {
			s.lost[item.N] = err
			continue
		}
		s.acked[item.N] = receipts[i].Sequence
	}
}

// disturbance is a fault, and when its effects were over.
type disturbance struct {
	what string
	of   string // the process, empty for all of them
	at   int64
	over int64
}

// survivors is two services, each with two instances, that handle all items.
type survivors struct {
	t        *testing.T
	bus      *busProcess
	services map[string]eventwork.Handler // by the service
	live     map[string][]*eventWorker
	all      []*eventWorker
	faults   []disturbance
}

func (s *survivors) begin(service string) {
	h := s.services[service]
	w := startEventWorker(s.t, s.bus.url, service, fmt.Sprintf("%s-%d", service, len(s.all)+1), h)
	s.all = append(s.all, w)
	s.live[service] = append(s.live[service], w)
}

// handled counts what the handler of a service has handled, again included.
func (s *survivors) handled(service string) (n int) {
	for _, w := range s.all {
		n += w.read(s.t).Done(s.services[service].Name)
	}
	return n
}

// tell says, when the test has failed, how far the handlers are.
func (s *survivors) tell() {
	if !s.t.Failed() || !s.bus.running() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := bus.Connect(ctx, bus.Config{URLs: []string{s.bus.url}, Name: "tell"})
	if err != nil {
		return
	}
	defer func() { _ = b.Close() }()
	all, err := pipeline.New(b, pipeline.Config{}).Handlers(ctx)
	s.t.Logf("%+v %v", all, err)
	for _, w := range s.all {
		last, _ := w.read(s.t).Last()
		s.t.Logf("%s: running %t, the last attempt %v ago: %+v", w.name, w.running(), time.Duration(linear.Now()-last.Begin), last)
	}
}

// kill kills the instance of a service that was busy last, and starts another.
func (s *survivors) kill(service string) {
	live := s.live[service]
	victim := slices.MaxFunc(live, func(a, b *eventWorker) int {
		last, _ := a.read(s.t).Last()
		other, _ := b.read(s.t).Last()
		return cmp.Compare(last.Begin, other.Begin)
	})
	at := linear.Now()
	victim.kill(s.t)
	s.faults = append(s.faults, disturbance{"kill -9 " + victim.name, victim.name, at, linear.Now()})
	s.live[service] = slices.DeleteFunc(live, func(w *eventWorker) bool { return w == victim })
	s.begin(service)
}

func (s *survivors) restartBus(sig syscall.Signal) {
	at := linear.Now()
	if sig == syscall.SIGKILL {
		s.bus.kill(s.t)
	} else {
		s.bus.stop(s.t, sig)
	}
	s.bus.begin(s.t)
	s.faults = append(s.faults, disturbance{fmt.Sprintf("bus restarted (%v)", sig), "", at, linear.Now()})
}

// TestEventsSurvive sends many events to two handlers, each with two instances,
// kills instances and the bus meanwhile, and wants every event handled by both.
func TestEventsSurvive(t *testing.T) {
	t.Parallel()
	n := rounds(20_000, 100_000)
	s := &survivors{
		t: t, bus: startBus(t), live: map[string][]*eventWorker{},
		services: map[string]eventwork.Handler{
			"shop":   {Name: "plain", Work: 4 * time.Millisecond},
			"ledger": {Name: "ordered", Ordered: true, Work: 4 * time.Millisecond},
		},
	}
	for service := range s.services {
		s.begin(service)
		s.begin(service)
	}
	t.Cleanup(s.tell)
	begun := time.Now()
	sender := startSending(t, s.bus.url, n, 100)
	sender.allow(2 * n / 8)
	for i, fault := range []func(){
		func() { s.kill("shop") },
		func() { s.kill("ledger") },
		func() { s.restartBus(syscall.SIGTERM) },
		func() { s.kill("shop") },
		func() { s.restartBus(syscall.SIGKILL) },
		func() { s.kill("ledger") },
	} {
		part := n * (i + 1) / 8
		until(t, fmt.Sprintf("both handlers have handled %d events", part), func() bool {
			return s.handled("shop") >= part && s.handled("ledger") >= part
		})
		sender.allow(n * (i + 3) / 8)
		for service := range s.services {
			before := s.handled(service)
			until(t, service+" is in the middle of it", func() bool { return s.handled(service) > before+n/100 })
		}
		fault()
		t.Logf("%v: %s after %d events", time.Since(begun).Round(time.Millisecond), s.faults[i].what, part)
	}
	sender.wg.Wait()
	t.Logf("%v: all sent, %d acknowledged", time.Since(begun).Round(time.Millisecond), len(sender.acked))
	for n, err := range sender.lost {
		t.Errorf("event %d was not stored in a minute: %v", n, err) // the bus was never away for long
		break
	}
	p, _ := newPipeline(t, s.bus.url)
	// What a plain handler had when it was killed comes again after 30 seconds.
	untilIn(t, 2*patience, "nothing is left to be handled", func() bool {
		for service, h := range s.services {
			info, err := p.Handler(t.Context(), service, h.Name)
			if err != nil || info.Pending > 0 || info.Running > 0 {
				return false
			}
		}
		return true
	})
	took := time.Since(begun)
	for _, live := range s.live {
		for _, w := range live {
			w.stop(t, syscall.SIGTERM)
		}
	}
	for _, service := range slices.Sorted(maps.Keys(s.services)) {
		s.judge(service, n, sender)
	}
	t.Logf("%d events, each to two handlers, in %v", n, took.Round(time.Millisecond))
}

const (
	// An answer is with the bus that soon after the attempt, or is lost: what was
	// handled earlier before a fault is not handled again for it.
	answerWithin = int64(time.Second)

	// What an instance that is killed has at most, and what a bus that goes away may
	// not know to be done, of all instances (pipeline: 16 at work and 512 ahead, and
	// 10,000 out; 1,024 both when one instance has all).
	mostHeld, mostOut, mostPinned = 16 + 512, 10_000, 1024
)

// judge wants every event handled, and what was handled twice explained.
func (s *survivors) judge(service string, n int, sender *eventSender) {
	h := s.services[service]
	runs := map[int][]eventwork.Attempt{}
	cutShort := 0
	for _, a := range attemptsOf(s.t, h.Name, s.all...) {
		switch {
		case a.Done:
			runs[a.N] = append(runs[a.N], a)
		case a.End == 0:
			cutShort++
		}
	}
	missing := 0
	for n := range sender.acked {
		if len(runs[n]) == 0 {
			if missing++; missing <= 5 {
				s.t.Errorf("%s: event %d, at %d, was acknowledged and never handled", h.Name, n, sender.acked[n])
			}
		}
	}
	twice, unexplained := make([]int, len(s.faults)), 0
	total := 0
	for n, of := range runs {
		for i := range of[1:] {
			total++
			f := slices.IndexFunc(s.faults, func(f disturbance) bool { return f.explains(of[i], of[i+1]) })
			if f >= 0 {
				twice[f]++
				continue
			}
			if unexplained++; unexplained <= 5 {
				s.t.Errorf("%s: event %d was handled twice, and no fault explains it: %+v, then %+v", h.Name, n, of[i], of[i+1])
			}
		}
	}
	most, kinds := 0, ""
	for i, f := range s.faults {
		bound := mostHeld
		switch {
		case h.Ordered:
			bound = mostPinned
		case f.of == "":
			bound = mostOut
		}
		most += bound
		kinds += fmt.Sprintf("\n  %s: %d", f.what, twice[i])
		if twice[i] > bound {
			s.t.Errorf("%s: %s had %d events handled twice: %d were on their way at most", h.Name, f.what, twice[i], bound)
		}
	}
	s.t.Logf("%s: %d of %d acknowledged events handled, %d missing; %d attempts cut short; %d handled again (bound %d):%s",
		h.Name, len(runs), len(sender.acked), missing, cutShort, total, most, kinds)
	if len(runs) != n {
		s.t.Errorf("%s: %d events handled, %d were sent", h.Name, len(runs), n)
	}
}

// explains reports whether a fault can be why an event was handled a second time:
// the answer of the first was on its way then.
func (f *disturbance) explains(first, second eventwork.Attempt) bool {
	return (f.of == "" || f.of == first.Process) && second.Begin >= f.at && first.End >= f.at-answerWithin && first.End <= f.over+answerWithin
}
