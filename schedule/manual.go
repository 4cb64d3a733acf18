package schedule

import (
	"encoding/json"
	"time"

	"rpc.do"
)

// What people do to a schedule, after what is due has been decided on.

func (s *step) pause(note string) {
	s.advance() // what is due before it is paused
	s.Paused = &Pause{Note: note, Since: s.now}
	s.arm()
}

func (s *step) resume() {
	s.advance() // what is due while it is paused
	if s.Paused = nil; s.isDue(s.Next) {
		s.Resumed = s.now
	}
	s.startWaiting()
	s.arm()
}

func (s *step) trigger(payload json.RawMessage) error {
	s.advance()
	w := waiting{ID: s.extra(s.now, KindTrigger), Nominal: s.now, Kind: KindTrigger, Payload: payload}
	switch reason := s.fire(w); reason {
	case "":
	case ReasonFull:
		return s.full(1)
	default:
		s.note(Outcome{ID: w.ID, Nominal: w.Nominal, At: s.now, State: Skipped, Reason: reason, Kind: w.Kind})
	}
	s.arm()
	return nil
}

// maxBackfill bounds the ticks of one backfill.
const maxBackfill = 1000

// backfill returns how many ticks there are.
func (s *step) backfill(from, until time.Time) (int, error) {
	if until.After(s.now) {
		return 0, rpc.InvalidArgument.Errorf("what is to be filled in ends at %v, which is yet to come", until)
	}
	s.advance()
	var ticks []time.Time
	for t, ok := s.cal.Next(from.Add(-time.Nanosecond)); ok && !t.Nominal.After(until); t, ok = s.cal.Next(t.Nominal) {
		if ticks = append(ticks, t.Nominal); len(ticks) > maxBackfill {
			return 0, rpc.InvalidArgument.Errorf("from %v to %v there are more than %d ticks: fill in a shorter time", from, until, maxBackfill)
		}
	}
	for _, nominal := range ticks {
		w := waiting{ID: s.extra(nominal, KindBackfill), Nominal: nominal, Kind: KindBackfill}
		if len(s.Waiting) >= maxWaiting || !s.fits(w.bytes()) {
			return 0, s.full(len(ticks))
		}
		s.wait(w)
	}
	s.startWaiting()
	s.arm()
	return len(ticks), nil
}

func (s *step) full(n int) error {
	return rpc.ResourceExhausted.Errorf("schedule %s: buffer full: %d ticks wait for the run before, and there is no room for %d more: at most %d may wait, "+
		"fewer when their payloads are large", s.Spec.Name, len(s.Waiting), n, maxWaiting)
}
