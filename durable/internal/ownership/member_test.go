package ownership

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable/internal/ownership/linktest"
)

// The first member takes everything at once; those that join get their shares
// handed over, and those that leave hand theirs over. Nothing is taken by force.
func TestSharing(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	tm := newTeam(t)
	alice := tm.join(bustest.Connect(t, s), "alice", 5*time.Second, "cart")
	if counts, whole := tm.owners("cart"); !whole || alice.Owned() != bus.Slots {
		t.Fatalf("after the start: %v", counts)
	}
	bob := tm.join(bustest.Connect(t, s), "bob", 5*time.Second, "cart")
	tm.shared("cart", alice, bob)
	carol := tm.join(bustest.Connect(t, s), "carol", 5*time.Second, "cart")
	tm.shared("cart", alice, bob, carol)
	stop(t, alice)
	tm.shared("cart", bob, carol)
	stop(t, carol)
	tm.shared("cart", bob)
	stop(t, bob)
	if counts, _ := tm.owners("cart"); len(counts) > 0 || bob.Owned() != 0 {
		t.Fatalf("after all have left: %v", counts)
	}
	if keys := memberKeys(t, alice.bus); len(keys) > 0 {
		t.Fatalf("left behind: %v", keys)
	}
	dave := tm.join(bustest.Connect(t, s), "dave", 5*time.Second, "cart")
	if counts, whole := tm.owners("cart"); !whole || dave.Owned() != bus.Slots {
		t.Fatalf("after the next start: %v", counts)
	}
	if tm.forced > 0 {
		t.Errorf("%d slots were taken by force", tm.forced)
	}
}

// Members that start at the same moment agree.
func TestStartTogether(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	tm := newTeam(t)
	members := make([]*Member, 4)
	for i := range members {
		members[i], _ = tm.new(bustest.Connect(t, s), fmt.Sprint("member-", i), 5*time.Second, "cart", "order")
	}
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := m.Start(ctx); err != nil {
				t.Errorf("start: %v", err)
			}
		})
		t.Cleanup(func() { stop(t, m) })
	}
	wg.Wait()
	tm.shared("cart", members...)
	tm.shared("order", members...)
	if tm.forced > 0 {
		t.Errorf("%d slots were taken by force", tm.forced)
	}
}

// Members host different classes, and many.
func TestClasses(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	tm := newTeam(t)
	var many []string
	for i := range 8 {
		many = append(many, fmt.Sprint("class-", i))
	}
	alice := tm.join(bustest.Connect(t, s), "alice", 5*time.Second, many...)
	bob := tm.join(bustest.Connect(t, s), "bob", 5*time.Second, "class-3", "class-7", "other")
	for _, class := range many {
		if class == "class-3" || class == "class-7" {
			tm.shared(class, alice, bob)
		} else {
			tm.shared(class, alice)
		}
	}
	tm.shared("other", bob)
	stop(t, alice)
	tm.shared("class-7", bob)
	if counts, _ := tm.owners("class-1"); len(counts) > 0 {
		t.Errorf("owners of a class that nobody hosts: %v", counts)
	}
	tm.join(bustest.Connect(t, s), "carol", 5*time.Second, many...)
	if tm.forced > 0 {
		t.Errorf("%d slots were taken by force", tm.forced)
	}
}

// A slot whose turns do not end stays where it is, goes on being served, and
// holds up no other.
func TestReleaseThatFails(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	tm := newTeam(t)
	alice, stages := tm.new(bustest.Connect(t, s), "alice", 5*time.Second, "cart")
	var busy, tries atomic.Int64
	busy.Store(1)
	stages[0].release = func(ctx context.Context, slot int) (bool, error) {
		if busy.Load() == 0 || slot%3 > 0 {
			return true, nil
		}
		tries.Add(1)
		<-ctx.Done()
		return false, ctx.Err()
	}
	tm.start(alice)
	bob := tm.join(bustest.Connect(t, s), "bob", 5*time.Second, "cart")
	var bobs, stuck int
	for n, id := range assign("cart", []string{alice.in.id, bob.in.id}) {
		if id != bob.in.id {
			continue
		}
		bobs++
		if n%3 == 0 {
			stuck++
		}
	}
	await(t, "all but the busy slots have moved", func() bool {
		return bob.Owned() == bobs-stuck && int(tries.Load()) >= stuck
	})
	if alice.Owned() != bus.Slots-bob.Owned() {
		t.Errorf("alice serves %d, bob %d of %d", alice.Owned(), bob.Owned(), bus.Slots)
	}
	busy.Store(0)
	stop(t, alice)
	tm.shared("cart", bob)
}

func TestStopEdges(t *testing.T) {
	t.Parallel()
	t.Run("never started", func(t *testing.T) {
		t.Parallel()
		m, _ := newTeam(t).new(bustest.New(t), "alice", shortLease, "cart")
		for range 2 {
			if err := m.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("twice, together", func(t *testing.T) {
		t.Parallel()
		m := newTeam(t).join(bustest.New(t), "alice", shortLease, "cart")
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { stop(t, m) })
		}
		wg.Wait()
	})
	t.Run("turns do not end", func(t *testing.T) {
		t.Parallel()
		s := bustest.Server(t)
		tm := newTeam(t)
		m, stages := tm.new(bustest.Connect(t, s), "alice", 5*time.Second, "cart")
		stages[0].release = func(ctx context.Context, slot int) (bool, error) {
			if slot != 3 {
				return true, nil
			}
			<-ctx.Done()
			return false, ctx.Err()
		}
		begin(t, m)
		bob := tm.join(bustest.Connect(t, s), "bob", 5*time.Second, "cart")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Stop(ctx); err == nil || !strings.Contains(err.Error(), "1 slots were not handed over") {
			t.Errorf("stop: %v", err)
		}
		if m.Valid() {
			t.Error("it still acts as an owner")
		}
		begun := time.Now()
		tm.shared("cart", bob) // without waiting for the lease to end
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("the slot was taken after %v", took)
		}
	})
	t.Run("without the bus", func(t *testing.T) {
		t.Parallel()
		s := bustest.Server(t, bustest.IgnoreLeaks())
		link := linktest.New(s)
		m, _ := newTeam(t).new(bustest.Connect(t, s, link.Option()), "alice", shortLease, "cart")
		begin(t, m)
		link.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		begun := time.Now()
		if err := m.Stop(ctx); err == nil || !strings.Contains(err.Error(), "256 slots") {
			t.Errorf("stop: %v", err)
		}
		if took := time.Since(begun); took > 2*shortLease || m.Valid() {
			t.Errorf("it took %v, with a lease of %v; valid %v", took, shortLease, m.Valid())
		}
	})
	t.Run("after the connection was closed", func(t *testing.T) {
		t.Parallel()
		b := bustest.New(t, bustest.IgnoreLeaks())
		m, _ := newTeam(t).new(b, "alice", 5*time.Second, "cart")
		begin(t, m)
		b.Conn().Close()
		begun := time.Now()
		if err := m.Stop(t.Context()); err == nil {
			t.Error("stop: no error")
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func begin(t testing.TB, m *Member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// A start that fails leaves nothing behind that others would have to wait for.
func TestStartFails(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	tm := newTeam(t)
	m, stages := tm.new(bustest.Connect(t, s), "alice", 30*time.Second, "cart")
	stages[0].acquire = func(slot int) error {
		if slot == 77 {
			return errors.New("no room")
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := m.Start(ctx); err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "slots of cart were not taken") {
		t.Fatalf("start: %v", err)
	}
	if counts, _ := tm.owners("cart"); len(counts) > 0 || m.Owned() != 0 || m.Valid() {
		t.Errorf("it still owns %v", counts)
	}
	begun := time.Now()
	bob := tm.join(bustest.Connect(t, s), "bob", 30*time.Second, "cart")
	tm.shared("cart", bob)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the next one has everything after %v", took)
	}

	link := linktest.New(s)
	b := bustest.Connect(t, s, link.Option())
	m, _ = tm.new(b, "carol", shortLease, "cart")
	link.Cut()
	await(t, "the bus is away", func() bool { return !b.Connected() })
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := m.Start(ctx); err == nil {
		t.Error("started without a bus")
	}
}

// A member at rest costs a few messages, whatever it owns.
func TestRest(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	const term = shortLease
	m := newTeam(t).join(b, "alice", term, "a", "b", "c", "d")
	await(t, "the member is at rest", func() bool { return m.Owned() == 4*bus.Slots })
	messages := func() uint64 {
		stats := b.Conn().Stats()
		return stats.InMsgs + stats.OutMsgs
	}
	before, begun := messages(), time.Now()
	time.Sleep(3 * term)
	n, took := messages()-before, time.Since(begun)
	perLease := float64(n) / (float64(took) / float64(term))
	t.Logf("%d messages in %v: %.1f in the time of a lease", n, took, perLease)
	if perLease > 12 {
		t.Errorf("%.1f messages in the time of a lease, want 9: three renewals, with answer and echo", perLease)
	}
}
