package schedules_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable/durabletest"
	"rpc.do/examples/schedules"
	"rpc.do/pipeline"
	"rpc.do/schedule"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// system is two instances of reports, each on a bus of its own, and who looks at
// them.
type system struct {
	*testing.T
	c   *client.Client
	p   *pipeline.Pipeline
	all *schedule.Schedules
}

func start(t *testing.T) *system {
	t.Helper()
	srv := bustest.Server(t)
	sales := &schedules.FakeSales{}
	for range 2 {
		svc, err := schedules.NewReports(bustest.Connect(t, srv), sales, schedule.Attempts(3, 10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		durabletest.Run(t, svc)
	}
	b := bustest.Connect(t, srv)
	s := &system{T: t, c: client.New(b, client.Config{}), p: pipeline.New(b, pipeline.Config{}), all: schedule.Open(b)}
	t.Cleanup(s.c.Close)
	return s
}

// history returns what became of ticks, the oldest first, once so many have had
// their end.
func (s *system) history(name string, ended int) []schedule.Outcome {
	s.Helper()
	for limit := time.After(time.Minute); ; {
		info, err := s.all.Get(s.Context(), name)
		if err != nil {
			s.Fatal(err)
		}
		if int(info.Counts.Finished+info.Counts.Failed) >= ended {
			break
		}
		select {
		case <-limit:
			s.Fatalf("waited in vain for %d runs of %s: %+v", ended, name, info)
		case <-time.After(10 * time.Millisecond):
		}
	}
	outcomes, err := s.all.History(s.Context(), name)
	if err != nil {
		s.Fatal(err)
	}
	slices.Reverse(outcomes)
	return outcomes
}

// Each second has one beat, though there are two instances.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	s := start(t)
	fired, finished := map[time.Time]int{}, map[time.Time]int{}
	for _, o := range s.history("heartbeat", 3) {
		switch o.State {
		case schedule.Fired:
			fired[o.Nominal]++
		case schedule.Finished:
			finished[o.Nominal]++
		default: // a busy machine may be late
			t.Logf("%+v", o)
		}
	}
	if len(finished) < 3 {
		t.Errorf("%d beats, want 3", len(finished))
	}
	for nominal, n := range finished {
		if n != 1 || fired[nominal] != 1 || nominal.Nanosecond() != 0 {
			t.Errorf("%v has fired %d times and finished %d times", nominal, fired[nominal], n)
		}
	}
	state, err := schedules.Status.Call(t.Context(), s.c, rpc.None{})
	if err != nil || (state.Beats > 0) == state.Last.IsZero() {
		t.Errorf("%+v, %v", state, err)
	}
}

// Days that were missed have their report, one after the other, and no day has two.
func TestDailyReport(t *testing.T) {
	t.Parallel()
	s := start(t)
	zone, err := time.LoadLocation(schedules.Zone)
	if err != nil {
		t.Fatal(err)
	}
	from, until := time.Date(2026, time.March, 28, 0, 0, 0, 0, zone), time.Date(2026, time.March, 30, 23, 0, 0, 0, zone)
	for times := 1; times <= 2; times++ {
		if n, err := s.all.Backfill(t.Context(), "daily-report", from, until); err != nil || n != 3 {
			t.Fatalf("%d ticks, %v", n, err)
		}
		var got []string
		for _, o := range s.history("daily-report", 3*times)[6*(times-1):] {
			got = append(got, fmt.Sprint(o.Nominal.Format("01-02T15 "), o.State))
		}
		// On the 29th clocks go forward in Berlin: six o'clock comes an hour earlier.
		if want := "03-28T05 fired,03-28T05 finished,03-29T04 fired,03-29T04 finished,03-30T04 fired,03-30T04 finished"; strings.Join(got, ",") != want {
			t.Errorf("got %q, want %s", got, want)
		}
	}
	page, err := s.p.History(t.Context(), pipeline.Query{Patterns: []string{schedules.Made.Name()}})
	if err != nil {
		t.Fatal(err)
	}
	var reports []string
	for _, e := range page.Events {
		reports = append(reports, string(e.Data))
	}
	if want := `{"day":"2026-03-27","total":27},{"day":"2026-03-28","total":28},{"day":"2026-03-29","total":29}`; strings.Join(reports, ",") != want {
		t.Errorf("got %q, want %s", reports, want)
	}
}

// A report that can't be made has failed, with the reason; the schedule goes on.
func TestReportFails(t *testing.T) {
	t.Parallel()
	s := start(t)
	at := time.Date(2025, time.December, 24, 12, 0, 0, 0, time.UTC)
	if n, err := s.all.Backfill(t.Context(), "daily-report", at.AddDate(0, 0, -1), at); err != nil || n != 1 {
		t.Fatalf("%d ticks, %v", n, err)
	}
	outcomes := s.history("daily-report", 1)
	if last := outcomes[len(outcomes)-1]; last.State != schedule.Failed || !strings.Contains(last.Reason, "the shop had not opened on 2025-12-23") || last.Kind != schedule.KindBackfill {
		t.Errorf("%+v", outcomes)
	}
	if info, err := s.all.Get(t.Context(), "daily-report"); err != nil || info.Next.IsZero() || info.Paused != nil {
		t.Errorf("%+v, %v", info, err)
	}
}
