package ownership

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/durable/internal/journal"
)

const (
	// retryPause is how long what failed is left alone.
	retryPause = 100 * time.Millisecond

	// watchPatience is how long a watch may take to tell what there is.
	watchPatience = 30 * time.Second

	// A watch is replaced now and then, so that nothing it missed stays missed.
	watchLife = 10 * time.Minute
)

// run does what there is to do until life ends.
func (m *Member) run(life context.Context) {
	defer close(m.done)
	defer m.running.Wait()
	defer m.closeWatch()
	conn := m.bus.Conn()
	connected := conn.StatusChanged(nats.CONNECTED)
	defer conn.RemoveStatusListener(connected)
	timer := time.NewTimer(0)
	defer timer.Stop()
	leave := m.leave
	for {
		m.keepGoing(life)
		m.reconcile()
		if m.leaving && !m.left && m.nothingLeft() {
			m.left = true
			close(m.empty)
		}
		timer.Reset(time.Until(m.due()))
		select {
		case <-life.Done():
			return
		case stored, ok := <-m.watch.told():
			m.listen(stored, ok)
		case r := <-m.results:
			m.finish(r)
		case err := <-m.renewed:
			m.renewalEnded(err)
		case <-connected: // what was watched through may be gone
			m.closeWatch()
			m.renewAt = time.Now()
		case <-leave: // tell the others first: they must not hand anything back
			m.leaving, leave = true, nil
			m.renewAt = time.Now()
		case <-timer.C:
		}
	}
}

// keepGoing begins what is due: a new incarnation, a watch, a renewal.
func (m *Member) keepGoing(life context.Context) {
	if m.in == nil && m.giving+m.taking == 0 && !m.leaving {
		m.incarnate(life)
	}
	if m.in == nil {
		return
	}
	now := time.Now()
	if m.watch != nil && !now.Before(m.watchUntil()) {
		m.closeWatch()
	}
	if m.watch == nil && !now.Before(m.watchAt) {
		m.watch = m.openWatch(life)
	}
	if !m.renewing && !now.Before(m.renewAt) {
		m.renewing, m.begun, m.announcing = true, now, m.leaving
		in, leaving := m.in, m.leaving
		m.running.Go(func() { m.renewed <- m.renew(in.ctx, in, leaving) }) // has room for one
	}
}

// due is when something is to be done if nothing happens until then.
func (m *Member) due() time.Time {
	due := time.Now().Add(m.cfg.Lease)
	sooner := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	if m.in != nil && !m.renewing {
		sooner(m.renewAt)
	}
	if m.in != nil && m.watch == nil {
		sooner(m.watchAt)
	}
	if m.in != nil && m.watch != nil {
		sooner(m.watchUntil())
	}
	if !m.wake.IsZero() {
		sooner(m.wake)
	}
	return due
}

// watchUntil is when the watch is to be replaced. It should have told of this
// member's last renewal by then; if it has not, it tells nothing at all.
func (m *Member) watchUntil() time.Time {
	switch {
	case m.own >= m.stored || m.storedAt.Before(m.watch.since):
		return m.watch.since.Add(watchLife)
	case m.watch.members != nil:
		return m.storedAt.Add(watchPatience)
	}
	return m.storedAt.Add(m.cfg.Lease / 4)
}

// renewalEnded acts on what came of a renewal.
func (m *Member) renewalEnded(err error) {
	m.renewing = false
	log := &m.cfg.Logger
	switch {
	case err == nil:
		if m.failing {
			log.Info().Str("member", m.in.id).Msg("the lease is renewed again")
		}
		m.failing = false
		m.renewAt = m.begun.Add(m.cfg.Lease / 3)
		m.stored, m.storedAt = m.in.rev, time.Now()
		m.dirty = true // the slots are looked at now and then even if nothing has changed
		if m.announcing && !m.announced {
			m.announce()
		}
	case errors.Is(err, errExpelled):
		log.Warn().Str("member", m.in.id).Msg("the lease is lost: giving up all objects and joining anew")
		m.expelled()
	default:
		if !m.failing && m.in.ctx.Err() == nil {
			log.Warn().Err(err).Str("member", m.in.id).Dur("left", m.lease.Left()).Msg("the lease was not renewed; trying again")
		}
		m.failing = true
		m.renewAt = time.Now().Add(retryPause)
	}
	if m.leaving && !m.announcing {
		m.renewAt = time.Now()
	}
}

// announce begins to hand everything over: the others know that this member is
// leaving.
func (m *Member) announce() {
	m.announced, m.targets = true, nil
	for i := range m.slots {
		m.slots[i].retry = time.Time{}
	}
}

// nothingLeft reports whether a member that is leaving has nothing to wait for.
// When its lease has ended, others take the slots as they see fit.
func (m *Member) nothingLeft() bool {
	if m.in == nil || !m.lease.Valid() || m.bus.Conn().IsClosed() {
		return true
	}
	if !m.announced || m.giving+m.taking > 0 {
		return false
	}
	for i := range m.slots {
		if m.slots[i].record.Owner == m.in.id {
			return false
		}
	}
	return true
}

// listen takes in all that the watch has told.
func (m *Member) listen(stored *journal.Stored, ok bool) {
	for {
		if !ok {
			m.closeWatch()
			m.watchAt = time.Now().Add(retryPause)
			return
		}
		m.hear(stored)
		select {
		case stored, ok = <-m.watch.news:
		default:
			return
		}
	}
}

func (m *Member) closeWatch() {
	if m.watch != nil {
		m.watch.cancel()
	}
	m.watch, m.watchAt = nil, time.Now()
}
