package durable_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/durable/internal/ownership/linktest"
	"rpc.do/server"
)

// mortal is a member that a test may kill: what it says of its end is ignored.
type mortal struct {
	bus  *bus.Bus
	link *linktest.Link
	end  context.CancelFunc
	done chan error
}

// newMortal runs a service that register adds classes to.
func newMortal(t testing.TB, s *natsd.Server, name string, register func(*server.Service)) (*mortal, error) {
	m := &mortal{link: linktest.New(s), done: make(chan error, 1)}
	var err error
	if m.bus, err = bus.Connect(t.Context(), bus.Config{Name: name, InProcess: m.link, DrainTimeout: 2 * time.Second}); err != nil {
		return nil, err
	}
	svc := server.New(m.bus, name, server.Config{DrainTimeout: 2 * time.Second})
	register(svc)
	ctx, cancel := context.WithCancel(context.Background())
	m.end = cancel
	go func() { m.done <- svc.Run(ctx) }()
	t.Cleanup(m.kill)
	select {
	case <-svc.Ready():
		return m, nil
	case err := <-m.done:
		m.done <- err
	case <-time.After(10 * time.Second):
		err = errors.New("the service does not get ready")
	}
	return nil, err
}

// leave stops the service as a rolling restart does.
func (m *mortal) leave() error {
	m.end()
	err := <-m.done
	m.done <- err
	return err
}

// kill takes the connection away for good, and cleans up.
func (m *mortal) kill() {
	m.link.Cut()
	m.bus.Conn().Close()
	m.end()
	err := <-m.done
	m.done <- err
	_ = m.bus.Close()
}

func registerCounter(svc *server.Service, cfg durable.Config) {
	increment, value := methods()
	counters := durable.Serve[counter](svc, "counter", cfg)
	durable.Handle(counters, increment, (*counter).increment)
	durable.View(counters, value, counter.current)
}

// A member dies without a word: its objects are served again within its lease
// and two seconds.
func TestFailover(t *testing.T) {
	t.Parallel()
	dies := func(m *mortal) { m.bus.Conn().Close() }
	freezes := func(m *mortal) { m.link.Freeze() }
	for name, test := range map[string]struct {
		lease time.Duration
		later time.Duration // than that, since what was sent to one that is frozen is sent again then
		end   func(*mortal)
	}{
		"dies, 1s": {time.Second, 0, dies}, "dies, 2s": {2 * time.Second, 0, dies}, "dies, 5s": {5 * time.Second, 0, dies},
		"freezes, 1s": {time.Second, 0, freezes}, "freezes, 2s": {2 * time.Second, time.Second, freezes}, "freezes, 5s": {5 * time.Second, 0, freezes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lease := test.lease
			s := bustest.Server(t, bustest.IgnoreLeaks())
			cfg := durable.Config{Lease: lease}
			newMember(t, s, cfg)
			dying, err := newMortal(t, s, "counting", func(svc *server.Service) { registerCounter(svc, cfg) })
			if err != nil {
				t.Fatal(err)
			}
			b := bustest.Connect(t, s)
			owners := followOwners(t, b)
			owners.shared(2)
			increment, _ := methods()
			c := client.New(b, client.Config{NoShortcut: true})
			defer c.Close()
			const callers = 32
			var calling, dead sync.WaitGroup
			var killed atomic.Int64 // when, by since
			since := time.Now()
			// What may come of a call whose owner dies.
			lost := []rpc.Code{rpc.Unavailable, rpc.DeadlineExceeded, rpc.Aborted}
			outages, held := make([]time.Duration, callers), make([]time.Duration, callers)
			calling.Add(callers)
			for i := range callers {
				dead.Go(func() {
					timeout := rpc.WithTimeout(5 * time.Second)
					if i%2 == 1 {
						timeout = rpc.WithTimeout(30 * time.Second)
					}
					for n := 0; ; n++ {
						begun := time.Since(since)
						_, err := increment.Call(t.Context(), c, fmt.Sprint("object-", i), incrementParams{By: 1}, timeout)
						ended := time.Since(since)
						at := time.Duration(killed.Load())
						if at > 0 {
							held[i] = max(held[i], ended-max(begun, at))
						}
						switch {
						case at > 0 && begun > at && err == nil:
							outages[i] = ended - at
							return
						case err != nil && (at == 0 || !slices.Contains(lost, rpc.CodeOf(err))):
							t.Errorf("%v", err)
							return
						}
						if n == 3 {
							calling.Done()
						}
					}
				})
			}
			calling.Wait()
			killed.Store(int64(time.Since(since)))
			test.end(dying)
			dead.Wait()
			t.Logf("with a lease of %v: no object was away for more than %v; no call took longer than %v", lease, slices.Max(outages), slices.Max(held))
			if limit := lease + test.later + 2*time.Second; slices.Max(outages) > limit {
				t.Errorf("with a lease of %v an object was away for %v, want at most %v", lease, slices.Max(outages), limit)
			}
			if slices.Max(outages) < lease/2 {
				t.Errorf("nobody noticed that a member died: %v", outages)
			}
		})
	}
}

// tally is a class whose turns say when and where they ran.
type tally struct {
	Value int `json:"value"`
}

type tallyEntry struct {
	Value  int           `json:"value"`
	Member string        `json:"member"`
	Begin  time.Duration `json:"begin"`
	End    time.Duration `json:"end"`
}

// tallies is what callers of the class have been told.
type tallies struct {
	t     testing.TB
	begun time.Time
	add   rpc.ObjectMethod[rpc.None, tallyEntry]
	read  rpc.ObjectMethod[rpc.None, tallyEntry]

	calls, failed atomic.Int64
	mu            sync.Mutex
	added         map[string][]tallyEntry
	unsure        map[string]int // calls that may have had their effect
	known         map[string]int // the highest value that anybody has been told
}

func newTallies(t testing.TB) *tallies {
	return &tallies{
		t: t, begun: time.Now(),
		add:   rpc.NewObjectMethod[rpc.None, tallyEntry]("tally.add"),
		read:  rpc.NewObjectMethod[rpc.None, tallyEntry]("tally.read"),
		added: map[string][]tallyEntry{}, unsure: map[string]int{}, known: map[string]int{},
	}
}

// register makes svc serve the class.
func (w *tallies) register(svc *server.Service, cfg durable.Config, member string) {
	class := durable.Serve[tally](svc, "tally", cfg)
	durable.Handle(class, w.add, func(s *tally, _ durable.Context, _ rpc.None) (tallyEntry, error) {
		e := tallyEntry{Member: member, Begin: time.Since(w.begun)}
		s.Value++
		if s.Value%8 == 0 {
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond) // turns that take a while
		}
		e.Value, e.End = s.Value, time.Since(w.begun)
		return e, nil
	})
	durable.View(class, w.read, func(s tally, _ durable.ReadContext, _ rpc.None) (tallyEntry, error) {
		return tallyEntry{Value: s.Value, Member: member}, nil
	})
}

// call calls objects until ctx ends. What it is told must not be older than what
// anybody has been told before it asked.
func (w *tallies) call(until context.Context, c *client.Client, ids []string) {
	for n := rand.IntN(len(ids)); until.Err() == nil; n++ {
		id := ids[n%len(ids)]
		w.mu.Lock()
		before := w.known[id]
		w.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		var e tallyEntry
		var err error
		reading := rand.IntN(3) == 0
		if reading {
			e, err = w.read.Call(ctx, c, id, rpc.None{})
		} else {
			e, err = w.add.Call(ctx, c, id, rpc.None{})
		}
		cancel()
		w.calls.Add(1)
		w.mu.Lock()
		switch {
		case err != nil:
			w.failed.Add(1)
			if e, ok := errors.AsType[*rpc.Error](err); !reading && !(ok && e.Retryable) {
				w.unsure[id]++
			}
		case e.Value < before || !reading && e.Value == before:
			w.t.Errorf("%s of %s at %s: %d, when %d had been told before", map[bool]string{true: "read", false: "add"}[reading], id, e.Member, e.Value, before)
		case !reading:
			w.added[id] = append(w.added[id], e)
		}
		w.known[id] = max(w.known[id], e.Value)
		w.mu.Unlock()
	}
}

// check looks at all turns that had an effect: no two got the same value, none
// ran while another did, and none is missing or too many.
func (w *tallies) check(c *client.Client, ids []string) {
	w.t.Helper()
	turns, members := 0, map[string]bool{}
	for _, id := range ids {
		final, err := w.read.Call(context.Background(), c, id, rpc.None{}, rpc.WithTimeout(10*time.Second))
		if err != nil {
			w.t.Fatal(err)
		}
		added := w.added[id]
		sort.Slice(added, func(i, j int) bool { return added[i].Value < added[j].Value })
		for i, e := range added {
			members[e.Member] = true
			if i == 0 {
				continue
			}
			switch p := added[i-1]; {
			case p.Value == e.Value:
				w.t.Errorf("%s: two turns made it %d: %+v and %+v", id, e.Value, p, e)
			case p.End > e.Begin:
				w.t.Errorf("%s: two turns at once: %+v and %+v", id, p, e)
			}
		}
		turns += len(added)
		if final.Value < len(added) || final.Value > len(added)+w.unsure[id] {
			w.t.Errorf("%s: %d after %d calls that succeeded and %d that may have", id, final.Value, len(added), w.unsure[id])
		}
	}
	w.t.Logf("%d calls, %d failed; %d turns at %d members", w.calls.Load(), w.failed.Load(), turns, len(members))
}

// Members join, leave, die, are cut off and frozen, and the bus is restarted: no
// object is ever served by two.
func TestNeverTwoOwners(t *testing.T) {
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: run again with -run '^%s$' -seed %d", seed, t.Name(), seed)
	lasting := 6 * time.Second
	if *long {
		lasting = 3 * time.Minute
	}
	s := bustest.Server(t, bustest.IgnoreLeaks())
	w := newTallies(t)
	cfg := durable.Config{Lease: time.Second, Idle: 500 * time.Millisecond}
	serve := func(name string) (*mortal, error) {
		return newMortal(t, s, name, func(svc *server.Service) { w.register(svc, cfg, name) })
	}
	if _, err := serve("steady"); err != nil {
		t.Fatal(err)
	}
	c := client.New(bustest.Connect(t, s), client.Config{NoShortcut: true})
	defer c.Close()
	ids := make([]string, 12)
	for i := range ids {
		ids[i] = fmt.Sprint("object-", i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lasting)
	defer cancel()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() { w.call(ctx, c, ids) })
	}
	for seat := range 3 {
		r := rand.New(rand.NewPCG(seed, uint64(seat)))
		all.Go(func() { sufferFaults(ctx, t, r, fmt.Sprint("seat-", seat), serve) })
	}
	all.Go(func() {
		r := rand.New(rand.NewPCG(seed, 99))
		for sleep(ctx, time.Duration(2000+r.IntN(4000))*time.Millisecond) {
			if err := s.Restart(context.Background()); err != nil {
				t.Errorf("restart: %v", err)
			}
		}
	})
	all.Wait()
	w.check(c, ids)
}

// sufferFaults runs one member after the other, to which things happen.
func sufferFaults(ctx context.Context, t testing.TB, r *rand.Rand, name string, serve func(string) (*mortal, error)) {
	var m *mortal
	for n := 0; sleep(ctx, time.Duration(r.IntN(300))*time.Millisecond); {
		if m == nil {
			n++
			m, _ = serve(fmt.Sprint(name, "-", n)) // not while the bus is away
			continue
		}
		pause := time.Duration(r.IntN(400)) * time.Millisecond
		if r.IntN(3) == 0 {
			pause += time.Second
		}
		switch dice := r.IntN(10); {
		case dice < 2:
			_ = m.leave() // it may not have been able to
			m.kill()
			m = nil
		case dice < 4:
			m.kill()
			m = nil
		case dice < 7:
			m.link.Freeze()
			sleep(ctx, pause)
			m.link.Mend()
		default:
			m.link.Cut()
			sleep(ctx, pause)
			m.link.Mend()
		}
	}
	if m != nil {
		m.link.Mend()
	}
}

// sleep reports false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// A service whose second class can't be started leaves nothing behind; the next
// one, with the cause put right, starts.
func TestStartFailsHalfWay(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	spoilt, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_" + durable.Bucket("spoilt"), Subjects: []string{"somewhere.else"}, Retention: jetstream.WorkQueuePolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	serve := func() *server.Service {
		svc := server.New(b, "counting", server.Config{})
		registerCounter(svc, durable.Config{})
		durable.Serve[counter](svc, "spoilt", durable.Config{})
		return svc
	}
	err = serve().Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "objects of the class spoilt") {
		t.Fatalf("run: %v", err)
	}
	if err := b.JetStream().DeleteStream(t.Context(), spoilt.CachedInfo().Config.Name); err != nil {
		t.Fatal(err)
	}
	run(t, serve())
	c := client.New(b, client.Config{})
	defer c.Close()
	increment, _ := methods()
	if got, err := increment.Call(t.Context(), c, "alice", incrementParams{By: 1}); got != 1 || err != nil {
		t.Fatalf("%d, %v", got, err)
	}
}
