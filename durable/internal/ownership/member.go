// Package ownership gives every slot of every class one owner among the members
// that host the class.
//
// A member is one service instance. It holds a lease: a key with a TTL in the
// bucket RPC_OWNERS that it renews at a third of the time. A slot is a key there
// that names its owner; it changes hands only by compare-and-set, handed over by
// the owner itself or taken when the owner's lease has ended. Rendezvous hashing
// over the live members says who should own a slot.
package ownership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"

	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/lease"
)

// Bucket is the bucket that has the members and the slots.
const Bucket = "RPC_OWNERS"

// bucketVersion is the version of the bucket's config.
const bucketVersion = 1

// Host is what a class does with its slots. Its methods may be called for
// several slots at once, for one slot one after the other.
type Host interface {
	// Acquire makes the class serve a slot that this member owns now.
	Acquire(slot int, g Grant) error
	// Release makes it stop: when it returns nil, no turn of the slot runs, none
	// will, and what they did is stored. When it fails, as it does when ctx ends,
	// the slot is served again.
	Release(ctx context.Context, slot int) error
	// Drop makes it stop at once: the slot is not this member's any more. It may
	// be called for a slot that is not served.
	Drop(slot int)
}

// Grant says since when a slot is owned.
type Grant struct {
	// Epoch grows each time that the slot changes hands.
	Epoch uint64
	// Forced is the last epoch that was taken by force.
	Forced uint64
}

// Config of a member. All fields must be set.
type Config struct {
	Name   string // for people
	Lease  time.Duration
	Margin time.Duration // by which the member stops before its lease ends
	Logger zerolog.Logger
}

// Member is one member. Classes are added, then Start makes it take part.
type Member struct {
	bus     *bus.Bus
	cfg     Config
	lease   lease.Lease
	hosts   map[string]Host
	classes []string

	journal *journal.Journal
	kv      jetstream.KeyValue
	id      string // of this incarnation
	rev     uint64 // of the member's key

	members map[string]memberEntry
	slots   map[slotKey]*slot

	targets map[slotKey]string // who should own what, by the members known now
	ops     int                // under way
	synced  bool               // the watch has told all there was

	stopping atomic.Bool
	woken    chan struct{}
	results  chan result
	running  sync.WaitGroup
	cancel   context.CancelFunc
	done     chan struct{} // run has ended
	empty    chan struct{} // nothing is owned any more, and the member is leaving
	owned    atomic.Int32
}

// maxOps bounds how many slots change hands at the same time.
const maxOps = 64

type slotKey struct {
	class string
	slot  int
}

func (k slotKey) String() string { return "slot." + k.class + "." + bus.SlotToken(k.slot) }

// slot is what is known of a slot.
type slot struct {
	record slotRecord
	rev    uint64
	state  slotState
	busy   bool // an operation is under way
	failed time.Time
}

type slotState int

const (
	away    slotState = iota // not served here
	serving                  // served here
)

// slotRecord is the value of a slot's key.
type slotRecord struct {
	Owner    string `json:"owner"` // empty: nobody
	Epoch    uint64 `json:"epoch"`
	Takeover string `json:"takeover"`
	Forced   uint64 `json:"forced"`
}

const (
	graceful = "graceful"
	forced   = "forced"
)

// memberRecord is the value of a member's key.
type memberRecord struct {
	Name    string   `json:"name"`
	Classes []string `json:"classes"`
	Leaving bool     `json:"leaving,omitempty"`
	LeaseMS int64    `json:"leaseMs"`
}

type memberEntry struct {
	memberRecord
	rev  uint64
	dead bool // expired, or fenced off
}

// result of a slot operation.
type result struct {
	key    slotKey
	id     string // the incarnation that began it
	state  slotState
	record *slotRecord // written, nil when nothing was
	rev    uint64
	seen   *memberEntry // of the owner, when it turned out to be alive
	owner  string
	err    error
}

// New makes a member that does nothing until Start.
func New(b *bus.Bus, cfg Config) *Member {
	return &Member{bus: b, cfg: cfg, hosts: map[string]Host{}}
}

// Add makes the member host a class. It is called before Start.
func (m *Member) Add(class string, h Host) {
	m.hosts[class] = h
	m.classes = append(m.classes, class)
	slices.Sort(m.classes)
}

// Valid reports whether the member may act as the owner of its slots now.
func (m *Member) Valid() bool { return m.lease.Valid() }

// LeaseLeft returns for how long it may, if nothing is renewed.
func (m *Member) LeaseLeft() time.Duration { return m.lease.Left() }

// Owned returns how many slots the member serves.
func (m *Member) Owned() int { return int(m.owned.Load()) }

// Start joins and returns when the member serves every slot that nobody else
// owns and that falls to it.
func (m *Member) Start(ctx context.Context) error {
	_, err := m.bus.EnsureStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + Bucket, Subjects: []string{"$KV." + Bucket + ".>"}, Description: "owners of durable objects",
		MaxMsgsPerSubject: 1, AllowRollup: true, AllowDirect: true, AllowMsgTTL: true,
		SubjectDeleteMarkerTTL: markerTTL, Storage: jetstream.FileStorage,
	}, bucketVersion)
	if err != nil {
		return err
	}
	if m.kv, err = m.bus.JetStream().KeyValue(ctx, Bucket); err != nil {
		return fmt.Errorf("bucket %s: %w", Bucket, err)
	}
	if m.journal, err = journal.Open(m.bus, Bucket); err != nil {
		return err
	}
	m.members, m.slots = map[string]memberEntry{}, map[slotKey]*slot{}
	for _, class := range m.classes {
		for i := range bus.Slots {
			m.slots[slotKey{class, i}] = new(slot)
		}
	}
	m.woken, m.results = make(chan struct{}, 1), make(chan result, maxOps)
	m.done, m.empty = make(chan struct{}), make(chan struct{})
	if err := m.join(ctx); err != nil {
		m.journal.Close()
		return err
	}
	var life context.Context
	life, m.cancel = context.WithCancel(context.Background())
	settled := make(chan struct{})
	go m.run(life, settled)
	select {
	case <-settled:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		err = m.bus.Conn().FlushWithContext(ctx)
	}
	if err != nil {
		m.quit()
		return fmt.Errorf("objects: the slots of %s were not taken in time: %w", strings.Join(m.classes, ", "), err)
	}
	return nil
}

// Stop hands all slots over and leaves. The error says what could not be handed
// over: others take it when the lease has ended.
func (m *Member) Stop(ctx context.Context) error {
	m.stopping.Store(true)
	select {
	case m.woken <- struct{}{}:
	default:
	}
	var err error
	select {
	case <-m.empty:
	case <-ctx.Done():
		err = fmt.Errorf("objects: %d slots were not handed over in time; others take them when the lease of %v has ended", m.Owned(), m.cfg.Lease)
	}
	m.quit()
	return err
}

// quit ends the member at once.
func (m *Member) quit() {
	m.cancel()
	<-m.done
	m.lease.End()
	for key, s := range m.slots {
		if s.state == serving {
			m.hosts[key.class].Drop(key.slot)
		}
	}
	if m.stopping.Load() && m.Owned() == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		m.leave(ctx)
	}
	m.journal.Close()
}

// markerTTL is how long the bucket tells that a key has expired.
const markerTTL = time.Minute

// join announces a new incarnation of the member.
func (m *Member) join(ctx context.Context) error {
	m.id, m.rev = nuid.Next(), 0
	for {
		err := m.renew(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("objects: join the members of %s: %w", Bucket, err)
		}
	}
}

// errExpelled says that the lease has ended: others may own the slots by now.
var errExpelled = errors.New("the lease has ended")

// renew writes the member's key and extends the lease. It is used by one
// goroutine at a time.
func (m *Member) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Lease/3)
	defer cancel()
	value, err := json.Marshal(memberRecord{Name: m.cfg.Name, Classes: m.classes, Leaving: m.stopping.Load(), LeaseMS: m.cfg.Lease.Milliseconds()})
	if err != nil {
		return err
	}
	key := "member." + m.id
	for {
		sent := lease.Now()
		rev, err := m.journal.Write(ctx, journal.Message{Key: key, Data: value, Header: nats.Header{
			journal.HeaderExpect: {strconv.FormatUint(m.rev, 10)},
			journal.HeaderTTL:    {ttl(m.cfg.Lease)},
		}})
		if err == nil {
			m.rev = rev
			m.lease.Extend(sent, m.cfg.Lease-m.cfg.Margin)
			return nil
		}
		refused, ok := errors.AsType[*journal.Refused](err)
		if !ok {
			return err
		}
		// Either an earlier renewal was stored whose answer was lost, or the key
		// has expired, or somebody has fenced this member off.
		now, err := m.current(ctx, key, refused.Last)
		switch {
		case err != nil:
			return err
		case now == nil && m.rev == 0, now != nil && now.Sequence <= m.rev: // an old replica
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case now == nil || now.Deleted():
			return errExpelled
		default:
			m.rev = now.Sequence
		}
	}
}

// current reads the last message of a key, whose sequence is known unless it is
// zero.
func (m *Member) current(ctx context.Context, key string, sequence uint64) (*journal.Stored, error) {
	if sequence != 0 {
		if s, err := m.journal.At(ctx, sequence); err != nil || s != nil {
			return s, err
		}
	}
	return m.journal.Last(ctx, key)
}

// ttl writes a duration as the server takes it: whole seconds.
func ttl(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10) + "s"
}

// leave deletes the member's key, so that nobody waits for the lease to end.
func (m *Member) leave(ctx context.Context) {
	_, err := m.journal.Write(ctx, journal.Message{Key: "member." + m.id, Header: nats.Header{
		journal.HeaderExpect:    {strconv.FormatUint(m.rev, 10)},
		journal.HeaderOperation: {"PURGE"},
		journal.HeaderRollup:    {"sub"},
		journal.HeaderTTL:       {ttl(markerTTL)},
	}})
	if err != nil {
		m.cfg.Logger.Debug().Err(err).Msg("member key not deleted; it expires by itself")
	}
}
