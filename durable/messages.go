package durable

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

const (
	// deletedTTL is how long the bucket remembers that an object was deleted.
	deletedTTL = "3600s"
	// entryTTL is the same for an entry. Lists read past what is remembered.
	entryTTL = 10 * time.Second
)

// plain reports whether a commit is one message that has nothing but the record.
func (g *commit) plain() bool {
	return !g.destroyed && !g.alarmSet && !g.deadSet && len(g.events) == 0 && len(g.writes) == 0
}

// messages writes a commit: the record first, whose expectation all depend on.
// When there is nothing but the state it is one message.
func (o *object) messages(g *commit) []journal.Message {
	c, rec := o.class, o.recordOf(g)
	head := journal.Message{Key: o.key, Header: rec.header(g.rev), Data: rec.state}
	if c.cfg.unfenced {
		delete(head.Header, journal.HeaderExpect)
	}
	if g.destroyed {
		head.Data = nil
		head.Header[journal.HeaderOperation] = []string{"PURGE"}
		head.Header[journal.HeaderRollup] = []string{"sub"}
		if !rec.storage { // otherwise not before the storage is gone
			head.Header[journal.HeaderTTL] = []string{deletedTTL}
		}
	}
	msgs := []journal.Message{head}
	if g.alarmSet && rec.alarm.set() {
		msgs = append(msgs, o.alarmMessage(rec.alarm))
	} else if g.alarmSet { // it takes no message of its own (ADR-51)
		head.Header[journal.HeaderScheduleNext] = []string{"purge"}
		head.Header[journal.HeaderScheduler] = []string{c.journal.Subject(alarmPrefix + o.key)}
	}
	if g.deadSet {
		msgs = append(msgs, o.deadMessage(g.dead))
	}
	for i := range g.events {
		msgs = append(msgs, g.events[i].message(rec.commit, i))
	}
	for _, key := range slices.Sorted(maps.Keys(g.writes)) {
		m := journal.Message{Key: o.key + "." + bus.Escape(key), Data: g.writes[key].value}
		if m.Data == nil {
			m.Header = nats.Header{
				journal.HeaderOperation: {"PURGE"}, journal.HeaderRollup: {"sub"}, journal.HeaderTTL: {entryTTL.String()},
			}
		}
		msgs = append(msgs, m)
	}
	return msgs
}

// clear removes what a deleted object had in its storage when the record with
// revision rev deleted it. Then it rewrites the record, for the bucket to forget
// the object in time, and returns its revision. What clear leaves undone, the
// object's next activation does.
func (o *object) clear(ctx context.Context, rec record, rev uint64) (uint64, error) {
	c := o.class
	ctx, cancel := context.WithTimeout(ctx, readbackTimeout)
	defer cancel()
	request, err := json.Marshal(map[string]any{"filter": c.journal.Subject(o.key + ".>"), "seq": rev})
	if err != nil {
		return 0, err
	}
	if err := c.journal.Purge(ctx, request); err != nil {
		return 0, err
	}
	rec.storage = false
	h := rec.header(rev)
	h[journal.HeaderOperation] = []string{"PURGE"}
	h[journal.HeaderRollup] = []string{"sub"}
	h[journal.HeaderTTL] = []string{deletedTTL}
	return c.journal.Write(ctx, journal.Message{Key: o.key, Header: h})
}

// fence is a message that says nothing but that the record's revision was rev
// when it was stored.
func (o *object) fence(rev uint64) journal.Message {
	return journal.Message{Key: o.fenceKey(), Header: nats.Header{
		journal.HeaderExpect:        {strconv.FormatUint(rev, 10)},
		journal.HeaderExpectSubject: {o.class.journal.Subject(o.key)},
	}}
}

func (o *object) fenceKey() string { return fencePrefix + bus.SlotToken(bus.Slot(o.id)) }
