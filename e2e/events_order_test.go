//go:build unix

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rpc.do/e2e/internal/eventwork"
	"rpc.do/e2e/internal/faultproxy"
	"rpc.do/e2e/internal/linear"
	"rpc.do/pipeline"
)

// orderFault is what happens to an instance of an ordered handler, or to the bus.
type orderFault string

const (
	faultKill      orderFault = "kill -9"
	faultStop      orderFault = "SIGTERM"
	faultFreeze    orderFault = "freeze"
	faultCut       orderFault = "cut"
	faultPartition orderFault = "partition"
	faultBus       orderFault = "kill -9 the bus"
)

var orderFaults = []orderFault{faultKill, faultStop, faultFreeze, faultCut, faultPartition, faultBus}

// longer than an instance keeps all events when nothing is heard of it
const orderFaultFor = 7 * time.Second

// orderly is a service with one ordered handler, with instances behind proxies of
// their own.
type orderly struct {
	t       *testing.T
	r       *rand.Rand
	seed    uint64
	bus     *busProcess
	handler eventwork.Handler
	all     []*orderWorker
	live    []*orderWorker
	faults  []disturbance
}

type orderWorker struct {
	*eventWorker
	proxy *faultproxy.Proxy
	ended int64 // when it was killed, 0 for not
}

func (o *orderly) begin() *orderWorker {
	proxy, err := faultproxy.Start(faultproxy.Config{Target: strings.TrimPrefix(o.bus.url, "nats://"), Seed: o.seed})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = proxy.Close() })
	w := &orderWorker{proxy: proxy}
	w.eventWorker = startEventWorker(o.t, proxy.URL(), "ledger", fmt.Sprintf("ledger-%d", len(o.all)+1), o.handler)
	o.all = append(o.all, w)
	o.live = append(o.live, w)
	return w
}

func (o *orderly) workers() (all []*eventWorker) {
	for _, w := range o.all {
		all = append(all, w.eventWorker)
	}
	return all
}

// busy returns the instance that has begun an attempt last: which most likely has
// all events.
func (o *orderly) busy() *orderWorker {
	return slices.MaxFunc(o.live, func(a, b *orderWorker) int {
		last, _ := a.read(o.t).Last()
		other, _ := b.read(o.t).Last()
		return cmp.Compare(last.Begin, other.Begin)
	})
}

// goesOn waits until attempts are made that began after a moment.
func (o *orderly) goesOn(after int64) {
	o.t.Helper()
	until(o.t, "the handler goes on", func() bool {
		last, _ := o.busy().read(o.t).Last()
		return last.Begin > after
	})
}

// make makes a fault happen, and waits until it is over and events are handled.
func (o *orderly) make(kind orderFault) {
	w := o.busy()
	if o.r.IntN(4) == 0 {
		w = o.live[o.r.IntN(len(o.live))]
	}
	f := disturbance{what: fmt.Sprintf("%s %s", kind, w.name), of: w.name, at: linear.Now()}
	switch kind {
	case faultKill:
		w.ended = f.at
		w.kill(o.t)
	case faultStop:
		w.stop(o.t, syscall.SIGTERM)
	case faultFreeze:
		w.signal(o.t, syscall.SIGSTOP)
		o.wait(orderFaultFor)
		w.signal(o.t, syscall.SIGCONT)
	case faultCut:
		w.proxy.Cut()
	case faultPartition:
		w.proxy.Blackhole(true)
		o.wait(orderFaultFor)
		w.proxy.Blackhole(false)
	case faultBus:
		f.what, f.of = string(kind), ""
		o.bus.kill(o.t)
		o.bus.begin(o.t)
	}
	f.over = linear.Now()
	o.faults = append(o.faults, f)
	if kind == faultKill || kind == faultStop {
		o.live = slices.DeleteFunc(o.live, func(other *orderWorker) bool { return other == w })
		o.begin()
	}
	o.goesOn(f.over)
	o.t.Logf("%s, for %v; events are handled again after %v", f.what,
		time.Duration(f.over-f.at).Round(time.Millisecond), time.Duration(linear.Now()-f.at).Round(time.Millisecond))
}

// wait is how long a fault lasts: a time, and not something to happen.
func (o *orderly) wait(least time.Duration) {
	select {
	case <-time.After(least + time.Duration(o.r.Int64N(int64(2*time.Second)))):
	case <-o.t.Context().Done():
	}
}

const orderKeys = 12

// send sends items until stopped, and returns how many.
func (o *orderly) send(stop <-chan struct{}) (n int) {
	p, _ := newPipeline(o.t, o.bus.url)
	r := rand.New(rand.NewPCG(o.seed, 1))
	pace := time.NewTicker(40 * time.Millisecond)
	defer pace.Stop()
	for {
		items := make([]eventwork.Item, 1+r.IntN(16))
		for i := range items {
			items[i] = eventwork.Item{N: n + i, Key: fmt.Sprint("key-", r.IntN(orderKeys)), Bad: r.IntN(200) == 0}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := pipeline.SendBatch(ctx, p, eventwork.Added, items)
		cancel()
		if err != nil {
			o.t.Errorf("send: %v", err)
			return n
		}
		n += len(items)
		select {
		case <-stop:
			return n
		case <-pace.C:
		}
	}
}

// run has faults happen while events are sent and handled, and judges.
func (o *orderly) run(kinds []orderFault) {
	t := o.t
	o.begin()
	o.begin()
	stop, sent := make(chan struct{}), 0
	var wg sync.WaitGroup
	wg.Go(func() { sent = o.send(stop) })
	stopSending := sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(stopSending)
	o.goesOn(0)
	for _, kind := range kinds {
		o.make(kind)
		now := len(attemptsOf(t, o.handler.Name, o.workers()...))
		until(t, "some more are handled", func() bool { return len(attemptsOf(t, o.handler.Name, o.workers()...)) > now+200 })
	}
	stopSending()
	p, _ := newPipeline(t, o.bus.url)
	until(t, "nothing is left to be handled", func() bool {
		info, err := p.Handler(t.Context(), "ledger", o.handler.Name)
		return err == nil && info.Pending == 0 && info.Running == 0
	})
	for _, w := range o.live {
		w.stop(t, syscall.SIGTERM)
	}
	dead, err := p.DeadLetters(t.Context(), pipeline.DeadQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	h := orderHistory{attempts: attemptsOf(t, o.handler.Name, o.workers()...), faults: o.faults, ended: map[string]int64{}, dead: map[uint64]int64{}}
	for _, w := range o.all {
		h.ended[w.name] = w.ended
	}
	offset := linear.Now() - time.Now().UnixNano()
	for _, d := range dead {
		h.dead[d.Event.Sequence] = d.Time.UnixNano() + offset
	}
	wrong, excused := h.check()
	for i, w := range wrong {
		if i == 10 {
			t.Errorf("and %d more", len(wrong)-i)
			break
		}
		t.Error(w)
	}
	ended := map[int]bool{}
	again := 0
	for _, a := range h.attempts {
		if a.Done && ended[a.N] {
			again++
		}
		if a.Done || h.dead[a.Sequence] != 0 {
			ended[a.N] = true
		}
	}
	if len(ended) != sent {
		t.Errorf("%d events were sent, %d handled or kept as dead letters", sent, len(ended))
	}
	t.Logf("%d events, %d attempts, %d dead letters, %d handled again; %d overlaps of attempts that a fault excuses",
		sent, len(h.attempts), len(dead), again, excused)
}

// orderHistory is what the instances of an ordered handler did.
type orderHistory struct {
	attempts []eventwork.Attempt // the earliest first
	dead     map[uint64]int64    // when an event became a dead letter, by its sequence
	ended    map[string]int64    // when a process was killed, 0 or absent for not
	faults   []disturbance
}

// deadSlack is how exact the times of dead letters are: they are by another clock.
const deadSlack = int64(20 * time.Millisecond)

// check looks at each key by itself, and returns what is wrong.
//
// An attempt begins only after every earlier event of its key was handled, by
// whichever process, or was made a dead letter. No fault excuses that: what was
// true once stays true, also for a process that was frozen.
//
// Two attempts of a key are not at work at once. An attempt ends when it says so,
// or when its process is killed. The only excuse is that one of the two was at
// work already when its process was frozen or cut off, or when the bus went away:
// nobody can call it back, and others go on. What begins after such a fault has
// no excuse, with one exception: a process may be stopped in the instant between
// making sure of its events and beginning, so maxInstant a freeze may begin late.
func (h *orderHistory) check() (wrong []string, excused int) {
	byKey := map[string][]eventwork.Attempt{}
	for _, a := range h.attempts {
		if a.End == 0 {
			a.End = h.ended[a.Process]
			if a.End == 0 {
				wrong = append(wrong, fmt.Sprintf("%s: it has no end, and its process was not killed: %+v", a.Key, a))
				continue
			}
		}
		byKey[a.Key] = append(byKey[a.Key], a)
	}
	late := map[int]map[eventwork.Attempt]bool{} // attempts that a freeze let begin late
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		attempts := byKey[key]
		wrong = append(wrong, h.turns(key, attempts)...)
		for i, a := range attempts {
			for _, b := range attempts[i+1:] {
				if b.Begin >= a.End {
					break // all others begin later
				}
				if !h.excuses(a, late) && !h.excuses(b, late) {
					wrong = append(wrong, fmt.Sprintf("%s: two at once: %s, and %s", key, h.describe(a), h.describe(b)))
					continue
				}
				excused++
			}
		}
	}
	return wrong, excused
}

// turns checks that each event waits for those before it.
func (h *orderHistory) turns(key string, attempts []eventwork.Attempt) (wrong []string) {
	over := map[uint64]int64{} // when an event was out of the way first
	for _, a := range attempts {
		if at, ok := over[a.Sequence]; a.Done && (!ok || a.End < at) {
			over[a.Sequence] = a.End
		}
	}
	for _, a := range attempts {
		if at, dead := h.dead[a.Sequence]; dead {
			if done, ok := over[a.Sequence]; !ok || at-deadSlack < done {
				over[a.Sequence] = at - deadSlack
			}
		}
	}
	// When an event may begin, and the earlier one that it waits for.
	may, last, after, waits := map[uint64]int64{}, int64(0), map[uint64]uint64{}, uint64(0)
	sequences := map[uint64]bool{}
	for _, a := range attempts {
		sequences[a.Sequence] = true
	}
	for _, sequence := range slices.Sorted(maps.Keys(sequences)) {
		may[sequence], after[sequence] = last, waits
		at, ok := over[sequence]
		if !ok {
			at = math.MaxInt64
		}
		if at > last {
			last, waits = at, sequence
		}
	}
	for _, a := range attempts {
		if a.Begin < may[a.Sequence] {
			text := fmt.Sprintf("%s: out of turn: %s, before the event at %d is out of the way:", key, h.describe(a), after[a.Sequence])
			for _, b := range attempts {
				if b.Sequence == after[a.Sequence] {
					text += "\n  " + h.describe(b)
				}
			}
			wrong = append(wrong, text)
		}
	}
	return wrong
}

const maxInstant = 2

// A signal takes a moment to arrive, and the end of a connection to be noticed.
const (
	freezes = int64(time.Second) // a frozen process begins nothing meanwhile, so this is no loss
	arrives = int64(50 * time.Millisecond)
)

func (h *orderHistory) excuses(a eventwork.Attempt, late map[int]map[eventwork.Attempt]bool) bool {
	for i, f := range h.faults {
		from := f.at + arrives
		if f.frozen() {
			from = f.at + freezes
		}
		switch {
		case f.of != "" && f.of != a.Process:
		case a.Begin < from && a.End > f.at:
			return true
		case f.frozen() && a.Begin >= from && a.Begin < f.over+int64(time.Second):
			if late[i] == nil {
				late[i] = map[eventwork.Attempt]bool{}
			}
			late[i][a] = true
			return len(late[i]) <= maxInstant
		}
	}
	return false
}

func (f *disturbance) frozen() bool { return strings.HasPrefix(f.what, string(faultFreeze)) }

func (h *orderHistory) describe(a eventwork.Attempt) string {
	first := h.attempts[0].Begin
	at := func(t int64) time.Duration { return time.Duration(t - first).Round(time.Microsecond) }
	text := fmt.Sprintf("attempt %d of the event at %d in %s from %v to %v", a.Number, a.Sequence, a.Process, at(a.Begin), at(a.End))
	for _, f := range h.faults {
		if a.End > f.at-int64(time.Second) && a.Begin < f.over+int64(10*time.Second) {
			text += fmt.Sprintf(" (%s from %v to %v)", f.what, at(f.at), at(f.over))
		}
	}
	return text
}

// TestEventOrder holds an ordered handler to its promise: each key's events one
// after the other, in their order, while attempts fail by chance and instances
// and the bus have faults drawn from a seed.
func TestEventOrder(t *testing.T) {
	t.Parallel()
	s := seed(t)
	kinds := slices.Clone(orderFaults)
	for range rounds(0, 4) {
		kinds = append(kinds, orderFaults...)
	}
	rand.New(rand.NewPCG(s, 2)).Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	const plans = 2
	each := len(kinds) / plans
	for plan := range plans {
		mine := kinds[plan*each : (plan+1)*each]
		r := rand.New(rand.NewPCG(s, uint64(10+plan)))
		for range int(*faultsFor / (8 * time.Second)) {
			mine = append(slices.Clip(mine), orderFaults[r.IntN(len(orderFaults))])
		}
		t.Run(fmt.Sprint("plan ", plan+1), func(t *testing.T) {
			t.Parallel()
			t.Logf("seed %d, plan: %v", s, mine)
			o := &orderly{t: t, r: r, seed: s + uint64(plan), bus: startBus(t), handler: eventwork.Handler{
				Name: "ordered", Ordered: true, Seed: s + uint64(plan), Work: 15 * time.Millisecond, Fails: 0.1, Attempts: 4, Backoff: 10 * time.Millisecond,
			}}
			o.run(mine)
		})
	}
}

// TestEventOrderIsChecked shows what the check of TestEventOrder sees.
func TestEventOrderIsChecked(t *testing.T) {
	t.Parallel()
	const ms = int64(time.Millisecond)
	at := func(process string, sequence uint64, begin, end int64, done bool) eventwork.Attempt {
		return eventwork.Attempt{Process: process, Sequence: sequence, Key: "k", Number: 1, Begin: begin * ms, End: end * ms, Done: done}
	}
	frozen := []disturbance{{"freeze a", "a", 100 * ms, 7100 * ms}}
	for name, c := range map[string]struct {
		attempts []eventwork.Attempt
		faults   []disturbance
		ended    map[string]int64
		dead     map[uint64]int64
		wrong    string // empty for nothing
		excused  int
	}{
		"in order":                  {attempts: []eventwork.Attempt{at("a", 1, 10, 20, true), at("a", 2, 20, 30, true)}},
		"tried again":               {attempts: []eventwork.Attempt{at("a", 1, 10, 20, false), at("b", 1, 30, 40, true), at("b", 2, 41, 42, true)}},
		"handled again":             {attempts: []eventwork.Attempt{at("a", 1, 10, 20, true), at("a", 2, 21, 22, true), at("b", 1, 30, 40, true)}},
		"overtakes":                 {attempts: []eventwork.Attempt{at("a", 2, 10, 20, true), at("a", 1, 30, 40, true)}, wrong: "out of turn"},
		"does not wait for a retry": {attempts: []eventwork.Attempt{at("a", 1, 10, 20, false), at("a", 2, 21, 22, true), at("a", 1, 30, 40, true)}, wrong: "out of turn"},
		"one is missing":            {attempts: []eventwork.Attempt{at("a", 1, 10, 20, false), at("a", 2, 21, 22, true)}, wrong: "out of turn"},
		"dead letter": {attempts: []eventwork.Attempt{at("a", 1, 10, 20, false), at("a", 2, 51, 52, true)},
			dead: map[uint64]int64{1: 50 * ms}},
		"before the dead letter": {attempts: []eventwork.Attempt{at("a", 1, 10, 20, false), at("a", 2, 21, 22, true)},
			dead: map[uint64]int64{1: 80 * ms}, wrong: "out of turn"},
		"at once":           {attempts: []eventwork.Attempt{at("a", 1, 10, 20, true), at("b", 1, 15, 25, true)}, wrong: "two at once"},
		"at once, later on": {attempts: []eventwork.Attempt{at("a", 1, 10, 90, true), at("b", 1, 15, 25, true), at("c", 1, 80, 95, true)}, faults: []disturbance{{"cut b", "b", 16 * ms, 17 * ms}}, wrong: "two at once", excused: 1},
		"killed":            {attempts: []eventwork.Attempt{at("a", 1, 10, 0, false), at("b", 1, 25, 30, true)}, ended: map[string]int64{"a": 20 * ms}},
		"killed after":      {attempts: []eventwork.Attempt{at("a", 1, 10, 0, false), at("b", 1, 25, 30, true)}, ended: map[string]int64{"a": 26 * ms}, wrong: "two at once"},
		"not killed":        {attempts: []eventwork.Attempt{at("a", 1, 10, 0, false)}, wrong: "no end"},
		"at work when it was frozen": {faults: frozen, excused: 1,
			attempts: []eventwork.Attempt{at("a", 1, 90, 7110, true), at("b", 1, 7000, 7120, true)}},
		"begun after it was frozen": {faults: frozen, excused: 2, wrong: "two at once", attempts: []eventwork.Attempt{
			at("b", 1, 7050, 7200, true), at("a", 1, 7101, 7102, true), at("a", 1, 7103, 7104, true), at("a", 1, 7105, 7106, true)}},
	} {
		t.Run(name, func(t *testing.T) {
			h := orderHistory{attempts: c.attempts, faults: c.faults, ended: c.ended, dead: c.dead}
			wrong, excused := h.check()
			if (c.wrong == "") != (len(wrong) == 0) || c.wrong != "" && !strings.Contains(wrong[0], c.wrong) || excused != c.excused {
				t.Errorf("got %d excused and %q, want %d and %q", excused, wrong, c.excused, c.wrong)
			}
		})
	}
}
