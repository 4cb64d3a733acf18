package schedule

import (
	"errors"
	"fmt"
	"time"

	"rpc.do"
)

// create makes the record of a new schedule.
func create(spec Spec, now time.Time, room int) (*record, error) {
	// What is on its way of a schedule that was deleted is not this one's.
	r := &record{Spec: spec, Created: now, Left: spec.Runs, Arm: uint64(now.UnixMicro()), Serial: uint64(now.UnixMilli())}
	if spec.Paused != "" {
		r.Paused = &Pause{Note: spec.Paused, Since: now}
	}
	s, err := newStep(r, now, room)
	if err != nil {
		return nil, err
	}
	s.first(now)
	if s.Next.IsZero() {
		return nil, never(&spec)
	}
	s.arm()
	return r, nil
}

// redefine gives a schedule another definition. Its history, its counts and
// whether it is paused stay; what waited for the run before is skipped. When the
// times stay the same, ticks that are late are the new definition's; else they are
// skipped.
func redefine(r *record, spec Spec, now time.Time, room int) error {
	for _, w := range r.Waiting {
		r.note(Outcome{ID: w.ID, Nominal: w.Nominal, At: now, State: Skipped, Reason: ReasonReplace, Kind: w.Kind})
	}
	r.Waiting = nil
	before := r.Spec
	cal, err := spec.calendar(r.Created)
	if err != nil {
		return err
	}
	same := false
	if old, err := newStep(r, now, room); err == nil {
		same = old.cal.String() == cal.String() && before.Start.Equal(spec.Start)
		if !same {
			old.drop(ReasonReplace)
		}
	}
	r.Spec = spec
	if before.Runs != spec.Runs {
		r.Left = spec.Runs
	}
	s, err := newStep(r, now, room)
	if err != nil {
		return err
	}
	if same && !r.Next.IsZero() {
		r.Next = s.following(r.Next.Add(-time.Nanosecond))
	} else {
		s.first(now)
	}
	ended := spec.Runs > 0 && r.Left <= 0 || same && before.End.Equal(spec.End)
	if r.Next.IsZero() && !ended {
		return never(&spec)
	}
	r.Wake = time.Time{} // so that what was armed before is known to be old
	r.Arm++
	s.arm()
	return nil
}

// maxDropped is how many ticks of a definition that is replaced are counted.
const maxDropped = 5_000_000

// drop lists the ticks whose nominal time has come as skipped.
func (s *step) drop(reason string) {
	var left skipped
	for n := 0; n < maxDropped && !s.Next.IsZero() && !s.Next.After(s.now); n++ {
		s.skip(&left, s.Next, reason)
		s.Next, s.Decided = s.following(s.Next), s.Next
	}
	s.flush(&left)
}

// errNever is the error of a definition that has no tick any more.
var errNever = errors.New("it would never tick")

func never(spec *Spec) error {
	why := fmt.Errorf("%w from now until its end %v", errNever, spec.End)
	switch {
	case !spec.At.IsZero():
		why = fmt.Errorf("%w: its time %v has passed, or is not between its start and its end", errNever, spec.At)
	case spec.End.IsZero():
		why = fmt.Errorf("%w before the year 2100, where schedules end", errNever)
	}
	return rpc.InvalidArgument.Errorf("schedule %.80q: %w", spec.Name, why)
}
