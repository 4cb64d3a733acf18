package schedule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"rpc.do"
	"rpc.do/bus"
)

// Schedules manages the schedules of a bus. Its methods may be called by many
// goroutines at once. It takes no ticks: that do the services that have
// schedules, and those that call Serve.
type Schedules struct {
	engine *engine

	mu     sync.Mutex
	opened time.Time
}

// Info is what there is to know of a schedule.
type Info struct {
	Spec    Spec      `json:"spec"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	// Next is the nominal time of the next tick, zero when there is none.
	Next   time.Time `json:"next,omitzero"`
	Paused *Pause    `json:"paused,omitempty"`
	// Left is how many more times it fires, when Spec.Runs bounds that.
	Left    int   `json:"left,omitempty"`
	Running []Run `json:"running,omitempty"`
	// Waiting counts the ticks that wait for the run before them.
	Waiting int    `json:"waiting,omitempty"`
	Last    *Run   `json:"last,omitempty"`
	Counts  Counts `json:"counts"`
}

func infoOf(r *record) Info {
	return Info{
		Spec: r.Spec, Created: r.Created, Updated: r.Updated, Next: r.Next, Paused: r.Paused, Left: r.Left,
		Running: r.Running, Waiting: len(r.Waiting), Last: r.Last, Counts: r.Counts,
	}
}

// Open returns the schedules of a bus. It does nothing yet.
func Open(b *bus.Bus) *Schedules {
	return &Schedules{engine: newEngine(b, *b.Logger())}
}

// defaultTimeout is the time of a call whose context has no deadline.
const defaultTimeout = 10 * time.Second

// ready makes the bucket, asks what time it is there, and bounds ctx.
func (s *Schedules) ready(ctx context.Context) (context.Context, context.CancelFunc, error) {
	cancel := func() {}
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
	}
	s.mu.Lock()
	fresh := time.Since(s.opened) < 10*time.Minute
	s.mu.Unlock()
	if !fresh {
		if _, err := s.engine.store.open(ctx); err != nil {
			cancel()
			return nil, nil, err
		}
		s.mu.Lock()
		s.opened = time.Now()
		s.mu.Unlock()
	}
	if s.engine.clock.old() {
		if err := s.engine.clock.look(ctx, s.engine.store.js); err != nil {
			cancel()
			return nil, nil, err
		}
	}
	return ctx, cancel, nil
}

// Create makes a schedule. Made again with the same definition it is as it was;
// with another, Create fails with AlreadyExists, unless replace says to change
// it, see Update.
func (s *Schedules) Create(ctx context.Context, spec Spec, replace bool) (Info, error) {
	spec = spec.withDefaults()
	now := s.engine.now().UTC()
	if _, err := spec.check(now); err != nil {
		return Info{}, err
	}
	if err := s.engine.checkPayload(spec.Name, spec.Payload); err != nil {
		return Info{}, err
	}
	ctx, cancel, err := s.ready(ctx)
	if err != nil {
		return Info{}, err
	}
	defer cancel()
	r, err := s.engine.change(ctx, spec.Name, func(r *record) (*record, error) {
		switch {
		case r == nil:
			return create(spec, s.engine.now().UTC(), s.engine.room())
		case sameSpec(&r.Spec, &spec):
			return nil, nil
		case !replace:
			return nil, rpc.AlreadyExists.Errorf("there is a schedule %s with another definition: change it, or say that this one replaces it", spec.Name)
		}
		return r, redefine(r, spec, s.engine.now().UTC(), s.engine.room())
	})
	if err != nil {
		return Info{}, err
	}
	return infoOf(r), nil
}

func sameSpec(a, b *Spec) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

// Update changes the definition of a schedule: ticks of the old one that have not
// fired do not fire any more. The name can't be changed.
func (s *Schedules) Update(ctx context.Context, name string, change func(*Spec)) (Info, error) {
	return s.edit(ctx, name, func(r *record) (*record, error) {
		spec := r.Spec
		change(&spec)
		if spec.Name != name {
			return nil, rpc.InvalidArgument.Errorf("the schedule %s can't be renamed to %.80q: make a new one", name, spec.Name)
		}
		spec = spec.withDefaults()
		if _, err := spec.check(r.Created); err != nil {
			return nil, err
		}
		if err := s.engine.checkPayload(name, spec.Payload); err != nil {
			return nil, err
		}
		if sameSpec(&spec, &r.Spec) {
			return nil, nil
		}
		return r, redefine(r, spec, s.engine.now().UTC(), s.engine.room())
	})
}

// edit changes a schedule that is there.
func (s *Schedules) edit(ctx context.Context, name string, do func(*record) (*record, error)) (Info, error) {
	if err := validName(name); err != nil {
		return Info{}, err
	}
	ctx, cancel, err := s.ready(ctx)
	if err != nil {
		return Info{}, err
	}
	defer cancel()
	r, err := s.engine.change(ctx, name, func(r *record) (*record, error) {
		if r == nil {
			return nil, noSchedule(name)
		}
		return do(r)
	})
	if err != nil {
		return Info{}, err
	}
	return infoOf(r), nil
}

func noSchedule(name string) error {
	return rpc.NotFound.Errorf("there is no schedule %s", name)
}

// Pause has the ticks of a schedule skipped until Resume; the note says why. What
// runs goes on.
func (s *Schedules) Pause(ctx context.Context, name, note string) (Info, error) {
	if len(note) > maxNote {
		return Info{}, rpc.InvalidArgument.Errorf("the note has %d bytes, at most 1,000 are allowed", len(note))
	}
	return s.edit(ctx, name, func(r *record) (*record, error) {
		if r.Paused != nil && r.Paused.Note == note {
			return nil, nil
		}
		st, err := s.engine.step(r)
		if err != nil {
			return nil, err
		}
		st.pause(note)
		return r, nil
	})
}

// Resume ends a pause. Ticks that came in it stay skipped.
func (s *Schedules) Resume(ctx context.Context, name string) (Info, error) {
	return s.edit(ctx, name, func(r *record) (*record, error) {
		if r.Paused == nil {
			return nil, nil
		}
		st, err := s.engine.step(r)
		if err != nil {
			return nil, err
		}
		st.resume()
		return r, nil
	})
}

// Trigger has a schedule fire now, apart from its calendar, also when it is
// paused. The payload, when it is not nil, takes the place of the schedule's. The
// overlap policy holds: by "skip" the trigger is skipped while a run goes on. When
// no more can wait it is a ResourceExhausted, and nothing has changed.
func (s *Schedules) Trigger(ctx context.Context, name string, payload json.RawMessage) (Info, error) {
	if err := s.engine.checkPayload(name, payload); err != nil {
		return Info{}, err
	}
	if payload != nil && !json.Valid(payload) {
		return Info{}, rpc.InvalidArgument.Errorf("schedule %.80q: the payload is not JSON", name)
	}
	return s.edit(ctx, name, func(r *record) (*record, error) {
		st, err := s.engine.step(r)
		if err != nil {
			return nil, err
		}
		return r, st.trigger(payload)
	})
}

// Backfill has the ticks fire that the calendar has from one time to another, both
// included, whether they have fired before or not, and returns how many there
// are. They come one after the other if the runs of the schedule may not overlap,
// and wait while it is paused. More than 1,000 are refused; when there is no room
// for them because others wait it is a ResourceExhausted.
func (s *Schedules) Backfill(ctx context.Context, name string, from, until time.Time) (n int, err error) {
	if !from.Before(until) && !from.Equal(until) {
		return 0, rpc.InvalidArgument.Errorf("the end %v of what is to be filled in is before its start %v", until, from)
	}
	_, err = s.edit(ctx, name, func(r *record) (*record, error) {
		st, err := s.engine.step(r)
		if err != nil {
			return nil, err
		}
		if n, err = st.backfill(from, until); n == 0 {
			return nil, err
		}
		return r, nil
	})
	return n, err
}

// Delete deletes a schedule. When it returns nil no tick fires any more that has
// not fired yet, and no run begins, but what has begun goes on.
func (s *Schedules) Delete(ctx context.Context, name string) error {
	if err := validName(name); err != nil {
		return err
	}
	ctx, cancel, err := s.ready(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	for {
		r, rev, err := s.engine.store.load(ctx, name)
		if err != nil {
			return err
		}
		if r == nil {
			return noSchedule(name)
		}
		if err := s.engine.perform(ctx, r); err != nil {
			return err
		}
		if err := s.engine.store.remove(ctx, name, rev); !errors.Is(err, errChanged) {
			return err
		}
	}
}

// Get returns a schedule, or a NotFound.
func (s *Schedules) Get(ctx context.Context, name string) (Info, error) {
	r, err := s.read(ctx, name)
	if err != nil {
		return Info{}, err
	}
	return infoOf(r), nil
}

// History returns what became of the last ticks of a schedule, at most 100, the
// newest first.
func (s *Schedules) History(ctx context.Context, name string) ([]Outcome, error) {
	r, err := s.read(ctx, name)
	if err != nil {
		return nil, err
	}
	newest := make([]Outcome, 0, len(r.History))
	for i := len(r.History) - 1; i >= 0; i-- {
		newest = append(newest, r.History[i])
	}
	return newest, nil
}

func (s *Schedules) read(ctx context.Context, name string) (*record, error) {
	if err := validName(name); err != nil {
		return nil, err
	}
	ctx, cancel, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	r, _, err := s.engine.store.load(ctx, name)
	if err == nil && r == nil {
		err = noSchedule(name)
	}
	return r, err
}
