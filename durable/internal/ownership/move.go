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

// writeTimeout bounds one write of a slot's key.
const writeTimeout = 2 * time.Second

// releaseTimeout bounds how long a hand-over waits for the turns that run. A
// turn that takes longer keeps its slot here for another round.
const releaseTimeout = 30 * time.Second

// write changes a slot's key, if it is as s says.
func (m *Member) write(ctx context.Context, key slotKey, s slot, record slotRecord) (uint64, error) {
	value, err := json.Marshal(record)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return m.journal.Write(ctx, journal.Message{Key: key.String(), Data: value, Header: nats.Header{
		journal.HeaderExpect: {strconv.FormatUint(s.rev, 10)},
	}})
}

// claim takes a slot that nobody owns.
func (m *Member) claim(key slotKey, s slot) func(context.Context) result {
	id := m.id
	return func(ctx context.Context) result {
		record := slotRecord{Owner: id, Epoch: s.record.Epoch + 1, Takeover: graceful, Forced: s.record.Forced}
		if s.record.Epoch == 0 { // nothing is known of what was before
			record.Takeover, record.Forced = forced, record.Epoch
		}
		return m.take(ctx, key, s, record)
	}
}

// takeByForce takes the slot of a member whose lease has ended. It fences that
// member off first: if the member has renewed after all, that is refused.
func (m *Member) takeByForce(key slotKey, s slot, rev uint64) func(context.Context) result {
	id := m.id
	return func(ctx context.Context) result {
		alive, err := m.fenceOff(ctx, s.record.Owner, rev)
		if alive != nil || err != nil {
			return result{key: key, id: id, owner: s.record.Owner, seen: alive, err: err}
		}
		epoch := s.record.Epoch + 1
		return m.take(ctx, key, s, slotRecord{Owner: id, Epoch: epoch, Takeover: forced, Forced: epoch})
	}
}

func (m *Member) take(ctx context.Context, key slotKey, s slot, record slotRecord) result {
	r := result{key: key, id: record.Owner}
	r.rev, r.err = m.write(ctx, key, s, record)
	if r.err != nil {
		return r
	}
	r.record = &record
	r.err = m.hosts[key.class].Acquire(key.slot, Grant{Epoch: record.Epoch, Forced: record.Forced})
	if r.err == nil {
		r.state = serving
	}
	return r
}

// resume serves a slot that was handed over to this member.
func (m *Member) resume(key slotKey, s slot) func(context.Context) result {
	id := m.id
	return func(context.Context) result {
		r := result{key: key, id: id}
		r.err = m.hosts[key.class].Acquire(key.slot, Grant{Epoch: s.record.Epoch, Forced: s.record.Forced})
		if r.err == nil {
			r.state = serving
		}
		return r
	}
}

// handOver gives a slot to the member that should own it, or to nobody.
func (m *Member) handOver(key slotKey, s slot, target string) func(context.Context) result {
	id := m.id
	return func(ctx context.Context) result {
		r := result{key: key, id: id}
		if s.state == serving {
			release, cancel := context.WithTimeout(ctx, releaseTimeout)
			defer cancel()
			if r.err = m.hosts[key.class].Release(release, key.slot); r.err != nil {
				r.state = serving
				return r
			}
		}
		record := slotRecord{Owner: target, Epoch: s.record.Epoch + 1, Takeover: graceful, Forced: s.record.Forced}
		if r.rev, r.err = m.write(ctx, key, s, record); r.err == nil {
			r.record = &record
		}
		return r
	}
}

// fenceOff makes sure that a member whose key was last written at rev can't
// renew its lease any more. It returns the member's entry when it is alive.
func (m *Member) fenceOff(ctx context.Context, id string, rev uint64) (alive *memberEntry, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	key := "member." + id
	for range 5 {
		_, err := m.journal.Write(ctx, journal.Message{Key: key, Header: nats.Header{
			journal.HeaderExpect:    {strconv.FormatUint(rev, 10)},
			journal.HeaderOperation: {"PURGE"},
			journal.HeaderTTL:       {ttl(markerTTL)},
		}})
		refused, ok := errors.AsType[*journal.Refused](err)
		if !ok {
			return nil, err
		}
		now, err := m.current(ctx, key, refused.Last)
		switch {
		case err != nil:
			return nil, err
		case now == nil:
			rev = 0
		case now.Deleted():
			rev = now.Sequence
		default:
			entry := memberEntry{rev: now.Sequence}
			if err := json.Unmarshal(now.Data, &entry.memberRecord); err != nil {
				return nil, fmt.Errorf("member %s: %w", id, err)
			}
			return &entry, nil
		}
	}
	return nil, fmt.Errorf("member %s: its key keeps changing", id)
}
