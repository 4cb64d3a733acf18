package schedule

import (
	"context"
	"time"

	"rpc.do"
	"rpc.do/schedule/internal/calendar"
)

// Coming is a tick of a calendar, as Next lists it.
type Coming struct {
	// Nominal is when the calendar has it, Fires when it fires, with jitter.
	Nominal time.Time `json:"nominal"`
	Fires   time.Time `json:"fires"`
	// Wall is what the clock in the schedule's zone shows, and Note what is unusual
	// about it.
	Wall string `json:"wall"`
	Note string `json:"note,omitempty"`
}

// maxComing bounds what Next lists.
const maxComing = 1000

// Next returns the next n ticks of a schedule, as if it were not paused.
func (s *Schedules) Next(ctx context.Context, name string, n int) ([]Coming, error) {
	r, err := s.read(ctx, name)
	if err != nil {
		return nil, err
	}
	st, err := s.engine.step(r)
	if err != nil {
		return nil, err
	}
	return st.coming(n, r.Next)
}

// Preview returns the first n ticks that a definition would have from now on.
// Nothing is stored.
func Preview(spec Spec, n int) ([]Coming, error) {
	if spec.Name == "" {
		spec.Name = "preview"
	}
	spec = spec.withDefaults()
	now := time.Now().UTC()
	cal, err := spec.check(now)
	if err != nil {
		return nil, err
	}
	st := &step{record: &record{Spec: spec, Created: now, Left: spec.Runs}, cal: cal, now: now}
	st.first(now)
	return st.coming(n, st.Next)
}

func (s *step) coming(n int, from time.Time) ([]Coming, error) {
	if n < 1 || n > maxComing {
		return nil, rpc.InvalidArgument.Errorf("%d ticks: want 1 to %d", n, maxComing)
	}
	list := []Coming{}
	if from.IsZero() {
		return list, nil
	}
	var tick calendar.Tick
	ok := true
	for after := from.Add(-time.Nanosecond); len(list) < n; after = tick.Nominal {
		if tick, ok = s.cal.Next(after); !ok || !s.Spec.End.IsZero() && tick.Nominal.After(s.Spec.End) ||
			s.Spec.Runs > 0 && len(list) >= s.Left {
			break
		}
		list = append(list, Coming{Nominal: tick.Nominal, Fires: s.fireAt(tick.Nominal), Wall: tick.Wall, Note: string(tick.Note)})
	}
	return list, nil
}
