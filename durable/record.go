package durable

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

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
	r.storage = m.Header.Get(headerKeys) != ""
	if calls := m.Header.Get(headerCalls); calls != "" {
		_ = json.Unmarshal([]byte(calls), &r.calls) // somebody else's header is no identity
	}
	if m.Deleted() {
		return r
	}
	r.exists, r.state = true, m.Data
	r.schema, _ = strconv.Atoi(m.Header.Get(headerSchema))
	r.alarm = readAlarm(m.Header)
	return r
}

// header writes the headers of a record that follows the one with revision rev.
func (r *record) header(rev uint64) nats.Header {
	h := nats.Header{
		journal.HeaderExpect: {strconv.FormatUint(rev, 10)},
		headerCommit:         {r.commit},
		headerEpoch:          {strconv.FormatUint(r.epoch, 10)},
	}
	if len(r.calls) > 0 {
		if calls, err := json.Marshal(r.calls); err == nil {
			h[headerCalls] = []string{string(calls)}
		}
	}
	r.alarm.write(h)
	if r.schema != 0 {
		h[headerSchema] = []string{strconv.Itoa(r.schema)}
	}
	if r.storage {
		h[headerKeys] = []string{"1"}
	}
	return h
}

func newCommit(count uint64) string { return strconv.FormatUint(count, 10) + "-" + nuid.Next() }
