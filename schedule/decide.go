package schedule

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"rpc.do/schedule/internal/calendar"
)

const (
	// onTime is how late a tick may be before it counts as missed.
	onTime = 5 * time.Second

	// maxDue is how many ticks are looked at in one step; more are in the next.
	maxDue = 100_000

	// maxWaiting bounds the ticks that wait for the run before.
	maxWaiting = 1000

	// maxListed bounds the omissions because of clock changes that are listed one by
	// one in a step.
	maxListed = 20
)

// step is one decision about a schedule: all of it is in the record before
// anything happens. It knows no clock but now, and does no I/O.
type step struct {
	*record
	cal calendar.Calendar
	now time.Time
}

// advance decides on all ticks that are due, and on runs that take too long.
func (s *step) advance() {
	s.expire()
	s.due()
	s.startWaiting()
	s.arm()
}

// first sets the first tick of a definition, after what has been decided before.
func (s *step) first(after time.Time) {
	from := after
	if start := s.Spec.Start; !start.IsZero() && start.After(from) {
		from = start.Add(-time.Nanosecond)
	}
	s.Next = s.following(from)
}

// following returns the next nominal time after one, zero for none.
func (s *step) following(after time.Time) time.Time {
	if s.Spec.Runs > 0 && s.Left <= 0 {
		return time.Time{}
	}
	tick, ok := s.cal.Next(after)
	if !ok || !s.Spec.End.IsZero() && tick.Nominal.After(s.Spec.End) {
		return time.Time{}
	}
	return tick.Nominal
}

// fireAt is when a tick fires: its nominal time and its own part of the jitter.
func (s *step) fireAt(nominal time.Time) time.Time {
	if s.Spec.Jitter == 0 {
		return nominal
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s@%d", s.Spec.Name, nominal.UnixNano())
	return nominal.Add(time.Duration(h.Sum64() % uint64(s.Spec.Jitter+1)))
}

// run of ticks that are skipped for one reason.
type skipped struct {
	reason string
	last   time.Time
	n      int
}

func (s *step) flush(k *skipped) {
	if k.n == 0 {
		return
	}
	o := Outcome{Nominal: k.last, At: s.now, State: Skipped, Reason: k.reason}
	if k.n > 1 {
		o.Count = k.n
	}
	s.note(o)
	*k = skipped{}
}

// due decides on the ticks whose time has come.
func (s *step) due() {
	var left skipped
	skip := func(nominal time.Time, reason string) {
		if left.reason != reason {
			s.flush(&left)
		}
		left = skipped{reason, nominal, left.n + 1}
	}
	for n := 0; n < maxDue && !s.Next.IsZero() && !s.fireAt(s.Next).After(s.now); n++ {
		nominal := s.Next
		next := s.following(nominal)
		if reason := s.refuse(nominal, next); reason != "" {
			skip(nominal, reason)
		} else {
			s.flush(&left)
			s.fire(waiting{ID: s.id(nominal), Nominal: nominal})
			if s.Spec.Runs > 0 {
				s.Left--
			}
			next = s.following(nominal)
		}
		s.Next = next
		s.omitted(nominal, next, &left)
	}
	s.flush(&left)
}

// refuse says why a tick that is due is skipped, nothing when it is not. Next is
// the one after it.
func (s *step) refuse(nominal, next time.Time) string {
	late := s.now.Sub(s.fireAt(nominal))
	switch {
	case s.Paused != nil:
		return ReasonPaused
	case late > time.Duration(s.Spec.CatchupWindow):
		return ReasonWindow
	case s.Spec.Catchup == CatchupNone && late > onTime:
		return ReasonCatchup
	case s.Spec.Catchup == CatchupLatest && !next.IsZero() && !s.fireAt(next).After(s.now):
		return ReasonCatchup
	}
	return ""
}

// omitted lists what does not tick between two ticks because clocks change.
func (s *step) omitted(after, until time.Time, left *skipped) {
	if until.IsZero() || until.Sub(after) < time.Minute {
		return
	}
	n := 0
	for o := range s.cal.Skipped(after, until) {
		if n++; n > maxListed {
			return
		}
		s.flush(left)
		s.note(Outcome{Nominal: o.Nominal, At: s.now, State: Skipped, Reason: ReasonDST})
	}
}

// id is the identity of a tick.
func (s *step) id(nominal time.Time) string {
	return s.Spec.Name + "@" + nominal.UTC().Format(time.RFC3339Nano)
}

// extra is the identity of a tick that is not the calendar's.
func (s *step) extra(nominal time.Time, kind Kind) string {
	s.Serial++
	return s.id(nominal) + "/" + string(kind) + "-" + strconv.FormatUint(s.Serial, 10)
}

// fire has a tick fire, unless the run before is in its way.
func (s *step) fire(w waiting) {
	if !s.Spec.tracked() || len(s.Running) == 0 {
		s.emit(w, nil)
		return
	}
	skip := func(reason string) {
		s.note(Outcome{ID: w.ID, Nominal: w.Nominal, At: s.now, State: Skipped, Reason: reason, Kind: w.Kind})
	}
	switch s.Spec.Overlap {
	case OverlapAllow:
		if len(s.Running) >= maxWaiting {
			skip(ReasonFull)
			return
		}
		s.emit(w, nil)
	case OverlapCancel:
		var ids []string
		for _, r := range s.Running {
			ids = append(ids, r.ID)
			s.end(r, Failed, "cancelled by the next tick")
		}
		s.Running = nil
		s.emit(w, ids)
	case OverlapBufferOne:
		if len(s.Waiting) >= 1 {
			skip(ReasonFull)
			return
		}
		s.Waiting = append(s.Waiting, w)
	case OverlapBufferAll:
		if len(s.Waiting) >= maxWaiting {
			skip(ReasonFull)
			return
		}
		s.Waiting = append(s.Waiting, w)
	default:
		skip(ReasonOverlap)
	}
}

// Event is the data of the event that a tick of a schedule with a handler sends.
type Event struct {
	// Schedule is its name, and ID that of the event: the same when the tick comes
	// again.
	Schedule string `json:"schedule"`
	ID       string `json:"id"`
	// Nominal is when the calendar has it, and Fired when it was decided that it
	// fires.
	Nominal time.Time `json:"nominal"`
	Fired   time.Time `json:"fired"`
	Kind    Kind      `json:"kind,omitempty"`
	// Previous is the run before that has ended last.
	Previous *Run            `json:"previous,omitempty"`
	Until    time.Time       `json:"until"`
	Payload  json.RawMessage `json:"payload,omitempty"`
}

// emit has the event of a tick sent.
func (s *step) emit(w waiting, cancel []string) {
	payload := s.Spec.Payload
	if w.Payload != nil {
		payload = w.Payload
	}
	e := emission{ID: w.ID, Event: s.Spec.event(), Time: s.now, Cancel: cancel}
	if s.Spec.tracked() {
		until := s.now.Add(time.Duration(s.Spec.RunTimeout))
		// It holds nothing that JSON can't write: the payload was checked.
		e.Data, _ = json.Marshal(Event{
			Schedule: s.Spec.Name, ID: w.ID, Nominal: w.Nominal, Fired: s.now, Kind: w.Kind, Previous: s.Last, Until: until, Payload: payload,
		})
		s.Running = append(s.Running, Run{ID: w.ID, Nominal: w.Nominal, Fired: s.now, Until: until})
	} else {
		e.Data = payload
		if len(payload) == 0 {
			e.Data = json.RawMessage("null")
		}
	}
	s.Pending = append(s.Pending, e)
	s.note(Outcome{ID: w.ID, Nominal: w.Nominal, At: s.now, State: Fired, Kind: w.Kind})
}

// end notes how a run has ended.
func (s *step) end(r Run, state State, reason string) {
	r.Ended, r.State, r.Until = s.now, state, time.Time{}
	s.Last = &r
	s.note(Outcome{ID: r.ID, Nominal: r.Nominal, At: s.now, State: state, Reason: reason})
	if state == Failed && s.Spec.PauseOnFailure && s.Paused == nil {
		s.Paused = &Pause{Note: "a run failed: " + reason, Since: s.now}
	}
}

// expire ends the runs of which nothing was heard in time.
func (s *step) expire() {
	var late []Run
	s.Running = slices.DeleteFunc(s.Running, func(r Run) bool {
		over := !s.now.Before(r.Until)
		if over {
			late = append(late, r)
		}
		return over
	})
	for _, r := range late {
		s.end(r, Failed, ReasonTimeout)
	}
}

// report takes in how a run has ended; it reports false for one that is not known
// to run.
func (s *step) report(id string, failure string) bool {
	i := slices.IndexFunc(s.Running, func(r Run) bool { return r.ID == id })
	if i < 0 {
		return false
	}
	r := s.Running[i]
	s.Running = slices.Delete(s.Running, i, i+1)
	if failure == "" {
		s.end(r, Finished, "")
	} else {
		s.end(r, Failed, failure)
	}
	return true
}

// startWaiting has the tick fire that has waited longest, once nothing runs.
func (s *step) startWaiting() {
	if len(s.Waiting) == 0 || len(s.Running) > 0 || s.Paused != nil {
		return
	}
	w := s.Waiting[0]
	s.Waiting = slices.Delete(s.Waiting, 0, 1)
	s.emit(w, nil)
}

// arm says when the schedule is to be looked at again.
func (s *step) arm() {
	wake := time.Time{}
	earlier := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	if !s.Next.IsZero() {
		earlier(s.fireAt(s.Next))
	}
	for _, r := range s.Running {
		earlier(r.Until)
	}
	if !wake.Equal(s.Wake) {
		s.Wake = wake
		s.Arm++
	}
}
