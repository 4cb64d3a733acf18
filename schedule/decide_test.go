package schedule

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rpc.do"
)

// trial is a schedule with a clock that the test sets.
type trial struct {
	*testing.T
	now time.Time
	r   *record
}

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(err)
	}
	return t.UTC()
}

func newTrial(t *testing.T, now string, change func(*Spec)) *trial {
	t.Helper()
	spec := Spec{Name: "trial", Cron: "@every 1m", Start: at("2026-01-01T00:00:00Z")}
	change(&spec)
	spec = spec.withDefaults()
	if _, err := spec.check(at(now)); err != nil {
		t.Fatal(err)
	}
	r, err := create(spec, at(now), testRoom)
	if err != nil {
		t.Fatal(err)
	}
	return &trial{t, at(now), r}
}

func (x *trial) step() *step {
	x.Helper()
	s, err := newStep(x.r, x.now, testRoom)
	if err != nil {
		x.Fatal(err)
	}
	return s
}

// at sets the clock and takes what is due. It returns what was sent.
func (x *trial) at(now string) (sent []string) {
	x.Helper()
	x.now = at(now)
	return x.take(func(s *step) { s.advance() })
}

func (x *trial) take(do func(*step)) (sent []string) {
	x.Helper()
	do(x.step())
	for _, p := range x.r.Pending {
		id := strings.TrimPrefix(p.ID, "trial@")
		if len(p.Cancel) > 0 {
			id += " cancels " + strings.TrimPrefix(strings.Join(p.Cancel, ","), "trial@")
		}
		sent = append(sent, id)
	}
	x.r.Pending = nil
	return sent
}

func (x *trial) report(id, failure string) (sent []string) {
	x.Helper()
	return x.take(func(s *step) {
		if !s.report("trial@"+id, failure) {
			x.Errorf("%s does not run", id)
		}
		s.advance()
	})
}

func (x *trial) want(got []string, want ...string) {
	x.Helper()
	if !slices.Equal(got, want) {
		x.Errorf("sent %q, want %q", got, want)
	}
}

// skips is what was skipped, by reason.
func (x *trial) skips(want string) {
	x.Helper()
	text, err := json.Marshal(x.r.Counts.Skipped)
	if err != nil {
		x.Fatal(err)
	}
	if string(text) != want {
		x.Errorf("skipped %s, want %s", text, want)
	}
}

func TestOverlap(t *testing.T) {
	t.Parallel()
	const start = "2026-01-01T00:00:00Z"
	minute := func(n int) string { return fmt.Sprintf("2026-01-01T00:%02d:00Z", n) }
	for policy, want := range map[string]struct {
		second, third, after []string // sent at the second and third minute, and when the first run ends
		skips                string
	}{
		OverlapSkip:      {nil, nil, nil, `{"overlap":2}`},
		OverlapBufferOne: {nil, nil, []string{minute(1)}, `{"buffer full":1}`},
		OverlapBufferAll: {nil, nil, []string{minute(1)}, `null`},
		OverlapAllow:     {[]string{minute(1)}, []string{minute(2)}, nil, `null`},
		OverlapCancel:    {[]string{minute(1) + " cancels " + minute(0)}, []string{minute(2) + " cancels " + minute(1)}, nil, `null`},
	} {
		x := newTrial(t, "2025-12-31T23:00:00Z", func(s *Spec) { s.Overlap, s.PauseOnFailure = policy, true })
		x.want(x.at(start), minute(0))
		x.want(x.at(minute(1)), want.second...)
		x.want(x.at(minute(2)), want.third...)
		last := minute(0)
		if policy == OverlapCancel {
			last = minute(2)
		}
		x.want(x.report(last, ""), want.after...)
		x.skips(want.skips)
		if x.r.Paused != nil {
			t.Errorf("%s: paused, though no run has failed of itself: %+v", policy, x.r.Paused)
		}
		if policy == OverlapBufferAll {
			x.want(x.report(minute(1), ""), minute(2))
		}
	}
}

// Ticks that wait fire before later ones, also when both may at the same moment.
func TestOrderOfWaiting(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2025-12-31T23:59:00Z", func(s *Spec) {
		s.Overlap, s.RunTimeout = OverlapBufferAll, Duration(90*time.Second)
	})
	x.want(x.at("2026-01-01T00:00:00Z"), "2026-01-01T00:00:00Z")
	x.want(x.at("2026-01-01T00:01:00Z"))
	x.want(x.at("2026-01-01T00:02:00Z"), "2026-01-01T00:01:00Z") // the first has timed out
	if len(x.r.Waiting) != 1 || x.r.Counts.Failed != 1 {
		t.Errorf("%+v", x.r)
	}
}

func TestCatchup(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		policy string
		window time.Duration
		sent   int
		first  string
		skips  string
	}{
		{CatchupLatest, time.Hour, 1, "2026-01-01T00:10:00Z", `{"catch-up":10}`},
		{CatchupAll, time.Hour, 11, "2026-01-01T00:00:00Z", `null`},
		{CatchupAll, 5 * time.Minute, 5, "2026-01-01T00:06:00Z", `{"catch-up window":6}`},
		{CatchupNone, time.Hour, 0, "", `{"catch-up":11}`},
		{CatchupLatest, 10 * time.Second, 0, "", `{"catch-up":1,"catch-up window":10}`},
	} {
		x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) {
			s.Overlap, s.Catchup, s.CatchupWindow = OverlapAllow, test.policy, Duration(test.window)
		})
		sent := x.at("2026-01-01T00:10:30Z")
		if test.window < time.Minute {
			test.skips = `{"catch-up window":11}`
		}
		if len(sent) != test.sent || test.sent > 0 && sent[0] != test.first {
			t.Errorf("%s within %v: sent %q", test.policy, test.window, sent)
		}
		x.skips(test.skips)
		if !x.r.Next.Equal(at("2026-01-01T00:11:00Z")) || !x.r.Wake.Equal(x.r.Next) && test.sent == 0 {
			t.Errorf("next %v, wake %v", x.r.Next, x.r.Wake)
		}
	}
	// A tick that is a moment late is not missed.
	x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) { s.Catchup = CatchupNone })
	x.want(x.at("2026-01-01T00:00:04Z"), "2026-01-01T00:00:00Z")
}

// The part of the jitter is the tick's own, and ends before the next tick.
func TestJitter(t *testing.T) {
	t.Parallel()
	for _, jitter := range []time.Duration{time.Second, 30 * time.Second, time.Hour} {
		x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) { s.Jitter = Duration(jitter) })
		s, same := x.step(), x.step()
		var least, most time.Duration = time.Hour, 0
		for n := range 500 {
			nominal := at("2026-01-01T00:00:00Z").Add(time.Duration(n) * time.Minute)
			delay := s.fireAt(nominal).Sub(nominal)
			if least, most = min(least, delay), max(most, delay); !same.fireAt(nominal).Equal(nominal.Add(delay)) {
				t.Fatalf("the tick of %v has two delays", nominal)
			}
		}
		bound := min(jitter, time.Minute-1)
		if least < 0 || most > bound || most-least < bound/2 {
			t.Errorf("jitter %v: delays are %v to %v", jitter, least, most)
		}
	}
	// So none is missed when all are taken in time.
	x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) { s.Jitter, s.Overlap = Duration(time.Hour), OverlapAllow })
	for range 200 {
		x.now = x.r.Wake
		x.take(func(s *step) { s.advance() })
	}
	if x.r.Counts.Fired < 100 || x.r.Counts.Skipped != nil {
		t.Errorf("%+v", x.r.Counts)
	}
}

func TestStartEndRuns(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2025-12-31T12:00:00Z", func(s *Spec) {
		s.Start, s.End, s.Overlap = at("2026-01-01T00:00:30Z"), at("2026-01-01T00:02:30Z"), OverlapAllow
	})
	x.want(x.at("2026-01-01T00:00:29Z"))
	x.want(x.at("2026-01-01T00:00:30Z"), "2026-01-01T00:00:30Z")
	x.want(x.at("2026-01-01T00:01:30Z"), "2026-01-01T00:01:30Z")
	x.want(x.at("2026-01-01T00:02:30Z"), "2026-01-01T00:02:30Z")
	if !x.r.Next.IsZero() {
		t.Errorf("next %v", x.r.Next)
	}
	// What is skipped is no run.
	x = newTrial(t, "2025-12-31T12:00:00Z", func(s *Spec) { s.Runs = 2 })
	x.want(x.at("2026-01-01T00:00:00Z"), "2026-01-01T00:00:00Z")
	x.want(x.at("2026-01-01T00:01:00Z"))
	if x.r.Left != 1 {
		t.Errorf("%d left", x.r.Left)
	}
	x.report("2026-01-01T00:00:00Z", "")
	x.want(x.at("2026-01-01T00:02:00Z"), "2026-01-01T00:02:00Z")
	if !x.r.Next.IsZero() || x.r.Left != 0 || x.r.Wake.IsZero() {
		t.Errorf("%+v", x.r)
	}
	x.report("2026-01-01T00:02:00Z", "")
	if !x.r.Wake.IsZero() {
		t.Errorf("it wakes at %v, for nothing", x.r.Wake)
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) { s.Overlap, s.PauseOnFailure = OverlapBufferAll, true })
	x.at("2026-01-01T00:00:00Z")
	x.at("2026-01-01T00:01:00Z") // waits
	x.want(x.report("2026-01-01T00:00:00Z", "no paper"))
	if x.r.Paused == nil || !strings.Contains(x.r.Paused.Note, "no paper") {
		t.Fatalf("%+v", x.r.Paused)
	}
	x.want(x.at("2026-01-01T00:02:00Z"))
	x.skips(`{"paused":1}`)
	x.want(x.take(func(s *step) {
		if err := s.trigger(nil); err != nil {
			t.Error(err)
		}
	}), fmt.Sprintf("2026-01-01T00:02:00Z/trigger-%d", x.r.Serial))
	x.report(fmt.Sprintf("2026-01-01T00:02:00Z/trigger-%d", x.r.Serial), "")
	x.now = at("2026-01-01T00:05:30Z")
	x.want(x.take((*step).resume), "2026-01-01T00:01:00Z") // what has waited
	x.skips(`{"paused":4}`)
}

// A pause that is longer than one step can look at ends as one.
func TestLongPause(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) { s.Cron = "@every 1s" })
	x.take(func(s *step) { s.pause("holidays") })
	x.now = at("2026-01-03T00:00:00Z")
	x.want(x.take((*step).resume))
	for n := 0; !x.r.Wake.After(x.now); n++ {
		x.want(x.take((*step).advance))
		if n > 5 {
			t.Fatalf("%+v", x.r)
		}
	}
	x.skips(`{"paused":172801}`)
	x.want(x.at("2026-01-03T00:00:01Z"), "2026-01-03T00:00:01Z")
}

// Much that is due is decided on in several steps, none of which has too much to
// send.
func TestBacklog(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) {
		s.Cron, s.Catchup, s.Event, s.Handler = "@every 1s", CatchupAll, "Clock.struck", ""
		s.Payload = []byte(`"` + strings.Repeat("x", 20<<10) + `"`)
	})
	x.now = at("2026-01-01T00:02:00Z")
	total, steps := 0, 0
	for ; !x.r.Wake.After(x.now); steps++ {
		n := len(x.take((*step).advance))
		if total += n; n == 0 || n > 5 {
			t.Fatalf("%d events in a step", n)
		}
	}
	if total != 121 || x.r.Counts.Fired != 121 || steps < 20 {
		t.Errorf("%d in %d steps, %+v", total, steps, x.r.Counts)
	}
	// The longest backlog is looked at quickly.
	x = newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) { s.Cron = "@every 1s" })
	x.now = at("2026-01-20T00:00:00Z")
	fired := 0
	for !x.r.Wake.After(x.now) {
		fired += len(x.take((*step).advance))
	}
	if fired != 1 || len(x.r.History) > 60 {
		t.Errorf("%d fired, %d outcomes", fired, len(x.r.History))
	}
	x.skips(fmt.Sprintf(`{"catch-up":3600,"catch-up window":%d}`, 19*86400-3600))
}

func TestRunTimeout(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) {
		s.Cron, s.RunTimeout = "@every 1h", Duration(10*time.Minute)
	})
	x.at("2026-01-01T00:00:01Z")
	if want := at("2026-01-01T00:10:01Z"); !x.r.Wake.Equal(want) {
		t.Fatalf("it wakes at %v", x.r.Wake)
	}
	x.at("2026-01-01T00:10:01Z")
	if x.r.Counts.Failed != 1 || len(x.r.Running) != 0 || x.r.Last.State != Failed || !x.r.Wake.Equal(at("2026-01-01T01:00:00Z")) {
		t.Errorf("%+v", x.r)
	}
	if x.step().report("trial@2026-01-01T00:00:00Z", "") {
		t.Error("a report after the timeout is taken")
	}
	x.want(x.at("2026-01-01T01:00:00Z"), "2026-01-01T01:00:00Z")
}

// What clock changes leave out is listed, all of it, and when it is time.
func TestClockChange(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2026-03-28T12:00:00Z", func(s *Spec) { s.Cron, s.Zone, s.Gap, s.Start = "30 2 * * *", "Europe/Berlin", GapSkip, time.Time{} })
	if want := at("2026-03-29T01:00:00Z"); !x.r.Wake.Equal(want) || !x.r.Next.Equal(at("2026-03-30T00:30:00Z")) {
		t.Fatalf("it wakes at %v, next %v", x.r.Wake, x.r.Next)
	}
	x.want(x.at("2026-03-29T00:59:00Z"))
	x.skips(`null`)
	x.want(x.at("2026-03-29T01:00:00Z"))
	x.skips(`{"clock change":1}`)
	x.want(x.at("2026-03-30T00:30:00Z"), "2026-03-30T00:30:00Z")
	x.skips(`{"clock change":1}`)

	// A second before the tick that follows, and more than are listed one by one.
	x = newTrial(t, "2026-03-29T00:59:58Z", func(s *Spec) {
		s.Cron, s.Zone, s.Gap, s.Overlap, s.Start = "* * 1-3 * * *", "Europe/Berlin", GapSkip, OverlapAllow, time.Time{}
	})
	x.want(x.at("2026-03-29T00:59:59Z"), "2026-03-29T00:59:59Z")
	x.want(x.at("2026-03-29T01:00:00Z"), "2026-03-29T01:00:00Z")
	x.skips(`{"clock change":3600}`)
	if n := len(x.r.History); n > maxListed+5 {
		t.Errorf("%d outcomes", n)
	}
}

// The history and the buffer are bounded, the counters are not.
func TestBounds(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) {
		s.Cron, s.Overlap, s.RunTimeout = "@every 1s", OverlapBufferAll, Duration(100*time.Hour)
	})
	for x.now = at("2026-01-01T00:00:00Z"); x.r.Counts.Skipped[ReasonFull] < 100; x.now = x.now.Add(time.Second) {
		x.take((*step).advance)
	}
	if len(x.r.Waiting) != maxWaiting || len(x.r.History) != maxHistory || x.r.Counts.Fired != 1 {
		t.Errorf("%d wait, %d in the history, %+v", len(x.r.Waiting), len(x.r.History), x.r.Counts)
	}
	if _, err := x.step().backfill(x.now.Add(-time.Minute), x.now); rpc.CodeOf(err) != rpc.ResourceExhausted {
		t.Errorf("backfill: %v", err)
	}
	x.take(func(s *step) {
		if err := s.trigger(nil); rpc.CodeOf(err) != rpc.ResourceExhausted || !strings.Contains(err.Error(), "buffer full") {
			t.Errorf("trigger: %v", err)
		}
	})
}

// A record stays small enough to be written, whatever waits.
func TestSize(t *testing.T) {
	t.Parallel()
	messages, policies, steps := []int64{256 << 10}, []string{OverlapBufferAll, OverlapAllow}, 250
	if *long {
		messages, policies, steps = append(messages, 1<<20), append(policies, OverlapCancel, OverlapSkip), 1000
	}
	for _, message := range messages {
		payload := []byte(`"` + strings.Repeat("<", largestPayload(message)-2) + `"`) // grows six times in HTML
		for _, policy := range policies {
			x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) {
				s.Name, s.Handler = strings.Repeat("n", 64), strings.Repeat("h", 55)
				s.Cron, s.Overlap, s.Payload, s.RunTimeout = "@every 1s", policy, payload, Duration(time.Hour)
			})
			full := 0
			for n := range steps {
				x.now = at("2026-01-01T00:00:00Z").Add(time.Duration(n) * time.Second / 2)
				s, err := newStep(x.r, x.now, largestRecord(message))
				if err != nil {
					t.Fatal(err)
				}
				own := json.RawMessage(nil)
				if n%100 == 0 {
					own = payload
				}
				if err := s.trigger(own); err != nil {
					if full++; rpc.CodeOf(err) != rpc.ResourceExhausted {
						t.Fatal(err)
					}
				}
				if len(x.r.Running) > 0 && n%5 == 0 && policy != OverlapAllow {
					s.report(x.r.Running[0].ID, strings.Repeat("e", 300))
					s.advance()
				}
				if n%25 == 0 {
					data, err := encode(x.r)
					if err != nil {
						t.Fatal(err)
					}
					if len(data) > int(message)-1024 {
						t.Fatalf("%s, step %d: the record has %d bytes: %d wait, %d run, %d pending",
							policy, n, len(data), len(x.r.Waiting), len(x.r.Running), len(x.r.Pending))
					}
				}
				x.r.Pending = nil
			}
			if (full > 0) != (policy == OverlapBufferAll || policy == OverlapAllow) {
				t.Errorf("%s: full %d times", policy, full)
			}
			t.Logf("%s: %d wait, %d run", policy, len(x.r.Waiting), len(x.r.Running))
		}
	}
}

func TestRedefine(t *testing.T) {
	t.Parallel()
	change := func(x *trial, change func(*Spec)) error {
		spec := x.r.Spec
		change(&spec)
		return redefine(x.r, spec.withDefaults(), x.now, testRoom)
	}
	// Other times: what is late is listed.
	x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) { s.Overlap = OverlapBufferAll })
	x.at("2026-01-01T00:00:00Z")
	x.at("2026-01-01T00:01:00Z")
	armed := x.r.Arm
	x.now = at("2026-01-01T00:03:30Z")
	if err := change(x, func(s *Spec) { s.Cron = "@every 1h" }); err != nil {
		t.Fatal(err)
	}
	x.skips(`{"definition changed":3}`) // one has waited, two are late
	if x.r.Arm == armed || !x.r.Next.Equal(at("2026-01-01T01:00:00Z")) || len(x.r.Waiting) != 0 {
		t.Errorf("%+v", x.r)
	}
	x.want(x.report("2026-01-01T00:00:00Z", "")) // a run of the old definition

	// The same times: what is late fires as the new definition says.
	x = newTrial(t, "2025-12-31T23:59:30Z", func(*Spec) {})
	x.now = at("2026-01-01T00:00:01Z")
	if err := change(x, func(s *Spec) { s.Payload = []byte("1") }); err != nil {
		t.Fatal(err)
	}
	x.want(x.at("2026-01-01T00:00:02Z"), "2026-01-01T00:00:00Z")

	// A process whose clock is behind does not have the last tick again.
	x.now = at("2025-12-31T23:59:59Z")
	if err := change(x, func(s *Spec) { s.Cron = "* * * * *" }); err != nil {
		t.Fatal(err)
	}
	if !x.r.Next.Equal(at("2026-01-01T00:01:00Z")) {
		t.Errorf("next %v", x.r.Next)
	}
	// What would never tick is refused.
	x.now = at("2026-01-01T00:00:30Z")
	for what, do := range map[string]func(*Spec){
		"its end has passed": func(s *Spec) { s.Start, s.End = time.Time{}, at("2026-01-01T00:00:20Z") },
		"its time has":       func(s *Spec) { s.Start, s.Cron, s.At = time.Time{}, "", at("2026-01-01T00:00:20Z") },
	} {
		if err := change(x, do); rpc.CodeOf(err) != rpc.InvalidArgument || !errors.Is(err, errNever) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Identities of a schedule that was deleted are not those of a new one of that
// name.
func TestMadeAgain(t *testing.T) {
	t.Parallel()
	x := newTrial(t, "2026-01-01T00:00:30Z", func(*Spec) {})
	y := newTrial(t, "2026-01-01T00:00:30.5Z", func(*Spec) {})
	backfill := func(s *step) {
		if _, err := s.backfill(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:10Z")); err != nil {
			t.Error(err)
		}
	}
	if a, b := x.take(backfill), y.take(backfill); len(a) != 1 || len(b) != 1 || a[0] == b[0] {
		t.Errorf("%q, %q", a, b)
	}
	if x.r.Arm == y.r.Arm {
		t.Error("what was armed of one is taken for the other's")
	}
}

// An event that may have been sent too long ago for the bucket to know is not sent
// again.
func TestDropOld(t *testing.T) {
	t.Parallel()
	for _, event := range []string{"", "Clock.struck"} {
		x := newTrial(t, "2025-12-31T23:59:30Z", func(s *Spec) {
			if s.Event = event; event != "" {
				s.Handler = ""
			}
		})
		x.now = at("2026-01-01T00:00:00Z")
		x.step().advance()
		x.r.dropOld(x.now.Add(resendFor - 1))
		if len(x.r.Pending) != 1 {
			t.Fatal("not sent again")
		}
		x.r.dropOld(x.now.Add(resendFor))
		if len(x.r.Pending) != 0 || x.r.Counts.Failed != 1 || len(x.r.Running) != 0 || x.r.History[1].Reason != ReasonUnsent {
			t.Errorf("%+v", x.r)
		}
	}
}
