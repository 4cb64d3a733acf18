package ownership

import (
	"context"
	"strings"
	"time"

	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/lease"
)

// keeper is what a member knows of the others and of the slots, and what it has
// under way. It belongs to the goroutine of run.
type keeper struct {
	in      *incarnation     // nil when the lease is lost and not all that was begun has ended
	first   bool             // it is the first one
	members map[string]*peer // the others
	slots   []slot           // by class, then number
	targets []string         // who should own them; nil when that is to be found out

	dirty   bool      // something has changed since the slots were looked at
	wake    time.Time // look at them then anyway, unless it is zero
	settled bool      // there was nothing to do once
	giving  int       // hand-overs under way
	brisk   int       // of them, that have just begun
	taking  int       // other operations under way
	from    int       // where to begin with the slots

	watch   *watch // nil between two
	watchAt time.Time
	synced  bool // a watch has told all that there was

	renewing bool
	renewAt  time.Time
	begun    time.Time // of the renewal
	failing  bool      // the last one has failed
	own      uint64    // revision of this member's key, by the watch
	stored   uint64    // and by the last renewal
	storedAt time.Time

	leaving    bool
	announcing bool // the renewal that is under way, or was the last, says so
	announced  bool // the others know
	left       bool // there is nothing to wait for any more
}

// incarnate makes the member a new one, which knows nothing.
func (m *Member) incarnate(life context.Context) {
	m.first = m.slots == nil
	m.in = newIncarnation(life)
	m.members, m.targets, m.synced = map[string]*peer{}, nil, false
	m.slots = make([]slot, len(m.classes)*bus.Slots)
	now := lease.Now()
	for i := range m.slots {
		m.slots[i].absent = now
	}
	m.renewAt, m.own, m.stored = time.Now(), 0, 0
	m.closeWatch()
}

// expelled gives up everything: others may own it by now.
func (m *Member) expelled() {
	m.lease.End()
	m.in.end()
	m.in = nil
	m.closeWatch()
	m.dropAll()
}

func (m *Member) dropAll() {
	for i := range m.slots {
		m.drop(i)
	}
}

func (m *Member) drop(i int) {
	m.classes[i/bus.Slots].Drop(i % bus.Slots)
	m.serve(i, false)
}

func (m *Member) serve(i int, serving bool) {
	s := &m.slots[i]
	switch {
	case serving && !s.serving:
		m.owned.Add(1)
	case !serving && s.serving:
		m.owned.Add(-1)
	}
	s.serving = serving
}

// hear takes in what the watch tells.
func (m *Member) hear(stored *journal.Stored) {
	if stored == nil {
		m.heardAll()
		return
	}
	m.watch.upTo = stored.Sequence
	if id, ok := strings.CutPrefix(stored.Key, memberPrefix); ok {
		if m.watch.members != nil {
			m.watch.members[id] = true
		}
		if p := readPeer(stored); id != m.in.id {
			m.meet(id, p)
		} else if m.own = stored.Sequence; p.dead {
			m.renewAt = time.Now() // to find out whether the lease is lost
		}
		return
	}
	class, n, ok := readSlotKey(stored.Key)
	for c := range m.classes {
		if ok && m.classes[c].name == class {
			m.learn(c*bus.Slots+n, readVersion(stored))
		}
	}
}

// heardAll compares what is known of members with those that there are. A key
// that was written meanwhile is told later, so who seems to be gone is asked for.
func (m *Member) heardAll() {
	for id, p := range m.members {
		if m.watch.members[id] || p.rev > m.watch.upTo {
			continue
		}
		if p.dead && !p.fencing {
			delete(m.members, id) // and so is what told that
		} else if !p.dead {
			m.fence(id, p, 0, false)
		}
	}
	m.watch.members = nil
	m.synced, m.dirty = true, true
}

// meet takes in what was found out about another member.
func (m *Member) meet(id string, p peer) {
	old := m.members[id]
	if old == nil {
		old = &peer{dead: true}
		m.members[id] = old
	}
	if p.rev < old.rev || p.rev == old.rev && !p.fenced {
		return
	}
	if old.dead != p.dead || old.Leaving != p.Leaving {
		m.targets, m.dirty = nil, true
	}
	m.dirty = m.dirty || p.fenced
	p.fencing = old.fencing
	if !p.doubted.IsZero() && old.dead && old.rev > 0 { // it is not the first to say so
		p.doubted = old.doubted
	}
	*old = p
}

// learn takes in what was found out about a slot.
func (m *Member) learn(i int, v version) {
	s := &m.slots[i]
	if v.rev > s.rev {
		s.learn(v)
		m.dirty = true
		m.check(i)
	}
}

// check drops a slot that was taken away.
func (m *Member) check(i int) {
	if s := &m.slots[i]; s.serving && !s.busy && s.record.Owner != m.in.id {
		m.cfg.Logger.Warn().Str("slot", m.slotName(i)).Str("owner", s.record.Owner).Msg("somebody has taken a slot away")
		m.drop(i)
	}
}

func (m *Member) slotName(i int) string { return slotKey(m.classes[i/bus.Slots].name, i%bus.Slots) }

// finish takes in what came of an operation.
func (m *Member) finish(r result) {
	if r.giving {
		m.giving--
	} else {
		m.taking--
	}
	m.dirty = true
	if r.err != nil {
		m.cfg.Logger.Debug().Err(r.err).Str("member", r.id).Int("slot", r.index).Msg("ownership: an operation failed")
	}
	switch {
	case r.in != m.in && r.id == "": // of an earlier incarnation
		m.drop(r.index)
	case r.in != m.in:
	case r.id != "":
		m.fenced(r)
	default:
		m.moved(r)
	}
}

func (m *Member) moved(r result) {
	s := &m.slots[r.index]
	s.busy, s.given = false, time.Time{}
	m.serve(r.index, r.serving)
	s.again, s.unclean = r.again, r.unclean
	if r.err != nil {
		s.retry = time.Now().Add(retryPause)
		if r.giving && r.serving && !m.leaving {
			s.retry = time.Now().Add(2 * m.patience(s))
			s.tries++
		}
	}
	if r.found != nil && (s.rev == r.basis || r.found.rev > s.rev) {
		s.learn(*r.found)
	}
	m.check(r.index)
}

func (m *Member) fenced(r result) {
	p := m.members[r.id]
	if p == nil {
		return
	}
	p.fencing = false
	if r.err != nil {
		p.retry = time.Now().Add(retryPause)
	}
	if r.peer != nil {
		m.meet(r.id, *r.peer)
	}
}

// patience is how long a hand-over waits for the turns of the slot.
func (m *Member) patience(s *slot) time.Duration {
	if m.leaving {
		return maxReleaseTimeout
	}
	return min(firstReleaseTimeout<<min(s.tries, 10), maxReleaseTimeout)
}
