package schedule

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"rpc.do"
	"rpc.do/schedule/internal/calendar"
)

const (
	// onTime is how late a tick may be before it counts as missed.
	onTime = 5 * time.Second

	// maxDue is how many ticks are looked at in one step; more are in the next.
	maxDue = 100_000

	// maxWaiting bounds the ticks that wait for the run before, and the runs of a
	// schedule at the same time.
	maxWaiting = 1000

	// maxPending bounds the events of one step.
	maxPending = 100

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

	room int // see largestRecord
	size int // of the record when room was first asked for, and what was added
}

func newStep(r *record, now time.Time, room int) (*step, error) {
	cal, err := r.Spec.calendar(r.Created)
	if err != nil {
		return nil, rpc.FailedPrecondition.Errorf("the schedule %s: %w", r.Spec.Name, err)
	}
	return &step{record: r, cal: cal, now: now, room: room}, nil
}

// advance decides on all ticks that are due, and on runs that take too long.
func (s *step) advance() {
	s.expire()
	s.startWaiting() // before what is due now
	s.due()
	s.startWaiting()
	s.arm()
}

// first sets the first tick of a definition, after what has been decided before.
func (s *step) first(after time.Time) {
	if s.Decided.After(after) { // by a process whose clock is ahead
		after = s.Decided
	}
	if start := s.Spec.Start; start.After(after) {
		after = start.Add(-time.Nanosecond)
	}
	s.Next, s.Listed = s.following(after), after
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

// fireAt is when a tick fires: its nominal time and its own part of the jitter,
// which ends before the next tick.
func (s *step) fireAt(nominal time.Time) time.Time {
	if s.Spec.Jitter == 0 || nominal.IsZero() {
		return nominal
	}
	most := time.Duration(s.Spec.Jitter)
	if next, ok := s.cal.Next(nominal); ok {
		most = min(most, next.Nominal.Sub(nominal)-1)
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s@%d", s.Spec.Name, nominal.UnixNano())
	return nominal.Add(time.Duration(h.Sum64() % uint64(most+1)))
}

// isDue reports whether a tick is to be decided on.
func (s *step) isDue(nominal time.Time) bool {
	return !nominal.IsZero() && !s.fireAt(nominal).After(s.now)
}

// due decides on the ticks whose time has come, or on as many as one step may.
func (s *step) due() {
	var left skipped
	for n := 0; n < maxDue && !s.crowded() && s.isDue(s.Next); n++ {
		nominal := s.Next
		s.omit(nominal, &left)
		next := s.following(nominal)
		reason := s.refuse(nominal, next)
		if reason == "" {
			s.flush(&left)
			if reason = s.fire(waiting{ID: s.id(nominal), Nominal: nominal}); reason == "" && s.Spec.Runs > 0 {
				s.Left--
				next = s.following(nominal)
			}
		}
		if reason != "" {
			s.skip(&left, nominal, reason)
		}
		s.Next, s.Decided = next, nominal
	}
	if before := s.Next.Add(-time.Nanosecond); !s.Next.IsZero() && before.Before(s.now) {
		s.omit(before, &left)
	} else if !s.Next.IsZero() {
		s.omit(s.now, &left)
	}
	s.flush(&left)
}

// refuse says why a tick that is due is skipped, nothing when it is not. Next is
// the one after it.
func (s *step) refuse(nominal, next time.Time) string {
	at := s.fireAt(nominal)
	late := s.now.Sub(at)
	switch {
	case s.Paused != nil || !at.After(s.Resumed):
		return ReasonPaused
	case late > time.Duration(s.Spec.CatchupWindow):
		return ReasonWindow
	case s.Spec.Catchup == CatchupNone && late > onTime:
		return ReasonCatchup
	case s.Spec.Catchup == CatchupLatest && s.isDue(next):
		return ReasonCatchup
	}
	return ""
}

// omit lists what does not tick until then because clocks change.
func (s *step) omit(until time.Time, left *skipped) {
	if !until.After(s.Listed) {
		return
	}
	n := 0
	for o := range s.cal.Skipped(s.Listed, until) {
		if n++; n <= maxListed {
			s.flush(left)
		}
		s.skip(left, o.Nominal, ReasonDST)
	}
	s.Listed = until
}

// skipped are ticks in a row that are skipped for one reason.
type skipped struct {
	reason string
	last   time.Time
	n      int
}

// skip notes that a tick is skipped, with others that are for the same reason.
func (s *step) skip(left *skipped, nominal time.Time, reason string) {
	if left.reason != reason {
		s.flush(left)
	}
	*left = skipped{reason, nominal, left.n + 1}
}

func (s *step) flush(left *skipped) {
	if left.n == 0 {
		return
	}
	o := Outcome{Nominal: left.last, At: s.now, State: Skipped, Reason: left.reason}
	if left.n > 1 {
		o.Count = left.n
	} else if left.reason != ReasonDST { // others may have that time
		o.ID = s.id(left.last)
	}
	s.note(o)
	*left = skipped{}
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

// free reports whether a tick may fire beside what runs.
func (s *step) free() bool {
	return !s.Spec.tracked() || len(s.Running) == 0 || s.Spec.Overlap == OverlapAllow && len(s.Running) < maxWaiting && s.fits(runSize)
}

// fire has a tick fire, or wait for the run before. It returns why it does
// neither.
func (s *step) fire(w waiting) (reason string) {
	switch {
	case s.free() && !s.crowded():
		s.emit(w, nil)
		return ""
	case s.free() || s.Spec.Overlap == OverlapBufferAll || s.Spec.Overlap == OverlapBufferOne && len(s.Waiting) == 0:
		if len(s.Waiting) >= maxWaiting || !s.fits(w.bytes()) {
			return ReasonFull
		}
		s.wait(w)
		return ""
	case s.Spec.Overlap == OverlapBufferOne || s.Spec.Overlap == OverlapAllow:
		return ReasonFull
	case s.Spec.Overlap == OverlapCancel:
		var ids []string
		for _, r := range s.Running {
			ids = append(ids, r.ID)
			s.end(r, Failed, ReasonCancel)
		}
		s.Running = nil
		s.emit(w, ids)
		return ""
	}
	return ReasonOverlap
}

func (s *step) wait(w waiting) {
	s.Waiting = append(s.Waiting, w)
	s.size += w.bytes()
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
	e := emission{ID: w.ID, Event: s.Spec.event(), Time: s.now, Cancel: cancel, Nominal: w.Nominal, Kind: w.Kind}
	if s.Spec.tracked() {
		until := s.now.Add(time.Duration(s.Spec.RunTimeout))
		// It holds nothing that JSON can't write: the payload was checked.
		e.Data, _ = encode(Event{
			Schedule: s.Spec.Name, ID: w.ID, Nominal: w.Nominal, Fired: s.now, Kind: w.Kind, Previous: s.Last, Until: until, Payload: payload,
		})
		s.size += runSize
		s.Running = append(s.Running, Run{ID: w.ID, Nominal: w.Nominal, Fired: s.now, Kind: w.Kind, Until: until})
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
	s.note(Outcome{ID: r.ID, Nominal: r.Nominal, At: s.now, State: state, Reason: reason, Kind: r.Kind})
	if state == Failed && reason != ReasonCancel && s.Spec.PauseOnFailure && s.Paused == nil {
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

// startWaiting has the ticks fire that have waited longest, as far as what runs
// lets them. While the schedule is paused they go on waiting.
func (s *step) startWaiting() {
	n := 0
	for n < len(s.Waiting) && s.mayStart() {
		s.emit(s.Waiting[n], nil)
		n++
	}
	s.Waiting = slices.Delete(s.Waiting, 0, n)
}

func (s *step) mayStart() bool { return s.Paused == nil && s.free() && !s.crowded() }

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
		for o := range s.cal.Skipped(s.Listed, s.Next.Add(-time.Nanosecond)) {
			earlier(o.Nominal)
			break
		}
	}
	if len(s.Waiting) > 0 && s.Paused == nil && s.free() { // the step had too much to do
		earlier(s.now)
	}
	for _, r := range s.Running {
		earlier(r.Until)
	}
	if !wake.Equal(s.Wake) {
		s.Wake = wake
		s.Arm++
	}
}
