package ownership

import (
	"time"

	"rpc.do/bus"
)

const (
	// maxGiving bounds the hand-overs that are under way, and maxTaking whatever
	// else is.
	maxGiving = 256
	maxTaking = 64

	// maxBrisk bounds the hand-overs that have just begun: the fewer there are at
	// a time, the sooner is each slot served again. Those that take longer wait for
	// turns to end and don't hold up the others.
	maxBrisk  = 16
	briskTime = 50 * time.Millisecond
)

// plan is what is to be done about a slot.
type plan struct {
	op     func(*move) result // nil for nothing
	giving bool
	wait   bool // there will be something
}

// reconcile begins what must be done so that every slot is where it should be.
func (m *Member) reconcile() {
	if !m.dirty && (m.wake.IsZero() || time.Now().Before(m.wake)) {
		return
	}
	m.dirty, m.wake = false, time.Time{}
	if m.in == nil || !m.synced || !m.lease.Valid() {
		return // what changes that makes it dirty
	}
	if m.targets == nil {
		m.retarget()
	}
	m.countBrisk()
	settled, blocked := true, -1
	for k := range m.slots {
		i := (m.from + k) % len(m.slots)
		p := m.plan(i)
		settled = settled && !p.wait && p.op == nil
		if p.op != nil && !m.start(i, p) && blocked < 0 {
			blocked = i
		}
	}
	if blocked >= 0 {
		m.from = blocked // the next result brings us back
	}
	if settled && !m.settled {
		m.settled = true
		close(m.ready)
	}
}

// countBrisk counts the hand-overs that have just begun.
func (m *Member) countBrisk() {
	now := time.Now()
	m.brisk = 0
	for i := range m.slots {
		if s := &m.slots[i]; s.busy && now.Sub(s.given) < briskTime {
			m.brisk++
			m.wakeAt(s.given.Add(briskTime))
		}
	}
}

// start begins an operation; it reports false when too many are under way.
func (m *Member) start(i int, p plan) bool {
	s, now := &m.slots[i], time.Now()
	if now.Before(s.retry) {
		m.wakeAt(s.retry)
		return true
	}
	if p.giving {
		if m.giving == maxGiving || m.brisk == maxBrisk {
			return false
		}
		m.giving++
		m.brisk++
		s.given = now
	} else {
		if m.taking == maxTaking {
			return false
		}
		m.taking++
	}
	s.busy = true
	v := &move{Member: m, in: m.in, index: i, class: m.classes[i/bus.Slots], n: i % bus.Slots, was: *s}
	m.running.Go(func() { m.results <- p.op(v) }) // has room for all
	return true
}

// plan says what to do about a slot.
func (m *Member) plan(i int) plan {
	s, target, id := &m.slots[i], m.targets[i], m.in.id
	take := func(record slotRecord) plan {
		return plan{op: func(v *move) result { return v.take(record) }}
	}
	switch {
	case s.busy:
		return plan{wait: true}
	case s.record.Owner == id && target != id:
		patience := m.patience(s)
		return plan{giving: true, op: func(v *move) result { return v.handOver(target, patience) }}
	case s.record.Owner == id && s.serving || s.record.Owner != id && target != id:
		return plan{}
	case s.record.Owner == id && s.again:
		return take(s.record.next(id, s.unclean))
	case s.record.Owner == id:
		return plan{op: (*move).resume}
	case s.known && s.record.Owner == "":
		return take(s.record.next(id, false))
	case s.known:
		return m.planForced(s)
	case m.first && s.rev == 0 && s.record.Epoch == 0 && m.classes[i/bus.Slots].Fresh():
		return take(s.record.next(id, false))
	}
	if left := m.absentFor() - s.absent.Since(); left > 0 {
		m.wakeAt(time.Now().Add(left))
		return plan{}
	}
	return take(unknownPast(id, s.record))
}

// planForced says what to do about a slot that another member owns.
func (m *Member) planForced(s *slot) plan {
	owner := m.members[s.record.Owner]
	if owner == nil { // it has been dead for long, or somebody has removed its key
		owner = &peer{dead: true, doubted: time.Now()}
		m.members[s.record.Owner] = owner
	}
	switch {
	case !owner.dead:
		return plan{} // it will hand the slot over
	case !owner.doubted.IsZero() && time.Since(owner.doubted) < m.absentFor():
		m.wakeAt(owner.doubted.Add(m.absentFor()))
		return plan{}
	case owner.fenced:
		record := s.record.next(m.in.id, true)
		return plan{op: func(v *move) result { return v.take(record) }}
	}
	m.fence(s.record.Owner, owner, owner.rev, true)
	return plan{wait: true}
}

// fence finds out whether a member is gone, and sees to it that it stays so.
func (m *Member) fence(id string, p *peer, rev uint64, ended bool) {
	switch {
	case p.fencing || m.taking >= maxTaking:
		return
	case time.Now().Before(p.retry):
		m.wakeAt(p.retry)
		return
	}
	p.fencing = true
	m.taking++
	in := m.in
	m.running.Go(func() { m.results <- m.fenceOff(in, id, rev, ended) })
}

// absentFor is how long a slot is left alone that may have an owner whose lease
// has not ended, though the bucket does not say so: until that one has found out,
// or could not renew.
func (m *Member) absentFor() time.Duration {
	d := m.cfg.Lease
	for _, p := range m.members {
		d = max(d, time.Duration(p.LeaseMS)*time.Millisecond)
	}
	return d
}

func (m *Member) wakeAt(t time.Time) {
	if m.wake.IsZero() || t.Before(m.wake) {
		m.wake = t
	}
}

// retarget finds out who should own the slots, by the members known now.
func (m *Member) retarget() {
	m.targets = make([]string, 0, len(m.slots))
	for _, c := range m.classes {
		var candidates []string
		if !m.announced {
			candidates = append(candidates, m.in.id)
		}
		for id, p := range m.members {
			if p.candidate(c.name) {
				candidates = append(candidates, id)
			}
		}
		targets := assign(c.name, candidates)
		m.targets = append(m.targets, targets[:]...)
	}
}
