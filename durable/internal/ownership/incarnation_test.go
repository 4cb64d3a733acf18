package ownership

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus/bustest"
	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/lease"
)

// joined returns a member that has joined and does nothing of its own.
func joined(t *testing.T, term time.Duration) *Member {
	t.Helper()
	m, _ := newTeam(t).new(bustest.New(t), "alice", term, "cart")
	if err := m.ensureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.journal = open(t, m.bus)
	m.in = newIncarnation(t.Context())
	t.Cleanup(m.in.end)
	if err := m.renew(t.Context(), m.in, false); err != nil {
		t.Fatal(err)
	}
	return m
}

// A renewal was stored whose answer never came: the next one is refused, and the
// member finds that it is its own that is in the way.
func TestAnswerOfRenewalIsLost(t *testing.T) {
	t.Parallel()
	m := joined(t, time.Minute)
	before := m.in.rev
	if _, err := m.sendRenewal(t.Context(), m.in, false); err != nil {
		t.Fatal(err)
	}
	stored, err := m.journal.Last(t.Context(), m.in.key())
	if err != nil {
		t.Fatal(err)
	}
	m.in.rev, m.in.renewals = before, []renewal{
		{stamp: "never stored", sent: lease.Now()}, {stamp: readPeer(stored).Renewal, sent: lease.Now()},
	}
	if err := m.renew(t.Context(), m.in, false); err != nil {
		t.Fatal(err)
	}
	if m.in.rev != before+2 || len(m.in.renewals) != 0 || !m.Valid() {
		t.Fatalf("revision %d after %d, %d renewals without an answer, valid %v", m.in.rev, before, len(m.in.renewals), m.Valid())
	}
}

// What is found to be stored counts from when it was sent, however late that is
// found out.
func TestRenewalCountsFromWhenItWasSent(t *testing.T) {
	t.Parallel()
	m := joined(t, time.Minute)
	sent := lease.Now() - lease.Instant(50*time.Second)
	m.in.renewals = []renewal{{stamp: "early", sent: sent}}
	m.acknowledged(m.in, "early", m.in.rev+1)
	if left := m.LeaseLeft(); left > 4*time.Second || left < 2*time.Second {
		t.Fatalf("%v left of a lease of a minute less 6 seconds that was renewed 50 seconds ago", left)
	}
	m.in.renewals = nil
	m.lease.End()
	m.acknowledged(m.in, "somebody's", m.in.rev+1)
	if m.Valid() {
		t.Fatal("a renewal that this member did not send has extended its lease")
	}
}

func TestExpelled(t *testing.T) {
	t.Parallel()
	write := func(t *testing.T, m *Member, h nats.Header, data string) {
		if _, err := m.journal.Write(t.Context(), journal.Message{Key: m.in.key(), Header: h, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	for name, expel := range map[string]func(t *testing.T, m *Member){
		"fenced off":  func(t *testing.T, m *Member) { write(t, m, tombstone(true), "") },
		"garbage":     func(t *testing.T, m *Member) { write(t, m, nil, "who?") },
		"of its copy": func(t *testing.T, m *Member) { write(t, m, nil, `{"name":"alice","renewal":"COPY"}`) },
		"key is gone, and what told that": func(t *testing.T, m *Member) {
			if err := stream(t, m.bus).Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"bucket is gone": func(t *testing.T, m *Member) {
			if err := m.bus.JetStream().DeleteStream(t.Context(), "KV_"+Bucket); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := joined(t, 2*time.Second)
			expel(t, m)
			err := m.renew(t.Context(), m.in, false)
			if rejected, ok := errors.AsType[*journal.Rejected](err); ok && rejected.Passing { // the bucket has been made anew
				err = m.renew(t.Context(), m.in, false)
			}
			if !errors.Is(err, errExpelled) {
				t.Fatalf("renewing: %v", err)
			}
		})
	}
}

// The key of a member that does not renew is there for as long as the member
// believes in its lease, and somewhat longer.
func TestLeaseEndsBeforeTheKeyExpires(t *testing.T) {
	t.Parallel()
	for _, term := range []time.Duration{time.Second, 1300 * time.Millisecond} {
		t.Run(term.String(), func(t *testing.T) {
			t.Parallel()
			m := joined(t, term)
			sent := time.Now()
			if err := m.renew(t.Context(), m.in, false); err != nil {
				t.Fatal(err)
			}
			valid := true
			var ended time.Duration
			await(t, "the key has expired", func() bool {
				stored, err := m.journal.Last(t.Context(), m.in.key())
				if err != nil {
					t.Fatal(err)
				}
				gone := stored == nil || stored.Deleted()
				if gone && (valid || m.Valid()) {
					t.Fatal("the key has expired before the lease")
				}
				if valid = m.Valid(); !valid && ended == 0 {
					ended = time.Since(sent)
				}
				return gone
			})
			t.Logf("a lease of %v ended after %v, the key was gone after %v", term, ended, time.Since(sent))
			if late := time.Since(sent) - term; late > 2*time.Second {
				t.Errorf("the key expired %v late", late)
			}
		})
	}
}

// A member whose key is there is not fenced off, whatever others believe; one
// whose key is gone is, for good.
func TestFenceOff(t *testing.T) {
	t.Parallel()
	m := joined(t, time.Minute)
	self := newIncarnation(t.Context())
	t.Cleanup(self.end)
	r := m.fenceOff(self, m.in.id, 0, true)
	if r.err != nil || r.peer == nil || r.peer.dead || r.peer.fenced || r.peer.rev != m.in.rev || r.peer.Name != "alice" {
		t.Fatalf("a member that is alive: %+v, %+v", r, r.peer)
	}
	if err := m.renew(t.Context(), m.in, false); err != nil {
		t.Fatalf("it can't renew: %v", err)
	}
	for name, id := range map[string]string{"never seen": "BOB", "resigned": m.in.id} {
		if name == "resigned" {
			m.resign(m.in)
		}
		for _, rev := range []uint64{0, 1, m.in.rev} {
			r = m.fenceOff(self, id, rev, true)
			if r.err != nil || r.peer == nil || !r.peer.dead || !r.peer.fenced {
				t.Fatalf("%s, by revision %d: %+v, %+v", name, rev, r, r.peer)
			}
		}
	}
	if err := m.renew(t.Context(), m.in, false); !errors.Is(err, errExpelled) {
		t.Fatalf("a member that was fenced off renews: %v", err)
	}
	if _, err := m.journal.Write(t.Context(), journal.Message{Key: memberPrefix + "CAROL", Data: []byte("garbage")}); err != nil {
		t.Fatal(err)
	}
	if r = m.fenceOff(self, "CAROL", 0, true); r.peer == nil || !r.peer.fenced {
		t.Fatalf("a key that can't be read: %+v", r)
	}
}

// An operation that was cut short may have been stored: the slot is not served
// again before that is known.
func TestSlotInDoubtIsTakenAnew(t *testing.T) {
	t.Parallel()
	m := joined(t, time.Minute)
	m.slots, m.results = make([]slot, 256), make(chan result, 1)
	m.members, m.first = map[string]*peer{}, true
	v := &move{Member: m, in: m.in, class: m.classes[0], n: 7, index: 7}
	if r := v.take(slotRecord{}.next(m.in.id, false)); r.err != nil || !r.serving {
		t.Fatalf("take: %+v", r)
	} else {
		m.moved(r)
	}
	s := &m.slots[7]
	m.targets = make([]string, 256)
	m.targets[7] = "BOB"
	ended, end := context.WithCancel(t.Context())
	end()
	v.in = &incarnation{id: m.in.id, ctx: ended}
	v.was = *s
	r := v.handOver("BOB", time.Second)
	if !errors.Is(r.err, journal.ErrNoAnswer) || r.serving || !r.again || r.found != nil {
		t.Fatalf("handed over without an answer: %+v", r)
	}
	m.moved(r)
	m.targets[7] = m.in.id // BOB is gone
	v.in, v.was = m.in, *s
	r = m.plan(7).op(v)
	if _, ok := errors.AsType[*journal.Refused](r.err); !ok || r.serving {
		t.Fatalf("after the hand-over was stored: %+v", r)
	}
	m.moved(r)
	if s.record.Owner != "BOB" || s.serving || s.again {
		t.Fatalf("the slot is %+v", *s)
	}
	if p := m.plan(7); p.op != nil || p.wait { // BOB may be alive, though it has no key
		t.Fatalf("plan: %+v", p)
	}
	m.members["BOB"] = &peer{dead: true}
	if p := m.plan(7); p.op != nil || !p.wait { // it is to be fenced off first
		t.Fatalf("plan: %+v", p)
	}
	r = <-m.results
	m.finish(r)
	v.was = *s
	r = m.plan(7).op(v)
	if r.err != nil || !r.serving || r.found.record.Forced != r.found.record.Epoch || r.found.record.Epoch != 3 {
		t.Fatalf("taken by force: %+v, %+v", r, r.found)
	}
}

// Turns that may be stored after the release make the next owner distrust the
// records.
func TestUncleanRelease(t *testing.T) {
	t.Parallel()
	m := joined(t, time.Minute)
	m.classes[0].Host.(*stage).release = func(context.Context, int) (bool, error) { return false, nil }
	v := &move{Member: m, in: m.in, class: m.classes[0]}
	v.was.learn(version{known: true, record: slotRecord{}.next(m.in.id, false)})
	if err := v.class.Acquire(0, Grant{}); err != nil {
		t.Fatal(err)
	}
	v.was.serving = true
	r := v.handOver("BOB", time.Second)
	if r.err != nil || r.found.record != (slotRecord{Owner: "BOB", Epoch: 2, Forced: 2, Takeover: forced}) {
		t.Fatalf("%+v, %+v", r, r.found)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for key, ok := range map[string]bool{
		"slot.cart.00": true, "slot.a-b_c.ff": true, "slot.cart.0": false, "slot.cart.FF": false, "slot.cart.100": false,
		"slot.cart": false, "slot.cart.+1": false, "member.X": false, "": false, "slot.cart.0x": false,
	} {
		class, n, got := readSlotKey(key)
		if got != ok || ok && slotKey(class, n) != key {
			t.Errorf("%q: %q, %d, %v", key, class, n, got)
		}
	}
	if !strings.HasPrefix(slotKey("cart", 10), slotPrefix) || ttl(1300*time.Millisecond) != "2s" || ttl(time.Second) != "1s" {
		t.Error(slotKey("cart", 10), ttl(1300*time.Millisecond))
	}
}
