// Package ownership gives every slot of every class one owner among the members
// that host the class.
//
// A member is one service instance. It holds a lease: a key with a TTL in the
// bucket RPC_OWNERS, which it renews at a third of the time. A slot is a key
// there that names its owner; it changes hands only by compare-and-set, handed
// over by the owner itself or taken when the owner's lease has ended. Rendezvous
// hashing over the live members says who should own a slot.
//
// What keeps a slot from having two owners:
//   - A member acts as an owner only while its own lease holds, which it counts
//     from the moment at which it sent the last renewal that was stored. The
//     key's TTL begins later, so the lease has ended when the key expires.
//   - A slot is taken by force only when its owner's key is gone for sure: the
//     owner is fenced off first, by a write that the stream's leader takes only
//     if the key is as gone as it seems. From then on its renewals are refused.
//   - A member whose renewal was refused gives up everything it owned, waits for
//     whatever it had begun, and joins anew, as another member.
//   - A member that has released a slot, or does not know whether what it wrote
//     of it was stored, serves it again only after taking it by compare-and-set:
//     then whatever it wrote before is stored, or never will be.
//   - A slot of which the bucket says nothing may have had an owner that is
//     still at work, if somebody has deleted the key or the bucket. It is taken
//     after a lease, and by force.
package ownership

import (
	"context"
	"time"

	"github.com/rs/zerolog"
)

// Bucket is the bucket that has the members and the slots.
const Bucket = "RPC_OWNERS"

// Host is what a class does with its slots. Its methods may be called for
// several slots at once, for one slot one after the other, except that Drop may
// come at any time.
type Host interface {
	// Fresh reports whether nothing of the class had ever been stored when it
	// was started, so that nobody can have any of its objects in memory.
	Fresh() bool
	// Acquire makes the class serve a slot that this member owns now.
	Acquire(slot int, g Grant) error
	// Release makes it stop: when it returns nil, no turn of the slot runs and
	// none will. Clean says that all they did is known to be stored; otherwise
	// something may be stored later. When it fails, as it does when ctx ends, the
	// slot is served again.
	Release(ctx context.Context, slot int) (clean bool, err error)
	// Drop makes it stop at once: the slot is not this member's any more. It may
	// be called for a slot that is not served.
	Drop(slot int)
}

// Grant says since when a slot is owned.
type Grant struct {
	// Epoch grows each time that the slot changes hands.
	Epoch uint64
	// Forced is the last epoch at whose beginning something of an earlier owner
	// may have been on its way still. Zero when there was none.
	Forced uint64
}

// Config of a member. All fields must be set.
type Config struct {
	Name   string // for people
	Lease  time.Duration
	Margin time.Duration // by which the member stops before its lease ends
	Logger zerolog.Logger
}
