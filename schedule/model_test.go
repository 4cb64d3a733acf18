package schedule

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/schedule/internal/calendar"
)

const testRoom = 1 << 19

// model drives a record with a clock of its own, and keeps its own books of what
// became of every tick of the calendar.
type model struct {
	t      *testing.T
	rng    *rand.Rand
	now    time.Time
	r      *record
	cal    calendar.Calendar
	cursor time.Time // up to which the books have the calendar's ticks
	ticks  []time.Time
	fired  map[string]int // by id
	became map[time.Time]string
	trace  []string

	checked int // ticks that all have an outcome
}

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(m.trace[max(0, len(m.trace)-12):], "\n"))
}

func (m *model) spec() Spec {
	pick := func(all ...string) string { return all[m.rng.IntN(len(all))] }
	s := Spec{
		Name:    "model",
		Cron:    pick("@every 1s", "@every 1m", "*/10 * * * *", "30 2 * * *", "*/20 * 1-3 * * *", "0 */6 * * *"),
		Zone:    pick("UTC", "Europe/Berlin", "Australia/Lord_Howe"),
		Gap:     pick(GapRunAfter, GapSkip),
		Repeat:  pick(RepeatOnce, RepeatTwice),
		Overlap: pick(OverlapSkip, OverlapBufferOne, OverlapBufferAll, OverlapAllow, OverlapCancel),
		Catchup: pick(CatchupLatest, CatchupAll, CatchupNone),

		CatchupWindow:  Duration(time.Duration(1+m.rng.IntN(7200)) * time.Second),
		RunTimeout:     Duration(time.Duration(1+m.rng.IntN(7200)) * time.Second),
		PauseOnFailure: m.rng.IntN(3) == 0,
	}
	if m.rng.IntN(3) == 0 {
		s.Jitter = Duration(m.rng.Int64N(int64(5 * time.Minute)))
	}
	if m.rng.IntN(4) == 0 {
		s.Runs = 1 + m.rng.IntN(40)
	}
	if m.rng.IntN(5) == 0 {
		s.Event = "Clock.struck"
	}
	return s.withDefaults()
}

func (m *model) step() *step {
	s, err := newStep(m.r, m.now, testRoom)
	if err != nil {
		m.fatalf("%v", err)
	}
	return s
}

// tick takes the ticks that are armed, if some are due.
func (m *model) tick() {
	for n := 0; !m.r.Wake.IsZero() && !m.r.Wake.After(m.now); n++ {
		if n == 5000 {
			m.fatalf("it wakes all the time: %+v", m.r)
		}
		m.step().advance()
		m.settle()
	}
	if n := m.r.Next; !n.IsZero() && m.step().isDue(n) {
		m.fatalf("the tick of %v is due and not decided on; it wakes at %v", n, m.r.Wake)
	}
}

// settle takes in what a step has decided, as whoever saves the record does.
func (m *model) settle() {
	r := m.r
	if len(r.Pending) > maxPending+1 || len(r.History) > maxHistory || len(r.Waiting) > maxWaiting || len(r.Running) > maxWaiting {
		m.fatalf("%d pending, %d in the history, %d waiting, %d running", len(r.Pending), len(r.History), len(r.Waiting), len(r.Running))
	}
	for _, p := range r.Pending {
		if m.fired[p.ID]++; m.fired[p.ID] > 1 {
			m.fatalf("%s fires twice", p.ID)
		}
		if p.Kind == "" {
			m.note(p.Nominal, string(Fired))
		}
	}
	r.Pending = nil
	for next, ok := m.cal.Next(m.cursor); ok && !next.Nominal.After(r.Decided); next, ok = m.cal.Next(m.cursor) {
		m.ticks = append(m.ticks, next.Nominal)
		m.cursor = next.Nominal
	}
	for _, o := range r.noted {
		if o.State != Skipped || o.Kind != "" || o.Reason == ReasonDST {
			continue
		}
		i, found := slices.BinarySearchFunc(m.ticks, o.Nominal, time.Time.Compare)
		if !found {
			m.fatalf("%v was skipped, which is no tick of the calendar", o.Nominal)
		}
		for n := range max(o.Count, 1) {
			m.note(m.ticks[i-n], o.Reason)
		}
	}
	data, err := encode(r)
	if err != nil {
		m.fatalf("%v", err)
	}
	m.r = &record{}
	if err := json.Unmarshal(data, m.r); err != nil {
		m.fatalf("%v", err)
	}
}

func (m *model) note(nominal time.Time, what string) {
	if before := m.became[nominal]; before != "" {
		m.fatalf("the tick of %v: %s, and before %s", nominal, what, before)
	}
	m.became[nominal] = what
}

func (m *model) act() {
	r := m.r
	var what string
	switch m.rng.IntN(12) {
	case 0, 1, 2, 3:
		d := time.Duration(m.rng.Int64N(int64(15 * time.Minute)))
		switch m.rng.IntN(8) {
		case 0:
			d = time.Duration(m.rng.Int64N(int64(40 * time.Hour)))
			if r.Spec.Cron == "@every 1s" {
				d /= 20
			}
		case 1, 2, 3:
			d = time.Duration(m.rng.Int64N(int64(3 * time.Second)))
		}
		m.now = m.now.Add(d)
		what = "time passes"
	case 4, 5, 6:
		m.trace = append(m.trace, fmt.Sprint(m.now, " tick"))
		m.tick()
		return
	case 7, 8:
		if len(r.Running) == 0 {
			return
		}
		run := r.Running[m.rng.IntN(len(r.Running))]
		failure := ""
		if m.rng.IntN(4) == 0 {
			failure = "no paper"
		}
		what = "report " + failure
		if s := m.step(); s.report(run.ID, failure) {
			s.advance()
		}
		if s := m.step(); s.report(run.ID, failure) {
			m.fatalf("the report of %s is taken twice", run.ID)
		}
	case 9:
		what = "pause, or resume"
		if r.Paused == nil {
			m.step().pause("model")
		} else {
			m.step().resume()
		}
	case 10:
		what = "trigger"
		before, err := encode(r)
		if err != nil {
			m.fatalf("%v", err)
		}
		if err := m.step().trigger(nil); err != nil { // nothing is saved then
			if rpc.CodeOf(err) != rpc.ResourceExhausted {
				m.fatalf("%v", err)
			}
			m.r = &record{}
			if err := json.Unmarshal(before, m.r); err != nil {
				m.fatalf("%v", err)
			}
		}
	case 11:
		spec := m.spec()
		if m.rng.IntN(2) == 0 { // only what happens then
			spec.Cron, spec.Zone, spec.Gap, spec.Repeat = r.Spec.Cron, r.Spec.Zone, r.Spec.Gap, r.Spec.Repeat
		}
		what = fmt.Sprintf("redefine %+v", spec)
		was, over := m.cal, r.Next.IsZero()
		if err := redefine(r, spec, m.now, testRoom); err != nil {
			m.fatalf("%v", err)
		}
		m.settle()
		if m.cal = m.step().cal; (over || m.cal.String() != was.String()) && m.now.After(m.cursor) {
			m.cursor = m.now
		}
		if r = m.r; m.cal.String() == was.String() && m.cursor.Before(r.Decided) {
			m.fatalf("decided %v, of which the books know nothing after %v", r.Decided, m.cursor)
		}
	}
	m.trace = append(m.trace, fmt.Sprint(m.now, " ", what))
	m.settle()
}

// check compares the books.
func (m *model) check() {
	r := m.r
	waits := map[time.Time]bool{}
	for _, w := range r.Waiting {
		waits[w.Nominal] = true
	}
	for _, nominal := range m.ticks[m.checked:] {
		if what := m.became[nominal]; (what == "") != waits[nominal] {
			m.fatalf("the tick of %v: %q, waiting %v", nominal, what, waits[nominal])
		}
	}
	if len(waits) == 0 {
		m.checked = len(m.ticks)
	}
	if len(m.became)+len(waits) < len(m.ticks) {
		m.fatalf("%d ticks, of which %d have an outcome and %d wait", len(m.ticks), len(m.became), len(waits))
	}
	if fired := uint64(len(m.fired)); r.Counts.Fired != fired {
		m.fatalf("%d have fired, the counter says %d", fired, r.Counts.Fired)
	}
	if next, ok := m.cal.Next(m.cursor); !r.Next.IsZero() && (!ok || !next.Nominal.Equal(r.Next)) {
		m.fatalf("the next tick is %v, the calendar has %v", r.Next, next)
	}
}

// Whatever happens, each tick of the calendar has fired once, is skipped for a
// reason, or waits.
func TestEachTickOnce(t *testing.T) {
	t.Parallel()
	reasons := map[string]int{}
	seeds := uint64(16)
	if *long {
		seeds = 2000
	}
	for seed := range seeds {
		m := &model{
			t: t, rng: rand.New(rand.NewPCG(seed, 5)), fired: map[string]int{}, became: map[time.Time]string{},
			now:   time.Date(2026, 3, 28, 0, 0, 0, 0, time.UTC),
			trace: []string{fmt.Sprint("seed ", seed)},
		}
		if seed%2 == 0 {
			m.now = time.Date(2026, 10, 24, 0, 0, 0, 0, time.UTC)
		}
		m.now = m.now.Add(time.Duration(m.rng.Int64N(int64(20 * time.Hour))))
		r, err := create(m.spec(), m.now, testRoom)
		if err != nil {
			t.Fatal(err)
		}
		m.r, m.cursor = r, m.now
		m.cal = m.step().cal
		for range 120 {
			m.act()
			m.check()
		}
		m.tick()
		m.check()
		for _, what := range m.became {
			reasons[what]++
		}
	}
	t.Log(reasons)
	for _, what := range []string{string(Fired), ReasonOverlap, ReasonCatchup, ReasonWindow, ReasonPaused, ReasonFull, ReasonReplace} {
		if reasons[what] == 0 {
			t.Errorf("no tick was %s", what)
		}
	}
}
