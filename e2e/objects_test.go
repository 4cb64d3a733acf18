//go:build unix

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/e2e/internal/faultproxy"
	"rpc.do/e2e/internal/linear"
	"rpc.do/e2e/internal/work"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the fault schedules; 0 draws one")
	faultsFor = flag.Duration("faults", 0, "how long the fault schedules run; 0 is short")
)

// objectLease is the lease of the members in these tests.
const objectLease = 2 * time.Second

// seed returns the seed of a test, and says it.
func seed(t testing.TB) uint64 {
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("seed %d: run again with -run '^%s$' -seed %d", s, t.Name(), s)
	return s
}

// cluster is a bus with members that serve the class register, each behind a
// proxy of its own.
type cluster struct {
	t       *testing.T
	program string
	seed    uint64

	mu      sync.Mutex
	bus     *busProcess
	members map[int]*clusterMember
}

type clusterMember struct {
	*process
	proxy *faultproxy.Proxy
}

func newCluster(t *testing.T, program string, seed uint64, members int) *cluster {
	c := &cluster{t: t, program: program, seed: seed, bus: startBus(t), members: map[int]*clusterMember{}}
	for i := range members {
		c.add(i)
	}
	return c
}

func (c *cluster) add(i int) {
	proxy, err := faultproxy.Start(faultproxy.Config{Target: strings.TrimPrefix(c.bus.url, "nats://"), Seed: c.seed + uint64(i)})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = proxy.Close() })
	p := start(c.t, fmt.Sprintf("member-%d", i), nil, c.program,
		"-server", proxy.URL(), "-id", fmt.Sprintf("member-%d", i), "-objects", objectLease.String())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[i] = &clusterMember{p, proxy}
}

// fault makes one fault of a plan happen.
func (c *cluster) fault(_ context.Context, f linear.Fault) (undo func() error, err error) {
	c.t.Logf("%v", f)
	c.mu.Lock()
	m := c.members[f.Member]
	c.mu.Unlock()
	switch f.Kind {
	case linear.KillMember:
		m.kill(c.t)
		_ = m.proxy.Close()
	case linear.RemoveMember:
		m.signal(c.t, syscall.SIGTERM)
	case linear.PauseMember:
		m.signal(c.t, syscall.SIGSTOP)
		return func() error { return m.cmd.Process.Signal(syscall.SIGCONT) }, nil
	case linear.CutMember:
		m.proxy.Cut()
	case linear.PartitionMember:
		m.proxy.Blackhole(true)
		return func() error { m.proxy.Blackhole(false); return nil }, nil
	case linear.AddMember:
		c.add(f.Member)
	case linear.RestartBus:
		c.bus.kill(c.t)
		c.bus.begin(c.t)
	}
	return nil, nil
}

// traffic is callers that add to, swap and read a few registers.
type traffic struct {
	recorder *linear.Recorder
	stop     chan struct{}
	wg       sync.WaitGroup
}

const (
	trafficCallers = 6
	trafficObjects = 4
	opTimeout      = 6 * time.Second
)

func startTraffic(t *testing.T, url string, seed uint64) *traffic {
	tr := &traffic{recorder: linear.NewRecorder("op", nil), stop: make(chan struct{})}
	for n := range trafficCallers {
		c := newClient(t, url, client.Config{RetryBudget: 1 << 20})
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		tr.wg.Go(func() {
			seen := map[string]int64{}
			for i := 0; ; i++ {
				select {
				case <-tr.stop:
					return
				default:
				}
				object := fmt.Sprintf("register %d", r.IntN(trafficObjects))
				op := linear.Op{Client: fmt.Sprint(n), Object: object}
				switch r.IntN(5) {
				case 0, 1:
					op.Kind, op.By = linear.Add, 1+r.Int64N(9)
				case 2:
					op.Kind, op.By = linear.AddEvent, 1+r.Int64N(9)
				case 3:
					op.Kind, op.Expect, op.Set = linear.CompareAndSet, seen[object], seen[object]+1+r.Int64N(9)
				default:
					op.Kind = linear.Read
				}
				seen[object] = tr.do(t.Context(), c, op).Value
				pause := time.NewTimer(time.Duration(r.IntN(8)) * time.Millisecond)
				select {
				case <-pause.C:
				case <-tr.stop:
				}
			}
		})
	}
	return tr
}

// do makes one operation and records what came of it.
func (tr *traffic) do(ctx context.Context, c rpc.Caller, op linear.Op) work.Register {
	call := tr.recorder.Begin(op)
	change := work.Change{ID: call.ID(), Object: op.Object, By: op.By, Expect: op.Expect, Set: op.Set, Event: op.Kind == linear.AddEvent}
	var got work.Register
	var err error
	switch op.Kind {
	case linear.Read:
		got, err = work.Read.Call(ctx, c, op.Object, rpc.None{}, rpc.WithTimeout(opTimeout))
	case linear.CompareAndSet:
		got, err = work.Swap.Call(ctx, c, op.Object, change, rpc.WithTimeout(opTimeout))
	default:
		got, err = work.Add.Call(ctx, c, op.Object, change, rpc.WithTimeout(opTimeout))
	}
	e, _ := errors.AsType[*rpc.Error](err)
	switch {
	case err == nil:
		call.OK(linear.Result{Value: got.Value, Swapped: got.Swapped, Trace: got.Trace})
	case e != nil && e.Retryable:
		call.Failed(err) // it surely did not run
	default:
		call.Unknown(err)
	}
	return got
}

// end stops the callers, reads every register once more and returns all that
// was done.
func (tr *traffic) end(t *testing.T, url string) []linear.Op {
	t.Helper()
	close(tr.stop)
	tr.wg.Wait()
	c := newClient(t, url, client.Config{})
	for i := range trafficObjects {
		until(t, "the register can be read again", func() bool {
			ops := len(tr.recorder.Ops())
			tr.do(t.Context(), c, linear.Op{Client: "last", Object: fmt.Sprintf("register %d", i), Kind: linear.Read})
			return tr.recorder.Ops()[ops].Outcome == linear.OK
		})
	}
	return tr.recorder.Ops()
}

// outcomes counts what came of operations.
func outcomes(ops []linear.Op) string {
	counts, notes := map[linear.Outcome]int{}, map[string]int{}
	var slowest time.Duration
	for _, op := range ops {
		counts[op.Outcome]++
		if op.Note != "" {
			code, _, _ := strings.Cut(op.Note, ":")
			notes[code]++
		}
		slowest = max(slowest, time.Duration(op.Return-op.Call))
	}
	return fmt.Sprintf("%d operations: %d ok, %d surely not done, %d unknown %v; slowest %v",
		len(ops), counts[linear.OK], counts[linear.Failed], counts[linear.Unknown], notes, slowest.Round(time.Millisecond))
}

// addedEvents returns the identities in the events that the registers emitted.
func addedEvents(t *testing.T, url string, least int) []string {
	t.Helper()
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{url}, Name: "events"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	until(t, "all events are in EVENTS", func() bool {
		info, err := stream.Info(t.Context())
		if err == nil {
			n = int(info.State.Msgs)
		}
		return err == nil && n >= least
	})
	consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{FilterSubjects: []string{"$." + work.Added.Name()}})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for len(ids) < n {
		msg, err := consumer.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatalf("event %d of %d: %v", len(ids)+1, n, err)
		}
		var c work.Change
		if err := json.Unmarshal(msg.Data(), &c); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	return ids
}

// TestLinearizable runs callers against objects while a seeded schedule kills,
// pauses, cuts off, removes and adds members and restarts the bus, and has every
// result explained by one order of all operations.
func TestLinearizable(t *testing.T) {
	duration := *faultsFor
	if duration == 0 {
		duration = 25 * time.Second
	}
	s := seed(t)
	plan := linear.Schedule(s, duration, linear.Faults{Lease: objectLease, Every: 1500 * time.Millisecond, Most: 4})
	t.Logf("plan: %v", plan)
	c := newCluster(t, programs.worker, s, 3)
	tr := startTraffic(t, c.bus.url, s)
	if err := plan.Run(t.Context(), c.fault); err != nil {
		t.Fatal(err)
	}
	ops := tr.end(t, c.bus.url)
	t.Log(outcomes(ops))
	report, err := linear.Check(ops, linear.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(); err != nil {
		t.Errorf("%v\n%v", err, report)
	}
	var emitting []linear.Op
	sure := 0
	for _, op := range ops {
		if op.Kind == linear.AddEvent {
			emitting = append(emitting, op)
			if op.Outcome == linear.OK {
				sure++
			}
		}
	}
	if err := linear.CheckEffects(emitting, addedEvents(t, c.bus.url, sure)); err != nil {
		t.Errorf("events: %v", err)
	}
	done, changed := 0, 0
	for _, op := range ops {
		if op.Outcome == linear.OK {
			done++
			if op.Kind != linear.Read {
				changed++
			}
		}
	}
	// Faults make calls wait, they don't make them fail.
	if done < len(ops)*3/4 || changed < len(ops)/4 {
		t.Errorf("of %d operations %d have a result, %d of them changes: that shows little", len(ops), done, changed)
	}
}

// TestUnfenced takes away what keeps a paused owner from doing harm, and wants
// the checker to see it.
func TestUnfenced(t *testing.T) {
	program := buildWorker(t, "rpcdo_unfenced")
	s := seed(t)
	for try := range uint64(5) {
		plan := linear.Schedule(s+try, 12*time.Second, linear.Faults{
			Lease: objectLease, Every: 2 * time.Second, Kinds: []linear.FaultKind{linear.PauseMember, linear.PartitionMember},
		})
		c := newCluster(t, program, s+try, 3)
		tr := startTraffic(t, c.bus.url, s+try)
		if err := plan.Run(t.Context(), c.fault); err != nil {
			t.Fatal(err)
		}
		ops := tr.end(t, c.bus.url)
		t.Log(outcomes(ops))
		report, err := linear.Check(ops, linear.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if report.Verdict == linear.Violation {
			t.Logf("seen, as it should be: %.600v", report)
			return
		}
	}
	t.Error("without the fence the checker saw nothing wrong in 5 runs: it would not see a defect either")
}

// TestLostReplies drops answers at random between the caller and the bus. Each
// call has one effect all the same, and the retry gets the first result.
func TestLostReplies(t *testing.T) {
	s := seed(t)
	c := newCluster(t, programs.worker, s, 2)
	proxy, err := faultproxy.Start(faultproxy.Config{Target: strings.TrimPrefix(c.bus.url, "nats://"), Seed: s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	dropping, err := proxy.Add(faultproxy.Rule{From: faultproxy.Server, Subject: "_INBOX.", Action: faultproxy.Drop, Chance: 0.2})
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 8, 60
	caller := newClient(t, proxy.URL(), client.Config{RetryBudget: 1 << 20, MaxAttempts: 50, ResendAfter: 50 * time.Millisecond})
	var mu sync.Mutex
	results := map[int64]string{}
	var wg sync.WaitGroup
	for n := range callers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%d-%d", n, i)
				got, err := work.Add.Call(t.Context(), caller, "one", work.Change{ID: id, By: 1, Event: i%2 == 0}, rpc.WithTimeout(20*time.Second))
				if err != nil {
					t.Errorf("call %s: %v", id, err)
					return
				}
				mu.Lock()
				if other, twice := results[got.Value]; twice || got.Trace[len(got.Trace)-1] != id {
					t.Errorf("call %s: got the result %d, trace %v; as %q", id, got.Value, got.Trace, other)
				}
				results[got.Value] = id
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if hits := dropping.Hits(); hits < callers*each/10 {
		t.Errorf("only %d answers were dropped", hits)
	} else {
		t.Logf("%d calls, %d answers dropped", callers*each, hits)
	}
	got, err := work.Read.Call(t.Context(), newClient(t, c.bus.url, client.Config{}), "one", rpc.None{})
	if err != nil || got.Value != callers*each {
		t.Errorf("the register has %d, %v, want %d", got.Value, err, callers*each)
	}
	events := addedEvents(t, c.bus.url, callers*each/2)
	slices.Sort(events)
	if distinct := slices.Compact(slices.Clone(events)); len(distinct) != len(events) || len(events) != callers*each/2 {
		t.Errorf("%d events, %d distinct, want %d", len(events), len(distinct), callers*each/2)
	}
}
