package durable

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/durable/internal/journal"
)

// Headers of an object's record. The value is the state and nothing else.
const (
	headerCommit = "Rpc-Commit" // "<how many, ever>-<unique>"
	headerCalls  = "Rpc-Calls"  // identities and results of the turns, as JSON
	headerEpoch  = "Rpc-Epoch"  // of the slot, when the record was written
	headerSchema = "Rpc-Schema" // absent for 0
	headerKeys   = "Rpc-Storage"
)

// record is what an object's last message says.
type record struct {
	exists  bool // there is a state
	state   []byte
	rev     uint64 // zero: the object has never been, or it is forgotten
	commit  string
	count   uint64 // of commits
	epoch   uint64
	alarm   alarmState
	schema  int
	storage bool // the object has had keyed storage
	calls   []callRecord
	time    time.Time
}

// callRecord is the identity of a call that a commit is about, with what it
// returned.
type callRecord struct {
	ID string `json:"id"`
	// Method is the call's, when the identity is one of the caller's own.
	Method string `json:"m,omitempty"`
	// Result is JSON; nil when it was too large to be kept.
	Result json.RawMessage `json:"r,omitempty"`
}

// readRecord reads a record; nil is an object that has none.
func readRecord(m *journal.Stored) record {
	if m == nil {
		return record{}
	}
	r := record{rev: m.Sequence, commit: m.Header.Get(headerCommit), time: m.Time}
	count, _, _ := strings.Cut(r.commit, "-")
	r.count, _ = strconv.ParseUint(count, 10, 64)
	r.epoch, _ = strconv.ParseUint(m.Header.Get(headerEpoch), 10, 64)
	// What somebody has written by other means says nothing of the storage.
	r.storage = m.Header.Get(headerKeys) != "" || m.Header.Get(headerEpoch) == ""
	if calls := m.Header.Get(headerCalls); calls != "" {
		_ = json.Unmarshal([]byte(calls), &r.calls) // somebody else's header is no identity
	}
	if m.Deleted() {
		return r
	}
	r.exists, r.state = true, m.Data
	r.schema, _ = strconv.Atoi(m.Header.Get(headerSchema))
	r.schema = max(r.schema, 0)
	r.alarm = readAlarm(m.Header)
	return r
}

// header writes the headers of a record that follows the one with revision rev.
func (r *record) header(rev uint64) nats.Header { return new(head).of(r, rev) }

// head has room for the headers of a record, to be used again when the message
// has been sent. The values are in a place of their own, so that a record with
// headers of the same names as the one before only changes these.
type head struct {
	header nats.Header
	names  headNames
	values [6][1]string
}

// headNames says which headers a head has beside those that are always there.
type headNames struct{ calls, schema, storage, alarm bool }

var heads = sync.Pool{New: func() any { return new(head) }}

// of writes the headers of a record that follows the one with revision rev. They
// are valid until the next call.
func (w *head) of(r *record, rev uint64) nats.Header {
	names := headNames{len(r.calls) > 0, r.schema != 0, r.storage, r.alarm.set() || r.alarm.dead}
	if w.header == nil || names != w.names || names.alarm {
		w.header, w.names = make(nats.Header, len(w.values)), names
		for i, name := range []string{journal.HeaderExpect, headerCommit, headerEpoch} {
			w.header[name] = w.values[i][:]
		}
		if names.calls {
			w.header[headerCalls] = w.values[3][:]
		}
		if names.schema {
			w.header[headerSchema] = w.values[4][:]
		}
		if names.storage {
			w.header[headerKeys] = w.values[5][:]
		}
		r.alarm.write(w.header)
	}
	w.values = [...][1]string{{strconv.FormatUint(rev, 10)}, {r.commit}, {strconv.FormatUint(r.epoch, 10)}, {}, {strconv.Itoa(r.schema)}, {"1"}}
	if names.calls {
		w.values[3][0] = writeCalls(r.calls)
	}
	return w.header
}

// writeCalls writes what readRecord reads.
func writeCalls(calls []callRecord) string {
	size := 2
	for i := range calls {
		size += encodedSize(calls[i].ID) + len(calls[i].Method) + len(calls[i].Result)
	}
	var b strings.Builder
	b.Grow(size)
	for i := range calls {
		if i == 0 {
			b.WriteString(`[{"id":`)
		} else {
			b.WriteString(`,{"id":`)
		}
		writeText(&b, calls[i].ID)
		if calls[i].Method != "" {
			b.WriteString(`,"m":`)
			writeText(&b, calls[i].Method)
		}
		if calls[i].Result != nil {
			b.WriteString(`,"r":`)
			b.Write(calls[i].Result)
		}
		b.WriteByte('}')
	}
	b.WriteByte(']')
	return b.String()
}

// writeText writes a JSON string.
func writeText(b *strings.Builder, text string) {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(text) // no string fails
			b.Write(quoted)
			return
		}
	}
	b.WriteByte('"')
	b.WriteString(text)
	b.WriteByte('"')
}
