package ownership

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
)

// A watch is replaced now and then, so that nothing it missed stays missed.
const watchLife = time.Minute

// retryPause is how long a slot whose operation failed is left alone, unless
// something changes.
const retryPause = 100 * time.Millisecond

// run is the one goroutine that knows members and slots.
func (m *Member) run(ctx context.Context, settled chan struct{}) {
	defer close(m.done)
	defer m.running.Wait()
	w := &watch{}
	defer w.close()
	renewed := make(chan error, 1)
	renewing := false
	renew := time.NewTicker(m.cfg.Lease / 3)
	defer renew.Stop()
	tick := time.NewTicker(retryPause)
	defer tick.Stop()
	startRenewal := func() {
		renewing = true
		m.running.Go(func() { renewed <- m.renew(ctx) })
	}
	leaving := false
	for {
		if w.watcher == nil {
			w.open(ctx, m)
		}
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.updates():
			switch {
			case !ok:
				w.close()
				continue
			case e == nil:
				w.complete(m)
				m.synced = true
			default:
				m.apply(e)
			}
			if len(w.updates()) > 0 {
				continue // all of it, then act
			}
		case r := <-m.results:
			m.finish(r)
		case <-renew.C:
			if !renewing {
				startRenewal()
			}
			if time.Since(w.since) > watchLife {
				w.close()
			}
			continue
		case err := <-renewed:
			renewing = false
			m.renewalEnded(ctx, err)
		case <-m.woken:
			if !leaving { // tell the others first: they must not hand anything back
				leaving = true
				if renewing {
					m.renewalEnded(ctx, <-renewed)
				}
				m.renewalEnded(ctx, m.renew(ctx))
				renewing = false
			}
		case <-tick.C:
		}
		m.reconcile(ctx)
		if settled != nil && m.settled() {
			close(settled)
			settled = nil
		}
		if leaving && m.Owned() == 0 && m.ops == 0 {
			select {
			case <-m.empty:
			default:
				close(m.empty)
			}
		}
	}
}

// renewalEnded acts on what came of a renewal.
func (m *Member) renewalEnded(ctx context.Context, err error) {
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, errExpelled):
		m.cfg.Logger.Warn().Str("member", m.id).Msg("the lease has ended: giving up all objects and joining anew")
		m.expelled()
		if err := m.join(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Error().Err(err).Msg("joining failed")
		}
	default:
		m.cfg.Logger.Warn().Err(err).Dur("left", m.lease.Left()).Msg("the lease was not renewed")
	}
}

// expelled gives up everything: others may own it by now.
func (m *Member) expelled() {
	m.lease.End()
	for key, s := range m.slots {
		m.hosts[key.class].Drop(key.slot)
		s.state = away
	}
	m.owned.Store(0)
	m.targets = nil
	// None of what was begun under the lease may end under the next one.
	for m.ops > 0 {
		m.finish(<-m.results)
	}
	for key, s := range m.slots {
		m.hosts[key.class].Drop(key.slot)
		s.state = away
	}
	m.owned.Store(0)
}

// watch follows the bucket.
type watch struct {
	watcher jetstream.KeyWatcher
	since   time.Time
	seen    map[string]bool // keys of the first pass, nil after it
}

func (w *watch) open(ctx context.Context, m *Member) {
	keys := []string{"member.*"}
	for _, class := range m.classes {
		keys = append(keys, "slot."+class+".*")
	}
	watcher, err := m.kv.WatchFiltered(ctx, keys)
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Logger.Warn().Err(err).Msg("owners can't be watched; trying again")
		}
		return // with the next tick
	}
	w.watcher, w.since, w.seen = watcher, time.Now(), map[string]bool{}
}

func (w *watch) updates() <-chan jetstream.KeyValueEntry {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Updates()
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Stop() // fails only when it has ended by itself
		w.watcher = nil
	}
}

// complete forgets members that a new watch did not mention: they are gone, and
// so is what told that.
func (w *watch) complete(m *Member) {
	if w.seen == nil {
		return
	}
	for id, entry := range m.members {
		if !w.seen["member."+id] && entry.dead {
			delete(m.members, id)
		}
	}
	w.seen = nil
}

// apply takes in what the watch tells.
func (m *Member) apply(e jetstream.KeyValueEntry) {
	kind, rest, _ := strings.Cut(e.Key(), ".")
	gone := e.Operation() != jetstream.KeyValuePut
	switch kind {
	case "member":
		entry := memberEntry{rev: e.Revision(), dead: gone}
		if !gone && json.Unmarshal(e.Value(), &entry.memberRecord) != nil {
			return
		}
		m.noteMember(rest, entry)
	case "slot":
		class, token, _ := strings.Cut(rest, ".")
		number, err := strconv.ParseUint(token, 16, 8)
		s := m.slots[slotKey{class, int(number)}]
		if err != nil || s == nil || e.Revision() <= s.rev {
			return
		}
		record := slotRecord{Epoch: s.record.Epoch, Forced: s.record.Forced}
		if !gone && json.Unmarshal(e.Value(), &record) != nil {
			return
		}
		s.record, s.rev, s.failed = record, e.Revision(), time.Time{}
	}
}

func (m *Member) noteMember(id string, entry memberEntry) {
	known, ok := m.members[id]
	if ok && entry.rev <= known.rev {
		return
	}
	m.members[id] = entry
	if !ok || known.dead != entry.dead || known.Leaving != entry.Leaving || len(known.Classes) != len(entry.Classes) {
		m.targets = nil
	}
}

// finish takes in what came of an operation on a slot.
func (m *Member) finish(r result) {
	m.ops--
	s := m.slots[r.key]
	s.busy = false
	if r.seen != nil {
		m.noteMember(r.owner, *r.seen)
	}
	if r.id != m.id { // of an earlier incarnation
		m.hosts[r.key.class].Drop(r.key.slot)
		return
	}
	if s.state != r.state {
		s.state = r.state
		if r.state == serving {
			m.owned.Add(1)
		} else {
			m.owned.Add(-1)
		}
	}
	if r.record != nil && r.rev > s.rev {
		s.record, s.rev = *r.record, r.rev
	}
	if r.err != nil {
		s.failed = time.Now()
		m.cfg.Logger.Debug().Err(r.err).Stringer("slot", r.key).Msg("slot did not change hands")
	}
}

// reconcile begins what must be done so that every slot is where it should be.
func (m *Member) reconcile(ctx context.Context) {
	if !m.synced || !m.lease.Valid() {
		return
	}
	if m.targets == nil {
		m.targets = m.assign()
	}
	now := time.Now()
	for key, s := range m.slots {
		if m.ops >= maxOps {
			return // the next result brings us back
		}
		if s.busy || now.Sub(s.failed) < retryPause {
			continue
		}
		if s.state == serving && s.record.Owner != m.id { // taken away
			m.hosts[key.class].Drop(key.slot)
			s.state = away
			m.owned.Add(-1)
		}
		if op := m.plan(key, s); op != nil {
			s.busy = true
			m.ops++
			m.running.Go(func() { m.results <- op(ctx) }) // has room for maxOps
		}
	}
}

// plan returns what to do about a slot, nil for nothing.
func (m *Member) plan(key slotKey, s *slot) func(context.Context) result {
	target := m.targets[key]
	owner, alive := m.members[s.record.Owner]
	switch {
	case s.record.Owner == m.id && target != m.id:
		return m.handOver(key, *s, target)
	case s.record.Owner == m.id && s.state == away:
		return m.resume(key, *s)
	case s.record.Owner == m.id || target != m.id:
		return nil
	case s.record.Owner == "":
		return m.claim(key, *s)
	case alive && !owner.dead:
		return nil // it will hand the slot over
	default:
		return m.takeByForce(key, *s, owner.rev)
	}
}

// settled reports whether there is nothing to do now.
func (m *Member) settled() bool {
	if !m.synced || m.ops > 0 || m.targets == nil {
		return false
	}
	for key, s := range m.slots {
		if m.plan(key, s) != nil {
			return false
		}
	}
	return true
}

// assign says who should own each slot: of the members that host the class and
// are not leaving, the one with the highest score. So a member that comes or
// goes moves its own share and nothing else (rendezvous hashing).
func (m *Member) assign() map[slotKey]string {
	targets := make(map[slotKey]string, len(m.slots))
	for _, class := range m.classes {
		var candidates []string
		for id, entry := range m.members {
			if id != m.id && !entry.dead && !entry.Leaving && hosts(entry.Classes, class) {
				candidates = append(candidates, id)
			}
		}
		if !m.stopping.Load() {
			candidates = append(candidates, m.id)
		}
		for i := range bus.Slots {
			key := slotKey{class, i}
			var best uint64
			for _, id := range candidates {
				if s := score(id, class, i); targets[key] == "" || s > best || s == best && id > targets[key] {
					targets[key], best = id, s
				}
			}
		}
	}
	return targets
}

func hosts(classes []string, class string) bool {
	for _, c := range classes {
		if c == class {
			return true
		}
	}
	return false
}

// score is FNV-1a-64 of the three, stirred (the finalizer of SplitMix64): FNV
// alone leaves the last bytes in the low bits.
func score(member, class string, slot int) uint64 {
	h := uint64(14695981039346656037)
	add := func(s string) {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		h = (h ^ '/') * 1099511628211
	}
	add(member)
	add(class)
	h = (h ^ uint64(slot)) * 1099511628211
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
