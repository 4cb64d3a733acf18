package ownership

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/durable/internal/ownership/linktest"
)

// A member that dies without a word is followed within its lease and two
// seconds, and no sooner than its own idea of the lease ends.
func TestFailover(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t, bustest.IgnoreLeaks())
	tm := newTeam(t)
	bob := tm.join(bustest.Connect(t, s), "bob", shortLease, "cart", "order")
	b := bustest.Connect(t, s, bustest.IgnoreLeaks())
	alice, _ := tm.new(b, "alice", shortLease, "cart", "order")
	begin(t, alice)
	tm.shared("cart", alice, bob)
	b.Conn().Close()
	begun := time.Now()
	tm.shared("cart", bob)
	tm.shared("order", bob)
	took := time.Since(begun)
	t.Logf("with a lease of %v it took %v", shortLease, took)
	if took > shortLease+2*time.Second {
		t.Errorf("with a lease of %v it took %v", shortLease, took)
	}
	if alice.Valid() {
		t.Error("the dead one acts as an owner")
	}
	_ = alice.Stop(t.Context())
}

// A member that is cut off or frozen for longer than its lease loses everything,
// and says nothing meanwhile. When it is back it gets its share.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*linktest.Link){"cut": (*linktest.Link).Cut, "frozen": (*linktest.Link).Freeze} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := bustest.Server(t, bustest.IgnoreLeaks())
			tm := newTeam(t)
			link := linktest.New(s)
			alice := tm.join(bustest.Connect(t, s, link.Option()), "alice", shortLease, "cart")
			bob := tm.join(bustest.Connect(t, s), "bob", shortLease, "cart")
			tm.shared("cart", alice, bob)
			cut(link)
			await(t, "bob has everything", func() bool {
				counts, whole := tm.owners("cart")
				return whole && counts["bob"] == bus.Slots && counts["alice"] == 0
			})
			link.Mend()
			tm.shared("cart", alice, bob)
			if tm.forced == 0 {
				t.Error("nothing was taken by force")
			}
		})
	}
}

// A short cut costs nothing: the lease goes on, and the watch begins anew.
func TestShortCut(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t, bustest.IgnoreLeaks())
	tm := newTeam(t)
	link := linktest.New(s)
	const term = 5 * time.Second
	b := bustest.Connect(t, s, link.Option())
	alice := tm.join(b, "alice", term, "cart")
	before := memberKeys(t, b)
	link.Cut()
	await(t, "the bus is away", func() bool { return !b.Connected() })
	bob := tm.join(bustest.Connect(t, s), "bob", term, "cart") // alice does not hear of it
	link.Mend()
	begun := time.Now()
	tm.shared("cart", alice, bob)
	if took := time.Since(begun); took > term-time.Second {
		t.Errorf("alice heard of bob after %v", took)
	}
	if tm.forced > 0 {
		t.Errorf("%d slots were taken by force", tm.forced)
	}
	if after := memberKeys(t, b); len(before) != 1 || after[0] != before[0] && after[1] != before[0] {
		t.Errorf("alice was %v, the members are %v", before, after)
	}
}

// The bus is restarted: all members go on, or join anew. With the long lease
// there is no renewal for a while that would show that the watches are gone.
func TestBusRestart(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ away, term time.Duration }{
		"shorter than the lease": {0, 2 * time.Minute},
		"longer than the lease":  {2500 * time.Millisecond, shortLease},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := bustest.Server(t, bustest.IgnoreLeaks())
			tm := newTeam(t)
			alice := tm.join(bustest.Connect(t, s), "alice", test.term, "cart")
			bob := tm.join(bustest.Connect(t, s), "bob", test.term, "cart")
			tm.shared("cart", alice, bob)
			restart(t, s, test.away)
			begun := time.Now()
			carol := tm.join(bustest.Connect(t, s), "carol", test.term, "cart")
			tm.shared("cart", alice, bob, carol)
			t.Logf("all is well %v after the restart", time.Since(begun))
		})
	}
}

func restart(t testing.TB, s *natsd.Server, away time.Duration) {
	t.Helper()
	s.Shutdown()
	time.Sleep(away)
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Somebody deletes the bucket: the members make it anew, and the epochs go on
// from where they can't have been.
func TestBucketIsDeleted(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	tm := newTeam(t)
	b := bustest.Connect(t, s)
	alice := tm.join(b, "alice", shortLease, "cart")
	bob := tm.join(bustest.Connect(t, s), "bob", shortLease, "cart")
	tm.shared("cart", alice, bob)
	if err := b.JetStream().DeleteStream(t.Context(), "KV_"+Bucket); err != nil {
		t.Fatal(err)
	}
	// One that starts now finds no owners, and must not take what others have.
	carol, stages := tm.new(bustest.Connect(t, s), "carol", shortLease, "cart")
	stages[0].used = true
	tm.start(carol)
	tm.shared("cart", alice, bob, carol)
	for _, h := range tm.holders {
		if len(h) != 1 {
			t.Fatalf("a slot has %d owners", len(h))
		}
	}
}

// Somebody deletes or spoils keys.
func TestKeysAreSpoilt(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{"deleted": "", "garbage": "{"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := bustest.Server(t)
			tm := newTeam(t)
			b := bustest.Connect(t, s)
			alice := tm.join(b, "alice", shortLease, "cart")
			bob := tm.join(bustest.Connect(t, s), "bob", shortLease, "cart")
			tm.shared("cart", alice, bob)
			kv := bucket(t, b)
			keys := memberKeys(t, b)[:1]
			for n := 0; n < bus.Slots; n += 5 {
				keys = append(keys, slotKey("cart", n))
			}
			for _, key := range keys {
				err := kv.Delete(t.Context(), key)
				if data != "" {
					_, err = kv.Put(t.Context(), key, []byte(data))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			await(t, "somebody has joined anew", func() bool {
				now := memberKeys(t, b)
				return len(now) == 2 && keys[0] != now[0] && keys[0] != now[1]
			})
			tm.shared("cart", alice, bob)
		})
	}
}

// A watch that tells nothing more is replaced.
func TestDeafWatch(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	tm := newTeam(t)
	b := bustest.Connect(t, s)
	alice := tm.join(b, "alice", shortLease, "cart")
	st := stream(t, b)
	for info := range st.ListConsumers(t.Context()).Info() {
		if err := st.DeleteConsumer(t.Context(), info.Name); err != nil {
			t.Fatal(err)
		}
	}
	bob := tm.join(bustest.Connect(t, s), "bob", shortLease, "cart")
	tm.shared("cart", alice, bob)
	if tm.forced > 0 {
		t.Errorf("%d slots were taken by force", tm.forced)
	}
}

// What was begun under a lease that is lost does not take effect under the next.
func TestLateOperation(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	tm := newTeam(t)
	b := bustest.Connect(t, s)
	alice, stages := tm.new(b, "alice", shortLease, "cart")
	held, once := make(chan struct{}), sync.Once{}
	entered := make(chan struct{})
	stages[0].acquire = func(slot int) error {
		if slot == 42 {
			once.Do(func() {
				close(entered)
				<-held
			})
		}
		return nil
	}
	ready := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ready <- alice.Start(ctx)
	}()
	<-entered
	before := memberKeys(t, b)[0]
	if err := bucket(t, b).Delete(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	await(t, "the lease is lost", func() bool { return !alice.Valid() })
	bob := tm.join(bustest.Connect(t, s), "bob", shortLease, "cart")
	tm.shared("cart", bob)
	if alice.Valid() {
		t.Error("alice has joined anew before what she had begun has ended")
	}
	close(held)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, alice) })
	tm.shared("cart", alice, bob)
}

// A server of a cluster is lost, perhaps the one that led the stream: the members
// go on with the others.
func TestServerOfClusterIsLost(t *testing.T) {
	t.Parallel()
	servers := bustest.Cluster(t, 3, bustest.IgnoreLeaks())
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL())
	}
	tm := newTeam(t)
	var members []*Member
	for i, s := range servers {
		b := bustest.Connect(t, s, bustest.IgnoreLeaks(), bustest.WithConfig(func(c *bus.Config) {
			c.URLs, c.Replicas = append([]string{urls[i]}, urls...), 3
		}))
		members = append(members, tm.join(b, fmt.Sprint("member-", i), shortLease, "cart"))
	}
	tm.shared("cart", members...)
	if tm.forced > 0 {
		t.Errorf("%d slots were taken by force while nothing happened", tm.forced)
	}
	info, err := stream(t, members[0].bus).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	var left []string
	for i, s := range servers {
		if s.NATS().Name() == info.Cluster.Leader {
			s.Shutdown()
		} else {
			left = append(left, urls[i])
		}
	}
	b, err := bus.Connect(t.Context(), bus.Config{URLs: left, Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	members = append(members, tm.join(b, "comer", shortLease, "cart"))
	tm.shared("cart", members...)
	t.Logf("all is well after %v", time.Since(begun))
}
