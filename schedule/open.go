package schedule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/schedule/internal/calendar"
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

// ready makes the bucket, and bounds ctx.
func (s *Schedules) ready(ctx context.Context) (context.Context, context.CancelFunc, error) {
	cancel := func() {}
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
	}
	s.mu.Lock()
	fresh := time.Since(s.opened) < 10*time.Minute
	s.mu.Unlock()
	if fresh {
		return ctx, cancel, nil
	}
	if _, err := s.engine.store.open(ctx); err != nil {
		cancel()
		return nil, nil, err
	}
	s.mu.Lock()
	s.opened = time.Now()
	s.mu.Unlock()
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
	ctx, cancel, err := s.ready(ctx)
	if err != nil {
		return Info{}, err
	}
	defer cancel()
	r, err := s.engine.change(ctx, spec.Name, func(r *record) (*record, error) {
		switch {
		case r == nil:
			return s.engine.create(spec)
		case sameSpec(&r.Spec, &spec):
			return nil, nil
		case !replace:
			return nil, rpc.AlreadyExists.Errorf("there is a schedule %s with another definition: change it, or say that this one replaces it", spec.Name)
		}
		return s.engine.redefine(r, spec)
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

func (e *engine) create(spec Spec) (*record, error) {
	now := e.now().UTC()
	r := &record{Spec: spec, Created: now, Left: spec.Runs}
	s, err := e.step(r)
	if err != nil {
		return nil, err
	}
	s.first(now)
	if !spec.At.IsZero() && s.Next.IsZero() { // it has passed
		return nil, rpc.InvalidArgument.Errorf("schedule %.80q: its time %v has passed", spec.Name, spec.At)
	}
	s.arm()
	return r, nil
}

// redefine gives a schedule another definition. Its history, its counts and
// whether it is paused stay; what waited for the run before is skipped.
func (e *engine) redefine(r *record, spec Spec) (*record, error) {
	now := e.now().UTC()
	for _, w := range r.Waiting {
		r.note(Outcome{ID: w.ID, Nominal: w.Nominal, At: now, State: Skipped, Reason: ReasonReplace, Kind: w.Kind})
	}
	r.Waiting = nil
	if r.Spec.Runs != spec.Runs {
		r.Left = spec.Runs
	}
	r.Spec = spec
	s, err := e.step(r)
	if err != nil {
		return nil, err
	}
	s.first(now)
	r.Wake = time.Time{} // so that what was armed before is known to be old
	r.Arm++
	s.arm()
	return r, nil
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
		if sameSpec(&spec, &r.Spec) {
			return nil, nil
		}
		return s.engine.redefine(r, spec)
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
	if len(note) > 1000 {
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
		st.advance() // what is due before it is paused
		r.Paused = &Pause{Note: note, Since: st.now}
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
		st.advance() // what is due while it is paused
		r.Paused = nil
		st.startWaiting()
		st.arm()
		return r, nil
	})
}

// Trigger has a schedule fire now, apart from its calendar, also when it is
// paused. The payload, when it is not nil, takes the place of the schedule's. The
// overlap policy holds.
func (s *Schedules) Trigger(ctx context.Context, name string, payload json.RawMessage) (Info, error) {
	if len(payload) > maxPayload || payload != nil && !json.Valid(payload) {
		return Info{}, rpc.InvalidArgument.Errorf("the payload must be JSON of at most %d bytes", maxPayload)
	}
	return s.edit(ctx, name, func(r *record) (*record, error) {
		st, err := s.engine.step(r)
		if err != nil {
			return nil, err
		}
		st.advance()
		st.fire(waiting{ID: st.extra(st.now, KindTrigger), Nominal: st.now, Kind: KindTrigger, Payload: payload})
		st.arm()
		return r, nil
	})
}

// maxBackfill bounds the ticks of one backfill.
const maxBackfill = 1000

// Backfill has the ticks fire that the calendar has from one time to another, both
// included, whether they have fired before or not, and returns how many there
// are. They come one after the other if the runs of the schedule may not overlap.
// More than 1,000 are refused.
func (s *Schedules) Backfill(ctx context.Context, name string, from, until time.Time) (n int, err error) {
	if !from.Before(until) && !from.Equal(until) {
		return 0, rpc.InvalidArgument.Errorf("the end %v of what is to be filled in is before its start %v", until, from)
	}
	_, err = s.edit(ctx, name, func(r *record) (*record, error) {
		st, err := s.engine.step(r)
		if err != nil {
			return nil, err
		}
		if until.After(st.now) {
			return nil, rpc.InvalidArgument.Errorf("what is to be filled in ends at %v, which is yet to come", until)
		}
		st.advance()
		var ticks []time.Time
		for t, ok := st.cal.Next(from.Add(-time.Nanosecond)); ok && !t.Nominal.After(until); t, ok = st.cal.Next(t.Nominal) {
			if ticks = append(ticks, t.Nominal); len(ticks)+len(r.Waiting) > maxBackfill {
				return nil, rpc.InvalidArgument.Errorf("from %v to %v there are more than %d ticks: fill in a shorter time", from, until, maxBackfill)
			}
		}
		if n = len(ticks); n == 0 {
			return nil, nil
		}
		for _, nominal := range ticks {
			w := waiting{ID: st.extra(nominal, KindBackfill), Nominal: nominal, Kind: KindBackfill}
			if !r.Spec.tracked() || r.Spec.Overlap == OverlapAllow {
				st.emit(w, nil)
			} else {
				r.Waiting = append(r.Waiting, w)
			}
		}
		st.startWaiting()
		st.arm()
		return r, nil
	})
	return n, err
}

// Delete deletes a schedule. When it returns nil no tick fires any more that has
// not fired yet; what runs goes on.
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

// Tick of a calendar, as Next lists it.
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

// List says which schedules are meant.
type List struct {
	// Prefix is what their names begin with.
	Prefix string
	// Handler is whose ticks they are, when it is set.
	Handler string
}

// List returns schedules by name.
func (s *Schedules) List(ctx context.Context, l List) ([]Info, error) {
	ctx, cancel, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	found := []Info{}
	err = s.engine.store.each(ctx, func(r *record) {
		if len(r.Spec.Name) >= len(l.Prefix) && r.Spec.Name[:len(l.Prefix)] == l.Prefix && (l.Handler == "" || l.Handler == r.Spec.Handler) {
			found = append(found, infoOf(r))
		}
	})
	return found, err
}

// each calls fn for every record, by name.
func (s *store) each(ctx context.Context, fn func(*record)) error {
	consumer, err := s.js.CreateConsumer(ctx, streamName, jetstream.ConsumerConfig{
		FilterSubject: prefix + "*", DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return coded(ctx, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.js.DeleteConsumer(ctx, streamName, consumer.CachedInfo().Name) // else it ends by itself
	}()
	all := map[string]*record{}
	left := consumer.CachedInfo().NumPending
	for left > 0 {
		batch, err := consumer.Fetch(500, jetstream.FetchMaxWait(requestTimeout))
		if err != nil {
			return coded(ctx, err)
		}
		got := 0
		for msg := range batch.Messages() {
			got++
			meta, err := msg.Metadata()
			if err != nil {
				return coded(ctx, err)
			}
			left = meta.NumPending
			r := &record{}
			if gone(msg.Headers()) || json.Unmarshal(msg.Data(), r) != nil {
				continue
			}
			all[r.Spec.Name] = r
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return coded(ctx, err)
		}
		if got == 0 {
			break
		}
	}
	for _, r := range byName(all) {
		fn(r)
	}
	return nil
}
