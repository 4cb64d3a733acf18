package pipelineworker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/pipeline"
	"rpc.do/schedule"
	"rpc.do/server"
	"rpc.do/server/workers/pipelineworker"
)

// The call of the reference document works as it is.
func TestScheduleCreate(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	r, code := l.raw("schedule.create", `{"cron":"0 0 * * *","handler":"daily-report"}`, nil)
	if code != "" || r["name"] != "daily-report" {
		t.Fatalf("%v, %s", r, code)
	}
	next, err := time.Parse(time.RFC3339, fmt.Sprint(r["next"]))
	if until := time.Until(next); err != nil || until <= 0 || until > 24*time.Hour || next.Hour() != 0 {
		t.Errorf("next %v, %v", next, err)
	}
	spec := pipeline.ScheduleSpec{Cron: "0 0 * * *", Handler: "daily-report"}
	again := call(l, pipeline.ScheduleCreate, pipeline.ScheduleCreateParams{ScheduleSpec: spec})
	if again.Name != "daily-report" || !again.Next.Equal(next) {
		t.Errorf("%+v", again)
	}
	spec.Cron = "30 12 * * *"
	refused(l, pipeline.ScheduleCreate, pipeline.ScheduleCreateParams{ScheduleSpec: spec}, rpc.AlreadyExists, "daily-report")
	if r := call(l, pipeline.ScheduleCreate, pipeline.ScheduleCreateParams{ScheduleSpec: spec, Replace: true}); r.Next.Hour() != 12 {
		t.Errorf("%+v", r)
	}
	if info := call(l, pipeline.ScheduleGet, pipeline.ScheduleName{Name: "daily-report"}); info.Spec.Cron != spec.Cron || info.Spec.Handler != "daily-report" {
		t.Errorf("%+v", info)
	}
}

// All that a definition says comes back as it was.
func TestScheduleSpec(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	start := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	want := pipeline.ScheduleSpec{
		Name: "nightly", Handler: "report", Payload: json.RawMessage(`{"n":1}`), Cron: "0 3 * * *", Zone: "Europe/Berlin", Gap: "skip", Repeat: "twice",
		Jitter: pipeline.Duration(90 * time.Second), Start: start, End: start.Add(1000 * time.Hour), Runs: 3,
		Overlap: "buffer-one", Catchup: "all", CatchupWindow: pipeline.Duration(2 * time.Hour), RunTimeout: pipeline.Duration(time.Minute), PauseOnFailure: true,
	}
	call(l, pipeline.ScheduleCreate, pipeline.ScheduleCreateParams{ScheduleSpec: want})
	info := call(l, pipeline.ScheduleGet, pipeline.ScheduleName{Name: "nightly"})
	if got := asJSON(t, info.Spec); got != asJSON(t, want) || info.Left != 3 {
		t.Errorf("got  %s\nwant %s", got, asJSON(t, want))
	}
	if text := asJSON(t, want); !strings.Contains(text, `"jitter":"1m30s"`) || !strings.Contains(text, `"timezone":"Europe/Berlin"`) {
		t.Error(text)
	}
	event := pipeline.ScheduleSpec{Name: "once", Event: "Report.due", At: start}
	call(l, pipeline.ScheduleCreate, pipeline.ScheduleCreateParams{ScheduleSpec: event})
	if got := call(l, pipeline.ScheduleGet, pipeline.ScheduleName{Name: "once"}); got.Spec.Event != "Report.due" || got.Spec.Handler != "" || !got.Next.Equal(start) {
		t.Errorf("%+v", got)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestScheduleRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	now := time.Now()
	daily := func(change func(*pipeline.ScheduleSpec)) pipeline.ScheduleSpec {
		s := pipeline.ScheduleSpec{Cron: "@daily", Handler: "report"}
		change(&s)
		return s
	}
	for _, test := range []struct {
		spec pipeline.ScheduleSpec
		want string
	}{
		{pipeline.ScheduleSpec{}, "handler"},
		{pipeline.ScheduleSpec{Handler: "report"}, "neither cron nor at"},
		{pipeline.ScheduleSpec{Event: "Report.due", Cron: "@daily"}, "name"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Cron = "0 0 * *" }), "0 0 * *"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Cron = "61 0 * * *" }), "61"},
		{daily(func(s *pipeline.ScheduleSpec) { s.At = now.Add(time.Hour) }), "both"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Cron, s.At = "", now.Add(-time.Hour) }), "passed"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Cron, s.At = "", now.AddDate(100, 0, 0) }), "report"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Name = "a.b" }), "name"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Handler = "a b" }), "handler"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Event = "Report.due" }), "both"},
		{pipeline.ScheduleSpec{Name: "report", Cron: "@daily", Event: "due"}, "event"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Zone = "Mars/Olympus" }), "Mars/Olympus"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Overlap = "maybe" }), "overlap"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Start, s.End = now, now.Add(-time.Hour) }), "end"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Runs = -1 }), "runs"},
		{daily(func(s *pipeline.ScheduleSpec) { s.RunTimeout = pipeline.Duration(time.Millisecond) }), "runTimeout"},
		{daily(func(s *pipeline.ScheduleSpec) { s.Payload = fmt.Appendf(nil, "%q", strings.Repeat("x", 257<<10)) }), "payload"},
	} {
		refused(l, pipeline.ScheduleCreate, pipeline.ScheduleCreateParams{ScheduleSpec: test.spec}, rpc.InvalidArgument, test.want)
	}
	for _, params := range []string{`{"cron":"@daily","handler":"r","jitter":"soon"}`, `{"cron":"@daily","handler":"r","jitter":5}`, `{"cron":["@daily"],"handler":"r"}`} {
		if r, code := l.raw("schedule.create", params, nil); code != "invalid_argument" {
			t.Errorf("%s: %v, %q", params, r, code)
		}
	}
	if r, code := l.raw("schedule.list", `{}`, nil); code != "" || fmt.Sprint(r["schedules"]) != "[]" || r["next"] != nil {
		t.Errorf("%v, %s", r, code)
	}
}

// No schedule, no name, no such limit: every method says so.
func TestScheduleNotThere(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	now := time.Now()
	for name, code := range map[string]rpc.Code{"nobody": rpc.NotFound, "": rpc.InvalidArgument, "a.b": rpc.InvalidArgument} {
		refused(l, pipeline.ScheduleGet, pipeline.ScheduleName{Name: name}, code)
		refused(l, pipeline.ScheduleResume, pipeline.ScheduleName{Name: name}, code)
		refused(l, pipeline.ScheduleDelete, pipeline.ScheduleName{Name: name}, code)
		refused(l, pipeline.SchedulePause, pipeline.SchedulePauseParams{Name: name}, code)
		refused(l, pipeline.ScheduleTrigger, pipeline.ScheduleTriggerParams{Name: name}, code)
		refused(l, pipeline.ScheduleBackfill, pipeline.ScheduleBackfillParams{Name: name, From: now.Add(-time.Hour), Until: now}, code)
		refused(l, pipeline.ScheduleHistory, pipeline.ScheduleHistoryParams{Name: name}, code)
		refused(l, pipeline.ScheduleNext, pipeline.ScheduleNextParams{Name: name}, code)
	}
	refused(l, pipeline.ScheduleBackfill, pipeline.ScheduleBackfillParams{Name: "a", Until: now}, rpc.InvalidArgument, "from")
	refused(l, pipeline.ScheduleBackfill, pipeline.ScheduleBackfillParams{Name: "a", From: now}, rpc.InvalidArgument, "until")
	refused(l, pipeline.ScheduleBackfill, pipeline.ScheduleBackfillParams{Name: "a", From: now, Until: now.Add(-time.Hour)}, rpc.InvalidArgument, "before its start")
	refused(l, pipeline.ScheduleHistory, pipeline.ScheduleHistoryParams{Name: "a", Limit: -1}, rpc.InvalidArgument, "limit")
	refused(l, pipeline.ScheduleNext, pipeline.ScheduleNextParams{Name: "a", Limit: 1001}, rpc.InvalidArgument, "limit")
	refused(l, pipeline.ScheduleList, pipeline.ScheduleListParams{Limit: 1001}, rpc.InvalidArgument, "limit")
	refused(l, pipeline.ScheduleList, pipeline.ScheduleListParams{Prefix: "a.*"}, rpc.InvalidArgument, "prefix")
	refused(l, pipeline.SchedulePause, pipeline.SchedulePauseParams{Name: "a", Note: strings.Repeat("x", 1001)}, rpc.InvalidArgument, "note")
}

func (l *lab) create(spec pipeline.ScheduleSpec) {
	l.Helper()
	call(l, pipeline.ScheduleCreate, pipeline.ScheduleCreateParams{ScheduleSpec: spec})
}

// The ticks of a schedule come to the service that has its handler.
func TestTicks(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	got := make(chan schedule.Tick, 100)
	svc := server.New(bustest.Connect(t, l.srv), "reports", server.Config{})
	schedule.Handle(svc, "heartbeat", func(_ context.Context, tick schedule.Tick) error {
		got <- tick
		return nil
	})
	l.serve(svc)
	l.create(pipeline.ScheduleSpec{Cron: "@every 1s", Handler: "heartbeat", Payload: json.RawMessage(`{"n":1}`)})
	var last time.Time
	for range 2 {
		select {
		case tick := <-got:
			if tick.Schedule != "heartbeat" || string(tick.Payload) != `{"n":1}` || !tick.Nominal.After(last) {
				t.Errorf("%+v after %v", tick, last)
			}
			last = tick.Nominal
		case <-time.After(patience):
			t.Fatal("no tick comes")
		}
	}
	l.until("it is in the history", func() bool {
		h := call(l, pipeline.ScheduleHistory, pipeline.ScheduleHistoryParams{Name: "heartbeat"})
		for _, o := range h.Outcomes {
			if o.State == "finished" && o.Nominal.Equal(last) {
				return true
			}
		}
		return false
	})
}

// The service takes ticks itself: those of a schedule that only sends an event
// need nobody else.
func TestServiceTakesTicks(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	l.create(pipeline.ScheduleSpec{Name: "due", Event: "Report.due", At: time.Now().Add(200 * time.Millisecond), Payload: json.RawMessage(`{"n":1}`)})
	l.until("the event was sent", func() bool { return len(l.stored("Report.due")) == 1 })
	if e := l.stored("Report.due")[0]; string(e.Data) != `{"n":1}` {
		t.Errorf("%+v", e)
	}
	l.until("it is noted", func() bool {
		return call(l, pipeline.ScheduleGet, pipeline.ScheduleName{Name: "due"}).Counts.Fired == 1
	})
}

func TestScheduleManage(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	l.create(pipeline.ScheduleSpec{Name: "nightly", Event: "Night.came", Cron: "0 3 * * *", Zone: "Europe/Berlin", Payload: json.RawMessage("1")})
	name := pipeline.ScheduleName{Name: "nightly"}
	for range 2 {
		if p := call(l, pipeline.SchedulePause, pipeline.SchedulePauseParams{Name: "nightly", Note: "holidays"}); p.Paused == nil || p.Paused.Note != "holidays" {
			t.Errorf("%+v", p)
		}
	}
	for range 2 {
		if r := call(l, pipeline.ScheduleResume, name); r.Paused != nil {
			t.Errorf("%+v", r)
		}
	}
	if r := call(l, pipeline.ScheduleTrigger, pipeline.ScheduleTriggerParams{Name: "nightly"}); r.Counts.Fired != 1 {
		t.Errorf("%+v", r)
	}
	call(l, pipeline.ScheduleTrigger, pipeline.ScheduleTriggerParams{Name: "nightly", Payload: json.RawMessage("2")})
	if r, code := l.raw("schedule.trigger", `{"name":"nightly","payload":null}`, nil); code != "" {
		t.Errorf("%v, %s", r, code)
	}
	l.until("three events were sent", func() bool { return len(l.stored("Night.came")) == 3 })
	var payloads string
	for _, e := range l.stored("Night.came") {
		payloads += string(e.Data)
	}
	if payloads != "121" {
		t.Errorf("payloads %s", payloads)
	}
	now := time.Now()
	if b := call(l, pipeline.ScheduleBackfill, pipeline.ScheduleBackfillParams{Name: "nightly", From: now.Add(-72 * time.Hour), Until: now.Add(-time.Minute)}); b.Ticks != 3 {
		t.Errorf("%+v", b)
	}
	h := call(l, pipeline.ScheduleHistory, pipeline.ScheduleHistoryParams{Name: "nightly"})
	if len(h.Outcomes) != 6 || h.Outcomes[0].Kind != "backfill" || h.Outcomes[5].Kind != "trigger" || h.Outcomes[0].State != "fired" {
		t.Errorf("%+v", h)
	}
	if h := call(l, pipeline.ScheduleHistory, pipeline.ScheduleHistoryParams{Name: "nightly", Limit: 2}); len(h.Outcomes) != 2 || h.Outcomes[0].Kind != "backfill" {
		t.Errorf("%+v", h)
	}
	if n := call(l, pipeline.ScheduleNext, pipeline.ScheduleNextParams{Name: "nightly"}); len(n.Ticks) != 10 || n.Ticks[0].Wall[11:] != "03:00:00" || !n.Ticks[1].Fires.After(n.Ticks[0].Nominal) {
		t.Errorf("%+v", n)
	}
	if n := call(l, pipeline.ScheduleNext, pipeline.ScheduleNextParams{Name: "nightly", Limit: 2}); len(n.Ticks) != 2 {
		t.Errorf("%+v", n)
	}
	call(l, pipeline.ScheduleDelete, name)
	refused(l, pipeline.ScheduleDelete, name, rpc.NotFound, "nightly")
}

func TestScheduleList(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{})
	large := fmt.Appendf(nil, "%q", strings.Repeat("x", 250_000))
	for i := range 7 {
		l.create(pipeline.ScheduleSpec{Name: fmt.Sprintf("large-%d", i), Handler: "report", Cron: "@yearly", Payload: large})
	}
	l.create(pipeline.ScheduleSpec{Name: "small", Cron: "@yearly"})
	all := func(p pipeline.ScheduleListParams) (names []string, pages int) {
		for pages = 0; pages == 0 || p.After != "" && pages < 10; pages++ {
			page := call(l, pipeline.ScheduleList, p, rpc.WithTimeout(patience))
			for _, s := range page.Schedules {
				names = append(names, s.Spec.Name)
			}
			p.After = page.Next
		}
		return names, pages
	}
	names, pages := all(pipeline.ScheduleListParams{})
	if want := "large-0 large-1 large-2 large-3 large-4 large-5 large-6 small"; strings.Join(names, " ") != want || pages != 2 {
		t.Errorf("%v in %d pages", names, pages)
	}
	if names, pages := all(pipeline.ScheduleListParams{Handler: "report", Limit: 4}); len(names) != 7 || pages != 2 {
		t.Errorf("%v in %d pages", names, pages)
	}
	if page := call(l, pipeline.ScheduleList, pipeline.ScheduleListParams{Prefix: "small"}); len(page.Schedules) != 1 { // in the time that a call has
		t.Errorf("%+v", page)
	}
	if names, _ := all(pipeline.ScheduleListParams{Prefix: "large", After: "large-5x"}); len(names) != 1 || names[0] != "large-6" {
		t.Errorf("%v", names)
	}
}

// A call to make a schedule that is sent again makes it once.
func TestScheduleCreateAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, pipelineworker.Config{Server: firstAnswers(t, "schedule.create")})
	l.c = client.New(l.b, client.Config{ResendAfter: 20 * time.Millisecond})
	r := call(l, pipeline.ScheduleCreate,
		pipeline.ScheduleCreateParams{ScheduleSpec: pipeline.ScheduleSpec{Cron: "@daily", Handler: "report"}}, rpc.WithTimeout(patience))
	if info := call(l, pipeline.ScheduleGet, pipeline.ScheduleName{Name: "report"}); !info.Next.Equal(r.Next) {
		t.Errorf("%+v, %+v", r, info)
	}
}
