package ownership

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/lease"
)

// slot is what a member knows of a slot, and does with it.
type slot struct {
	version
	// absent is since when there has been no record, if there is none.
	absent lease.Instant

	serving bool
	busy    bool      // an operation is under way
	given   time.Time // when it began, if it is a hand-over
	// again says that the slot is to be taken by compare-and-set before it is
	// served, though the record has this member as its owner: it has released
	// the slot, or something that it wrote of it may be stored yet.
	again bool
	// unclean says that turns from before the release may be stored yet.
	unclean bool

	retry time.Time // not before
	tries int       // hand-overs in a row that failed
}

// version is a state of a slot's key.
type version struct {
	rev    uint64
	record slotRecord
	// known is false when there is no record. The one here says then what was
	// before, if that is known.
	known bool
}

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

// next is the record that follows when the slot goes to owner.
func (r slotRecord) next(owner string, force bool) slotRecord {
	r.Owner, r.Epoch, r.Takeover = owner, r.Epoch+1, graceful
	if force {
		r.Takeover, r.Forced = forced, r.Epoch
	}
	return r
}

func (r slotRecord) grant() Grant { return Grant{Epoch: r.Epoch, Forced: r.Forced} }

// learn takes in a newer state of the slot's key. Whatever this member may have
// on its way was to follow the state before, so it will be refused.
func (s *slot) learn(v version) {
	if !v.known {
		v.record = slotRecord{Epoch: s.record.Epoch, Forced: s.record.Forced}
		if s.known || v.rev < s.rev { // or what told it is gone as well
			s.absent = lease.Now()
		}
	}
	s.version = v
	s.again, s.unclean = false, false
	s.retry, s.tries = time.Time{}, 0
}

// readVersion reads what is stored of a slot, nil for nothing. What can't be
// read is no record.
func readVersion(stored *journal.Stored) version {
	if stored == nil {
		return version{}
	}
	v := version{rev: stored.Sequence}
	v.known = !stored.Deleted() && json.Unmarshal(stored.Data, &v.record) == nil
	if !v.known {
		v.record = slotRecord{}
	}
	return v
}

const (
	slotPrefix   = "slot."
	memberPrefix = "member."
)

func slotKey(class string, n int) string { return slotPrefix + class + "." + bus.SlotToken(n) }

// readSlotKey reads what slotKey wrote.
func readSlotKey(key string) (class string, n int, ok bool) {
	rest, ok := strings.CutPrefix(key, slotPrefix)
	class, token, ok2 := strings.Cut(rest, ".")
	number, err := strconv.ParseUint(token, 16, 8)
	return class, int(number), ok && ok2 && err == nil && bus.SlotToken(int(number)) == token
}
