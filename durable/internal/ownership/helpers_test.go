package ownership

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable/internal/journal"
)

var (
	long     = flag.Bool("long", false, "random faults for minutes")
	seedFlag = flag.Uint64("seed", 0, "seed of the random faults; 0 draws one")
)

func TestMain(m *testing.M) { bustest.Main(m) }

const shortLease = time.Second

// team is members that share a bus server, and what they own.
type team struct {
	t testing.TB

	mu      sync.Mutex
	holders map[string][]*stage // by slot: who serves it
	forced  int                 // grants of slots that were taken by force
	epochs  map[string]uint64
	begun   time.Time
	past    map[string][]string // of each slot
	told    map[string]bool     // that something is wrong with it
}

func newTeam(t testing.TB) *team {
	return &team{
		t: t, holders: map[string][]*stage{}, epochs: map[string]uint64{}, begun: time.Now(),
		past: map[string][]string{}, told: map[string]bool{},
	}
}

// stage is a class of one member, as a Host.
type stage struct {
	team   *team
	class  string
	member *Member
	used   bool // not fresh

	acquire func(slot int) error
	release func(ctx context.Context, slot int) (bool, error)
}

func (s *stage) Fresh() bool { return !s.used }

func (s *stage) Acquire(slot int, g Grant) error {
	if s.acquire != nil {
		if err := s.acquire(slot); err != nil {
			return err
		}
	}
	return s.team.acquired(s, slot, g)
}

func (s *stage) Release(ctx context.Context, slot int) (bool, error) {
	clean := true
	if s.release != nil {
		var err error
		if clean, err = s.release(ctx, slot); err != nil {
			return false, err
		}
	}
	if !s.team.gone(s, slot) {
		return false, errors.New("dropped")
	}
	return clean, nil
}

func (s *stage) Drop(slot int) { s.team.gone(s, slot) }

func (tm *team) acquired(s *stage, n int, g Grant) error {
	tm.mu.Lock()
	defer tm.mu.Unlock()
	key := slotKey(s.class, n)
	for _, other := range tm.holders[key] {
		if other == s {
			tm.wrong(key, "acquired twice")
			return nil
		}
	}
	tm.holders[key] = append(tm.holders[key], s)
	tm.note(key, s, fmt.Sprintf("has it, epoch %d, forced %d", g.Epoch, g.Forced))
	if g.Forced == g.Epoch {
		tm.forced++
	}
	if s.member.Valid() {
		if g.Epoch < tm.epochs[key] {
			tm.wrong(key, fmt.Sprintf("the epoch %d comes after %d", g.Epoch, tm.epochs[key]))
		}
		tm.epochs[key] = g.Epoch
	}
	tm.check(key)
	return nil
}

// note keeps the last events of a slot.
func (tm *team) note(key string, s *stage, what string) {
	past := append(tm.past[key], fmt.Sprintf("%8.3f %s %s, lease %v", time.Since(tm.begun).Seconds(), s.member.cfg.Name, what, s.member.LeaseLeft()))
	tm.past[key] = past[max(0, len(past)-8):]
}

// wrong fails the test, once for each slot.
func (tm *team) wrong(key, what string) {
	if !tm.told[key] {
		tm.told[key] = true
		tm.t.Errorf("at %.3f %s: %s\n%s", time.Since(tm.begun).Seconds(), key, what, strings.Join(tm.past[key], "\n"))
	}
}

// check looks whether several members act as the owner of a slot.
func (tm *team) check(key string) {
	holders := tm.holders[key]
	for i, a := range holders {
		for _, b := range holders[i+1:] {
			if a.member.Valid() && b.member.Valid() && a.member.Valid() {
				tm.wrong(key, fmt.Sprintf("two owners: %s and %s", a.member.cfg.Name, b.member.cfg.Name))
			}
		}
	}
}

func (tm *team) checkAll() {
	tm.mu.Lock()
	defer tm.mu.Unlock()
	for key := range tm.holders {
		tm.check(key)
	}
}

func (tm *team) gone(s *stage, n int) bool {
	tm.mu.Lock()
	defer tm.mu.Unlock()
	key := slotKey(s.class, n)
	for i, h := range tm.holders[key] {
		if h == s {
			tm.holders[key] = append(tm.holders[key][:i:i], tm.holders[key][i+1:]...)
			tm.note(key, s, "has it no more")
			return true
		}
	}
	return false
}

// owners returns how many slots of a class each member serves, by its name, and
// whether each slot is served by one.
func (tm *team) owners(class string) (counts map[string]int, whole bool) {
	tm.mu.Lock()
	defer tm.mu.Unlock()
	counts, whole = map[string]int{}, true
	for n := range bus.Slots {
		valid := 0
		for _, h := range tm.holders[slotKey(class, n)] {
			if h.member.Valid() {
				valid++
				counts[h.member.cfg.Name]++
			}
		}
		whole = whole && valid == 1
	}
	return counts, whole
}

// new makes a member that hosts classes, and does not start it.
func (tm *team) new(b *bus.Bus, name string, term time.Duration, classes ...string) (*Member, []*stage) {
	m := New(b, Config{Name: name, Lease: term, Margin: term / 10, Logger: zerolog.Nop()})
	stages := make([]*stage, len(classes))
	for i, class := range classes {
		stages[i] = &stage{team: tm, class: class, member: m}
		m.Add(class, stages[i])
	}
	return m, stages
}

// join starts a member, which leaves when the test ends.
func (tm *team) join(b *bus.Bus, name string, term time.Duration, classes ...string) *Member {
	tm.t.Helper()
	m, _ := tm.new(b, name, term, classes...)
	tm.start(m)
	return m
}

func (tm *team) start(m *Member) {
	tm.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.Start(ctx); err != nil {
		tm.t.Fatalf("start %s: %v", m.cfg.Name, err)
	}
	tm.t.Cleanup(func() { stop(tm.t, m) })
}

func stop(t testing.TB, m *Member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Errorf("stop %s: %v", m.cfg.Name, err)
	}
}

// shared waits until each slot of a class has one owner, and every one of the
// members has a share.
func (tm *team) shared(class string, members ...*Member) {
	tm.t.Helper()
	await(tm.t, fmt.Sprintf("the slots of %s are shared by %d", class, len(members)), func() bool {
		counts, whole := tm.owners(class)
		for _, m := range members {
			whole = whole && counts[m.cfg.Name] > bus.Slots/len(members)/3
		}
		return whole && len(counts) == len(members)
	})
}

// await waits until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// open opens the bucket as somebody else.
func open(t testing.TB, b *bus.Bus) *journal.Journal {
	t.Helper()
	j, err := journal.Open(b, Bucket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func stream(t testing.TB, b *bus.Bus) jetstream.Stream {
	t.Helper()
	s, err := b.JetStream().Stream(t.Context(), "KV_"+Bucket)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bucket returns the bucket as its users see it.
func bucket(t testing.TB, b *bus.Bus) jetstream.KeyValue {
	t.Helper()
	kv, err := b.JetStream().KeyValue(t.Context(), Bucket)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// memberKeys returns the keys of the members that are alive.
func memberKeys(t testing.TB, b *bus.Bus) (keys []string) {
	t.Helper()
	lister, err := bucket(t, b).ListKeysFiltered(t.Context(), memberPrefix+"*")
	if err != nil {
		t.Fatal(err)
	}
	for key := range lister.Keys() {
		keys = append(keys, key)
	}
	return keys
}

// newSeed returns the seed of a test, and says it.
func newSeed(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: run again with -run '^%s$' -seed %d", seed, t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 0))
}
