package ownership

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/durable/internal/ownership/linktest"
)

// seat is a place for one member after the other, each with a bus and a link of
// its own.
type seat struct {
	*chaos
	n      int
	member *Member
	bus    *bus.Bus
	link   *linktest.Link
	count  int
	r      *rand.Rand
}

// chaos is what happens to members at random.
type chaos struct {
	*team
	t      *testing.T
	server *natsd.Server
	admin  *bus.Bus
	ended  sync.WaitGroup // of members that were killed
	calm   atomic.Bool    // turns end

	mu   sync.Mutex
	done map[string]int
	log  []string
	said bool
}

// did notes what was done, and to what.
func (c *chaos) did(what string, to ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done[what]++
	c.log = append(c.log, fmt.Sprintf("%8.3f %s %s", time.Since(c.begun).Seconds(), what, fmt.Sprint(to...)))
}

// failed tells what has been done lately, once.
func (c *chaos) failed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.t.Failed() && !c.said {
		c.said = true
		c.t.Logf("what was done until %.3f:\n%s", time.Since(c.begun).Seconds(), strings.Join(c.log[max(0, len(c.log)-40):], "\n"))
	}
}

// No slot has two owners at any moment, whatever happens to the members and the
// bus, and when nothing happens any more each has one.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	r := newSeed(t)
	s := bustest.Server(t, bustest.IgnoreLeaks())
	c := &chaos{team: newTeam(t), t: t, server: s, admin: bustest.Connect(t, s), done: map[string]int{}}
	seats := make([]*seat, 4)
	for i := range seats {
		seats[i] = &seat{chaos: c, n: i, r: rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))}
	}
	lasting := 5 * time.Second
	if *long {
		lasting = 3 * time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), lasting)
	defer cancel()
	var busy, watching sync.WaitGroup
	for _, st := range seats {
		busy.Go(func() { st.run(ctx) })
	}
	busy.Go(func() { c.vandalise(ctx, rand.New(rand.NewPCG(r.Uint64(), 0))) })
	checked := make(chan struct{})
	watching.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-checked:
				t.Logf("looked %d times for slots with two owners", n)
				return
			case <-time.After(500 * time.Microsecond):
				c.checkAll()
				c.failed()
			}
		}
	})
	busy.Wait()
	t.Log(c.done)
	c.calm.Store(true)
	var left []*Member
	for _, st := range seats {
		if st.member == nil {
			st.join()
		}
		st.link.Mend()
		left = append(left, st.member)
	}
	c.shared("cart", left...)
	close(checked)
	watching.Wait()
	for _, st := range seats {
		stop(t, st.member)
	}
	c.ended.Wait()
	if counts, _ := c.owners("cart"); len(counts) > 0 {
		t.Errorf("after the end: %v", counts)
	}
}

// run does things to the members of the seat until ctx ends.
func (st *seat) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := time.Duration(st.r.IntN(300)) * time.Millisecond
		if st.r.IntN(4) == 0 {
			wait += shortLease + time.Duration(st.r.IntN(1000))*time.Millisecond
		}
		switch dice := st.r.IntN(100); {
		case st.member == nil:
			st.join()
		case dice < 20:
			st.leave()
		case dice < 35:
			st.kill()
		case dice < 60:
			st.link.Cut()
			st.did("cut", st.name(), " for ", wait)
		case dice < 80:
			st.link.Freeze()
			st.did("freeze", st.name(), " for ", wait)
		default:
			wait *= 5
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		if st.link != nil {
			st.link.Mend()
		}
	}
}

func (st *seat) name() string { return fmt.Sprintf("%d.%d", st.n, st.count) }

func (st *seat) join() {
	st.count++
	st.link = linktest.New(st.server)
	b, err := bus.Connect(context.Background(), bus.Config{Name: "chaos", InProcess: st.link})
	for err != nil { // the server is being restarted
		time.Sleep(10 * time.Millisecond)
		b, err = bus.Connect(context.Background(), bus.Config{Name: "chaos", InProcess: st.link})
	}
	m, stages := st.new(b, st.name(), shortLease, "cart")
	stages[0].used = true
	stages[0].release = func(ctx context.Context, _ int) (bool, error) {
		dice, clean := rand.IntN(1000), rand.IntN(5) > 0
		wait := time.Duration(dice%5) * time.Millisecond
		if dice < 3 && !st.calm.Load() {
			wait = time.Hour
		}
		select {
		case <-time.After(wait):
			return clean, nil
		case <-ctx.Done():
			return false, errors.New("turns go on")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := m.Start(ctx); err != nil {
		st.did("join in vain", st.name(), " ", err)
		_ = b.Close()
		return
	}
	st.did("join", st.name())
	st.member, st.bus = m, b
	st.t.Cleanup(func() { _ = b.Close() })
}

func (st *seat) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := st.member.Stop(ctx); err != nil {
		st.did("leave in vain", st.name(), " ", err)
	} else {
		st.did("leave", st.name())
	}
	_ = st.bus.Close()
	st.member = nil
}

// kill takes the connection away for good. The member finds out by itself.
func (st *seat) kill() {
	st.did("kill", st.name())
	st.bus.Conn().Close()
	m := st.member
	st.ended.Go(func() {
		for m.Valid() {
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = m.Stop(ctx)
	})
	st.member = nil
}

// vandalise does what nobody should do to the bucket.
func (c *chaos) vandalise(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		select {
		case <-time.After(time.Duration(r.IntN(1500)) * time.Millisecond):
		case <-ctx.Done():
			return
		}
		err := c.vandaliseOnce(ctx, r)
		if err != nil && ctx.Err() == nil {
			c.did("vandalism failed", err)
		}
	}
}

func (c *chaos) vandaliseOnce(ctx context.Context, r *rand.Rand) error {
	kv, err := c.admin.JetStream().KeyValue(ctx, Bucket)
	if err != nil {
		return err
	}
	switch dice := r.IntN(100); {
	case dice < 40:
		key := slotKey("cart", r.IntN(bus.Slots))
		c.did("slot deleted", key)
		return kv.Delete(ctx, key)
	case dice < 60:
		keys, err := kv.ListKeysFiltered(ctx, memberPrefix+"*")
		if err != nil {
			return err
		}
		var all []string
		for key := range keys.Keys() {
			all = append(all, key)
		}
		if len(all) == 0 {
			return nil
		}
		key := all[r.IntN(len(all))]
		c.did("member deleted", key)
		return kv.Purge(ctx, key)
	case dice < 75:
		c.did("watches removed")
		st, err := c.admin.JetStream().Stream(ctx, "KV_"+Bucket)
		if err != nil {
			return err
		}
		for info := range st.ListConsumers(ctx).Info() {
			err = errors.Join(err, st.DeleteConsumer(ctx, info.Name))
		}
		return err
	case dice < 90:
		c.did("restart")
		defer c.did("restarted")
		return c.server.Restart(context.Background())
	default:
		c.did("bucket deleted")
		return c.admin.JetStream().DeleteStream(ctx, "KV_"+Bucket)
	}
}
