package ownership

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/durable/internal/journal"
)

// memberRecord is the value of a member's key.
type memberRecord struct {
	Name    string   `json:"name"`
	Classes []string `json:"classes"`
	Leaving bool     `json:"leaving,omitempty"`
	LeaseMS int64    `json:"leaseMs"`
	// Renewal is different in every renewal that was sent: by it the member
	// knows its own.
	Renewal string `json:"renewal"`
}

// peer is what is known of another member, or of this one's own key.
type peer struct {
	memberRecord
	rev     uint64
	dead    bool      // the key is gone
	doubted time.Time // when that was found out, if it does not say that the lease has ended
	fenced  bool      // the key is gone for sure, and for good
	fencing bool      // an operation that makes sure is under way
	retry   time.Time
}

// candidate reports whether the member can be given slots of the class.
func (p *peer) candidate(class string) bool {
	return !p.dead && !p.Leaving && slices.Contains(p.Classes, class)
}

// headerEnded marks what is left of a key whose lease has ended.
const headerEnded = "Rpc-Lease-Ended"

// tombstone is what is put in the place of a key.
func tombstone(ended bool) nats.Header {
	h := nats.Header{journal.HeaderOperation: {"PURGE"}, journal.HeaderTTL: {ttl(markerTTL)}}
	if ended {
		h[headerEnded] = []string{"true"}
	}
	return h
}

// markerTTL is how long the bucket tells that a member is gone. Whoever finds
// its slots later has to wait for a lease.
const markerTTL = time.Hour

// readPeer reads what is stored of a member, nil for nothing. What can't be read
// is nobody's lease.
func readPeer(stored *journal.Stored) peer {
	if stored == nil {
		return peer{dead: true}
	}
	p := peer{rev: stored.Sequence}
	if !stored.Deleted() && json.Unmarshal(stored.Data, &p.memberRecord) == nil {
		return p
	}
	p.dead, p.memberRecord = true, memberRecord{}
	if stored.Header.Get(headerEnded) == "" && stored.Header.Get(headerReason) != "MaxAge" {
		p.doubted = time.Now() // somebody else's doing: the member has to find out
	}
	return p
}

// headerReason says why the server has removed a message.
const headerReason = "Nats-Marker-Reason"
