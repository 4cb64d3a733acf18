package ownership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/durable/internal/journal"
)

// writeTimeout bounds one write of a key, with what is read when it is refused.
const writeTimeout = 2 * time.Second

// A hand-over waits for the turns that run, while the slot takes in no calls. So
// it gives up soon, and tries again later with more patience. Who leaves is
// patient at once.
const (
	firstReleaseTimeout = time.Second
	maxReleaseTimeout   = 30 * time.Second
)

// move is an operation on one slot, which is as was when it begins.
type move struct {
	*Member
	in    *incarnation
	index int // of the slot
	class *hosted
	n     int
	was   slot
}

// result is what came of an operation.
type result struct {
	in     *incarnation
	giving bool
	err    error

	// Of an operation on a slot.
	index   int
	basis   uint64   // the revision it began with
	found   *version // what the key has now, if that is known
	serving bool
	again   bool
	unclean bool

	// Of one on the key of the member with that id.
	id   string
	peer *peer // what is known now
}

func (v *move) key() string { return slotKey(v.class.name, v.n) }

// write changes the slot's key if it is as it was.
func (v *move) write(ctx context.Context, r *result, record slotRecord) bool {
	value, err := json.Marshal(record)
	if err != nil {
		r.err = err
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	rev, err := v.journal.Write(ctx, journal.Message{Key: v.key(), Data: value, Header: nats.Header{
		journal.HeaderExpect: {strconv.FormatUint(v.was.rev, 10)},
	}})
	if err == nil {
		r.found = &version{rev: rev, record: record, known: true}
		return true
	}
	r.err = err
	if refused, ok := errors.AsType[*journal.Refused](err); ok {
		// Somebody else has written, or an earlier write without an answer was
		// stored. The watch will tell; this is in case it is far behind.
		if now, err := v.exactly(ctx, v.key(), refused.Last); err == nil {
			found := readVersion(now)
			r.found = &found
		}
		return false
	}
	r.again = true // it may be stored later
	return false
}

func (v *move) result() result {
	return result{in: v.in, index: v.index, basis: v.was.rev, again: v.was.again, unclean: v.was.unclean}
}

// take makes this member the owner by compare-and-set, and serves the slot.
func (v *move) take(record slotRecord) result {
	r := v.result()
	if v.write(v.in.ctx, &r, record) {
		v.acquire(&r, record.grant())
	}
	return r
}

// resume serves a slot that was handed over to this member.
func (v *move) resume() result {
	r := v.result()
	v.acquire(&r, v.was.record.grant())
	return r
}

func (v *move) acquire(r *result, g Grant) {
	r.err = v.class.Acquire(v.n, g)
	r.serving = r.err == nil
}

// handOver gives the slot to target, or to nobody.
func (v *move) handOver(target string, patience time.Duration) result {
	r := v.result()
	r.giving = true
	if v.was.serving {
		ctx, cancel := context.WithTimeout(v.in.ctx, patience)
		defer cancel()
		clean, err := v.class.Release(ctx, v.n)
		if err != nil {
			r.err, r.serving = err, true
			return r
		}
		r.again, r.unclean = true, !clean
	}
	v.write(v.in.ctx, &r, v.was.record.next(target, r.unclean))
	return r
}

// unknownPast is the record with which a member takes a slot of which nothing is
// known. If it has had owners, their epochs are less: they began with this, when
// clocks showed less, or with 1, and grow by one with each hand-over.
func unknownPast(owner string, was slotRecord) slotRecord {
	was.Epoch = max(was.Epoch, uint64(time.Now().UnixMilli()))
	return was.next(owner, true)
}

// fenceOff makes sure that a member whose key is gone, as far as is known, can't
// renew its lease any more: that the key is gone for the stream's leader too.
// There is no way back then, since it is refused when it renews. Rev is the
// revision of what tells that the key is gone, zero when there is nothing; ended
// says that the lease has ended, too.
func (m *Member) fenceOff(in *incarnation, id string, rev uint64, ended bool) result {
	r := result{in: in, id: id}
	ctx, cancel := context.WithTimeout(in.ctx, writeTimeout)
	defer cancel()
	for {
		h := tombstone(ended)
		h[journal.HeaderExpect] = []string{strconv.FormatUint(rev, 10)}
		written, err := m.journal.Write(ctx, journal.Message{Key: memberPrefix + id, Header: h})
		if err == nil {
			r.peer = &peer{rev: written, dead: true, fenced: true}
			if !ended {
				r.peer.doubted = time.Now()
			}
			return r
		}
		refused, ok := errors.AsType[*journal.Refused](err)
		if !ok {
			r.err = err
			return r
		}
		now, err := m.exactly(ctx, memberPrefix+id, refused.Last)
		if err != nil {
			r.err = err
			return r
		}
		p := readPeer(now)
		if p.fenced = now != nil && now.Deleted(); p.fenced || !p.dead {
			r.peer = &p
			return r
		}
		rev = p.rev // there is nothing any more, or nothing that can be read
	}
}

// exactly reads the last message of a key as the stream's leader knows it. Its
// sequence is zero when there is none.
func (m *Member) exactly(ctx context.Context, key string, sequence uint64) (*journal.Stored, error) {
	for sequence != 0 {
		s, err := m.journal.At(ctx, sequence)
		if err != nil {
			return nil, err
		}
		if s != nil && s.Key == key {
			return s, nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil { // a replica that is behind, or it was overwritten
			return nil, fmt.Errorf("message %d of %s can't be read: %w", sequence, key, err)
		}
	}
	return nil, nil
}
