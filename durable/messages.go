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

// deletedTTL is how long the bucket remembers that an object or an entry was
// deleted.
const deletedTTL = "3600s"

// messages writes a commit: the record first, whose expectation all depend on.
// When there is nothing but the state it is one message.
func (o *object) messages(g *commit, rec record, rev uint64) []journal.Message {
	c := o.class
	head := journal.Message{Key: o.key, Header: rec.header(rev), Data: rec.state}
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
	if g.alarmSet {
		msgs = append(msgs, o.alarmMessage(rec.alarm))
	}
	for i := range g.events {
		msgs = append(msgs, g.events[i].message(rec.commit, i))
	}
	for _, key := range slices.Sorted(maps.Keys(g.writes)) {
		m := journal.Message{Key: o.key + "." + bus.Escape(key), Data: g.writes[key].value}
		if m.Data == nil {
			m.Header = nats.Header{
				journal.HeaderOperation: {"PURGE"}, journal.HeaderRollup: {"sub"}, journal.HeaderTTL: {deletedTTL},
			}
		}
		msgs = append(msgs, m)
	}
	return msgs
}

// alarmMessage arms the object's alarm, or disarms it (ADR-51).
func (o *object) alarmMessage(at time.Time) journal.Message {
	c := o.class
	if at.IsZero() {
		return journal.Message{Key: fencePrefix + bus.SlotToken(bus.Slot(o.id)), Header: nats.Header{
			journal.HeaderScheduleNext: {"purge"},
			journal.HeaderScheduler:    {c.journal.Subject(alarmPrefix + o.key)},
		}}
	}
	return journal.Message{Key: alarmPrefix + o.key, Header: nats.Header{
		journal.HeaderSchedule: {"@at " + at.UTC().Format(time.RFC3339Nano)},
		journal.HeaderTarget:   {c.journal.Subject(duePrefix + o.key)},
		journal.HeaderRollup:   {"sub"},
	}}
}

// purge removes what a deleted object had in its storage, up to the record that
// deleted it, and then lets the bucket forget the object. When it fails, the
// next activation does it.
func (o *object) purge(rev uint64) {
	c := o.class
	ctx, cancel := context.WithTimeout(c.life, readbackTimeout)
	defer cancel()
	request, err := json.Marshal(map[string]any{"filter": c.journal.Subject(o.key + ".>"), "seq": rev})
	if err == nil {
		err = c.journal.Purge(ctx, request)
	}
	if err != nil {
		c.log.Warn().Err(err).Str("object", o.id).Msg("the storage of a deleted object is not removed yet")
	}
}

// tombstone is the record of a deleted object whose storage is gone.
func tombstone(key string, rec record, rev uint64) journal.Message {
	rec.storage = false
	h := rec.header(rev)
	h[journal.HeaderOperation] = []string{"PURGE"}
	h[journal.HeaderRollup] = []string{"sub"}
	h[journal.HeaderTTL] = []string{deletedTTL}
	return journal.Message{Key: key, Header: h}
}

// fence is a message that says nothing but that the record's revision was rev
// when it was stored.
func (o *object) fence(rev uint64) journal.Message {
	return journal.Message{Key: fencePrefix + bus.SlotToken(bus.Slot(o.id)), Header: nats.Header{
		journal.HeaderExpect:        {strconv.FormatUint(rev, 10)},
		journal.HeaderExpectSubject: {o.class.journal.Subject(o.key)},
	}}
}
