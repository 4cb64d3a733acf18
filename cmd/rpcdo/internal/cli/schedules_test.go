package cli

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/schedule"
	"rpc.do/server"
)

// schedulesBus is a bus with schedules, and a service that takes their ticks.
type schedulesBus struct {
	*testing.T
	env Env
	b   *bus.Bus
	all *schedule.Schedules
}

func newSchedulesBus(t *testing.T) *schedulesBus {
	t.Helper()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	return &schedulesBus{T: t, env: with("NATS_URL", srv.URL()), b: b, all: schedule.Open(b)}
}

// serve runs a service with a handler of ticks, until the end of the test.
func (l *schedulesBus) serve(handler string, fn func(context.Context, schedule.Tick) error) {
	l.Helper()
	b, err := bus.Connect(l.Context(), bus.Config{URLs: []string{l.env.Getenv("NATS_URL")}})
	if err != nil {
		l.Fatal(err)
	}
	svc := server.New(b, "reports", server.Config{Version: "1.2.3", DrainTimeout: patience})
	schedule.Handle(svc, handler, fn)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
	case err := <-ended:
		cancel()
		l.Fatal(err)
	}
	l.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, b.Close()); err != nil {
			l.Error(err)
		}
	}))
}

// run runs a command of schedules.
func (l *schedulesBus) run(args ...string) outcome {
	l.Helper()
	return rpcdo(l.T, l.env, append([]string{"schedules"}, args...)...)
}

func (l *schedulesBus) get(name string) schedule.Info {
	l.Helper()
	return fromJSON[schedule.Info](l.T, l.run("get", name, "--json").out)
}

func TestSchedulesCreate(t *testing.T) {
	t.Parallel()
	l := newSchedulesBus(t)
	l.run("create", "nightly", "30 2 * * *", "--timezone", "Europe/Berlin", "--handler", "report", "--payload", `{"to":"Zoë"}`, "--jitter", "5m",
		"--start", "2096-03-20", "--end", "2096-03-30T00:00:00Z", "--runs", "7", "--overlap", "buffer-one", "--catchup", "all", "--catchup-window", "1d",
		"--run-timeout", "90s", "--gap", "skip", "--repeat", "twice", "--pause-on-failure").
		want(t, exitDone, texts("created nightly, next tick Tue 2096-03-20 02:30:00 +01:00\n"), texts("no service has a handler report yet"))
	s := l.get("nightly").Spec
	want := schedule.Spec{
		Name: "nightly", Cron: "30 2 * * *", Zone: "Europe/Berlin", Handler: "report", Payload: []byte(`{"to":"Zoë"}`), Jitter: schedule.Duration(5 * time.Minute),
		Start: time.Date(2096, 3, 19, 23, 0, 0, 0, time.UTC), End: time.Date(2096, 3, 30, 0, 0, 0, 0, time.UTC), Runs: 7, Overlap: "buffer-one", Catchup: "all",
		CatchupWindow: schedule.Duration(24 * time.Hour), RunTimeout: schedule.Duration(90 * time.Second), Gap: "skip", Repeat: "twice", PauseOnFailure: true,
	}
	if string(s.Payload) != string(want.Payload) || !s.Start.Equal(want.Start) || !s.End.Equal(want.End) {
		t.Errorf("got %+v", s)
	}
	s.Payload, want.Payload, s.Start, s.End, want.Start, want.End = nil, nil, time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if got, want := toJSON(t, s), toJSON(t, want); got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	beat := texts("create", "beat", "@every 24h", "--event", "Heart.beat")
	l.run(beat...).want(t, exitDone, texts("created beat, next tick "), nil)
	l.run(beat...).want(t, exitDone, texts("there is such a schedule already: beat, next tick "), nil)
	beat[2] = "@every 48h"
	o := l.run(beat...)
	o.want(t, exitFailed, nil, texts("there is a schedule beat with another definition", "--replace changes it"))
	o.wantLine(t)
	wantProblem(t, l.env, exitFailed, "already_exists", "--replace", append(texts("schedules"), beat...)...)
	l.run(append(beat, "--replace")...).want(t, exitDone, texts("replaced beat, next tick "), nil)
	if info := fromJSON[schedule.Info](t, l.run(append(beat, "--json")...).out); info.Spec.Cron != "@every 48h" || info.Spec.Event != "Heart.beat" {
		t.Errorf("got %+v", info)
	}
	l.run("create", "launch", "--at", "2096-12-24T18:00:00+02:00", "--event", "Campaign.begins").
		want(t, exitDone, texts("created launch, next tick Mon 2096-12-24 16:00:00 +00:00\n"), nil)
	l.env.In = strings.NewReader(` {"n":1} `)
	l.run("create", "soon", "--at", "90d", "--event", "Campaign.begins", "--payload", "-").want(t, exitDone, texts("created soon, "), nil)
	if info := l.get("soon"); string(info.Spec.Payload) != `{"n":1}` || time.Until(info.Next) < 89*24*time.Hour {
		t.Errorf("got %+v", info)
	}
	wantProblem(t, l.env, exitUsage, "invalid_argument", "has passed", "schedules", "create", "late", "--at", "2001-01-01", "--event", "A.b")
	wantProblem(t, l.env, exitFailed, "not_found", "there is no schedule late on ", "schedules", "get", "late")
}

func TestSchedulesShow(t *testing.T) {
	t.Parallel()
	l := newSchedulesBus(t)
	l.run("ls").want(t, exitDone, nil, texts("there are no schedules on "))
	l.run("create", "nightly", "CRON_TZ=Europe/Berlin 0 3 * * *", "--payload", `{"to":"Zoë"}`, "--start", "2096-01-01T00:00:00Z")
	l.run("create", "launch", "--at", "2096-12-24T18:00:00Z", "--event", "Campaign.begins")
	l.run("pause", "launch", "--note", "no\x1b[31m\nmoney").want(t, exitDone, texts("paused launch\n"), nil)
	l.run("ls").want(t, exitDone, texts(
		"NAME     WHEN                               ZONE           NEXT                            STATE   LAST\n",
		"launch   at Mon 2096-12-24 18:00:00 +00:00  UTC            Mon 2096-12-24 18:00:00 +00:00  paused  -\n",
		"nightly  CRON_TZ=Europe/Berlin 0 3 * * *    Europe/Berlin  Sun 2096-01-01 03:00:00 +01:00  active  -\n"), nil)
	if list := fromJSON[[]schedule.Info](t, l.run("ls", "nig", "--json").out); len(list) != 1 || list[0].Spec.Name != "nightly" {
		t.Errorf("got %+v", list)
	}
	l.run("ls", "--handler", "nope").want(t, exitDone, nil, texts("there are no such schedules on "))
	o := l.run("get", "launch")
	o.want(t, exitDone, texts("launch\n  when      once, at Mon 2096-12-24 18:00:00 +00:00\n", "\n  sends     the event Campaign.begins\n", ": no [31m; money\n",
		"\n  ticks     0 fired, 0 finished, 0 failed, 0 skipped\n"), nil)
	if strings.Contains(o.out, "\x1b") {
		t.Errorf("an escape sequence got through: %q", o.out)
	}
	l.run("get", "nightly").want(t, exitDone, texts("\n  clocks    a time that they skip: run-after; that they show twice: once\n", "\n  handler   nightly\n",
		"\n  overlap   skip; a run has failed after 1h\n", "\n  catch-up  latest, at most 1h late\n", "\n  payload   {\"to\":\"Zoë\"}\n"), nil)
	l.run("next", "nightly", "-n", "2").want(t, exitDone, texts("Europe/Berlin                   UTC                      IN",
		"\nSun 2096-01-01 03:00:00 +01:00  Sun 2096-01-01 02:00:00  ", "\nMon 2096-01-02 03:00:00 +01:00  "), nil)
	l.run("next", "launch").want(t, exitDone, texts("\nMon 2096-12-24 18:00:00  "), texts("launch is paused: these ticks are skipped"))
	l.run("resume", "launch").want(t, exitDone, texts("resumed launch, next tick Mon 2096-12-24 18:00:00 +00:00\n"), nil)
	l.run("history", "launch").want(t, exitDone, nil, texts("no tick of launch has been due yet"))
	l.run("history", "launch", "--json").want(t, exitDone, texts("[]\n"), nil)
	for _, command := range []string{"get", "next", "history", "pause", "resume", "trigger"} {
		wantProblem(t, l.env, exitFailed, "not_found", "there is no schedule nope on nats://", "schedules", command, "nope")
	}
}

// What the clocks do is told beside the ticks; no bus is needed.
func TestSchedulesNextOfALine(t *testing.T) {
	t.Parallel()
	env := with("NATS_URL", "nats://127.0.0.1:1")
	berlin := texts("schedules", "next", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--start", "2027-03-27", "-n", "3")
	o := rpcdo(t, env, berlin...)
	o.want(t, exitDone, texts("Europe/Berlin                   UTC                      IN", "\nSat 2027-03-27 02:30:00 +01:00  Sat 2027-03-27 01:30:00  ",
		"\nSun 2027-03-28 03:00:00 +02:00  Sun 2027-03-28 01:00:00  ", "  clocks skip 02:30:00 that day: right after\n", "\nMon 2027-03-29 02:30:00 +02:00  "), nil)
	coming := fromJSON[[]schedule.Coming](t, rpcdo(t, env, append(berlin, "--json")...).out)
	if len(coming) != 3 || coming[1].Wall != "2027-03-28 02:30:00" || coming[1].Note != "after the hole" || coming[1].Nominal.Hour() != 1 {
		t.Errorf("got %+v", coming)
	}
	if o := rpcdo(t, env, append(berlin, "--gap", "skip")...); strings.Contains(o.out, "2027-03-28") {
		t.Errorf("got %s", o.out)
	}
	rpcdo(t, env, "schedules", "next", "--cron", "30 1 * * *", "--timezone", "America/New_York", "--repeat", "twice", "--start", "2027-11-07", "-n", "2").want(t,
		exitDone, texts("\nSun 2027-11-07 01:30:00 -04:00  Sun 2027-11-07 05:30:00", "\nSun 2027-11-07 01:30:00 -05:00  Sun 2027-11-07 06:30:00",
			"clocks show 01:30:00 twice that day: the second time"), nil)
	rpcdo(t, env, "schedules", "next", "--cron", "@daily", "--end", "2001-01-01").want(t, exitDone, nil, texts("it does not tick any more"))
	rpcdo(t, env, "schedules", "next", "--cron", "@daily", "--end", "2001-01-01", "--json").want(t, exitDone, texts("[]\n"), nil)
}

func TestSchedulesFire(t *testing.T) {
	t.Parallel()
	l := newSchedulesBus(t)
	got, release := make(chan schedule.Tick, 10), make(chan error)
	l.serve("report", func(ctx context.Context, tick schedule.Tick) error {
		got <- tick
		select {
		case err := <-release:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	l.run("create", "nightly", "0 3 * * *", "--handler", "report", "--payload", `{"n":1}`).want(t, exitDone, texts("created nightly"), nil) // it has a handler
	l.run("trigger", "nightly").want(t, exitDone, texts("triggered nightly, nightly@"), nil)
	if tick := <-got; tick.Kind != schedule.KindTrigger || string(tick.Payload) != `{"n":1}` {
		t.Errorf("got %+v", tick)
	}
	l.run("get", "nightly").want(t, exitDone, texts("\n  running   nightly@", " until "), nil)
	o := l.run("trigger", "nightly")
	o.want(t, exitFailed, nil, texts("nightly has not fired: overlap: a run goes on"))
	o.wantLine(t)
	wantProblem(t, l.env, exitFailed, "failed_precondition", "overlap", "schedules", "trigger", "nightly")
	release <- errors.New("no \x1b[31mpaper\nleft")
	until(t, "the run has failed", func() bool { return l.get("nightly").Counts.Failed == 1 })
	o = l.run("history", "nightly")
	o.want(t, exitDone, texts("TICK ", "failed ", "trigger  no  [31mpaper; left\n", "skipped ", "trigger  overlap\n", "fired "), nil)
	if strings.Contains(o.out, "\x1b") {
		t.Errorf("an escape sequence got through: %q", o.out)
	}
	l.run("get", "nightly").want(t, exitDone, texts(", failed 2", ": no  [31mpaper; left\n", "1 fired, 0 finished, 1 failed, 2 skipped (overlap 2)\n"), nil)
	if list := fromJSON[[]schedule.Outcome](t, l.run("history", "nightly", "--limit", "1", "--json").out); len(list) != 1 || list[0].State != schedule.Failed {
		t.Errorf("got %+v", list)
	}

	l.run("create", "nightly", "0 3 * * *", "--handler", "report", "--overlap", "buffer-all", "--replace").want(t, exitDone, texts("replaced nightly"), nil)
	if done := fromJSON[backfilled](t, l.run("backfill", "nightly", "3d", "0s", "--json").out); done.Name != "nightly" || done.Ticks != 3 || !done.From.Before(done.Until) {
		t.Errorf("got %+v", done)
	}
	l.run("trigger", "nightly", "--payload", "null").want(t, exitDone, texts("triggered nightly: it waits for the run before, with 3 ticks\n"), nil)
	for i := range 4 {
		tick := <-got
		if want := []schedule.Kind{"backfill", "backfill", "backfill", "trigger"}[i]; tick.Kind != want {
			t.Errorf("tick %d: %+v", i, tick)
		}
		release <- nil
	}
	until(t, "all have finished", func() bool { return l.get("nightly").Counts.Finished == 4 })
	l.run("backfill", "nightly", "2001-01-01T04:00:00Z", "2001-01-01T05:00:00Z").want(t, exitDone, nil, texts("nightly has no ticks from "))
	l.run("backfill", "nightly", "2001-01-01T00:00:00Z", "2001-01-03T23:00:00Z").want(t, exitDone, texts("filled in 3 ticks of nightly from "), nil)
	wantProblem(t, l.env, exitUsage, "invalid_argument", "more than 1000 ticks", "schedules", "backfill", "nightly", "2001-01-01", "2020-01-01")
	for range 3 {
		<-got
		release <- nil
	}
	until(t, "all have finished", func() bool { return l.get("nightly").Counts.Finished == 7 })
}

func TestSchedulesRemove(t *testing.T) {
	t.Parallel()
	l := newSchedulesBus(t)
	l.run("create", "nightly", "0 3 * * *", "--event", "Night.comes")
	asked := l.env
	asked.InTerminal = true
	asked.In = strings.NewReader("n\n")
	rpcdo(t, asked, "schedules", "rm", "nightly").want(t, exitFailed, nil, texts("Delete the schedule nightly, 0 3 * * *, with its history? [y/N] ", "nothing was deleted"))
	asked.In = strings.NewReader("y\n")
	rpcdo(t, asked, "schedules", "rm", "nightly").want(t, exitDone, texts("deleted nightly\n"), texts("[y/N] "))
	wantProblem(t, l.env, exitFailed, "not_found", "there is no schedule nightly on ", "schedules", "rm", "nightly", "--yes")
	l.run("create", "nightly", "0 3 * * *", "--event", "Night.comes")
	l.run("rm", "nightly", "-y", "--json").want(t, exitDone, texts(`{"name":"nightly","deleted":true}`+"\n"), nil)
}

func TestSchedulesUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{texts(), "schedules needs a command: create, ls, get, next, history, pause, resume, trigger, backfill, rm"},
		{texts("create"), "which schedule? want a name and a cron line"},
		{texts("create", "x"), "when does it tick? want a cron line"},
		{texts("create", "a.b", "@daily"), `schedule "a.b": it must be one token`},
		{texts("create", "x", "0", "3", "*", "*", "*"), "5 arguments after the name: want one; put the cron line in quotes"},
		{texts("create", "x", "@daily", "--at", "5m"), "a cron line and --at both say when"},
		{texts("create", "x", "soon"), `cron line "soon": it has the wrong number of fields, 1`},
		{texts("create", "x", "61 * * * *"), `cron line "61 * * * *": minute "61"`},
		{texts("create", "x", "@daily", "--timezone", "Berlin"), "did you mean Europe/Berlin?"},
		{texts("create", "x", "TZ=Europe/Berlin @daily", "--timezone", "UTC"), `it names two zones, "Europe/Berlin" and "UTC": leave one out`},
		{texts("create", "x", "--at", "tomorrow"), `--at "tomorrow": want a time, such as`},
		{texts("create", "x", "--at", "2100-01-01T00:00:00Z"), "--at 2100-01-01T00:00:00Z is out of bounds: years 1970 to 2099"},
		{texts("create", "x", "@daily", "--start", "2027-01-02", "--end", "2027-01-01"), "--end 2027-01-01 "},
		{texts("create", "x", "@daily", "--runs", "0"), "--runs 0: want 1 or more"},
		{texts("create", "x", "@daily", "--runs", "many"), `--runs "many": want a whole number`},
		{texts("create", "x", "@daily", "--overlap", "never"), `--overlap "never": want skip, buffer-one, buffer-all, allow, cancel`},
		{texts("create", "x", "@daily", "--catchup", "some"), `--catchup "some": want latest, all, none`},
		{texts("create", "x", "@daily", "--gap", "x"), `--gap "x": want run-after, skip`},
		{texts("create", "x", "@daily", "--repeat", "x"), `--repeat "x": want once, twice`},
		{texts("create", "x", "@daily", "--jitter", "5"), `--jitter "5": want a time with its unit, such as 30s, 5m or 2d`},
		{texts("create", "x", "@daily", "--jitter", "400d"), "--jitter 9600h0m0s: want 0s to 8784h0m0s"},
		{texts("create", "x", "@daily", "--run-timeout", "1ms"), "--run-timeout 1ms: want 1s to"},
		{texts("create", "x", "@daily", "--catchup-window", "1ms"), "--catchup-window 1ms: want 1s to"},
		{texts("create", "x", "@daily", "--payload", "{"), "--payload: malformed JSON"},
		{texts("create", "x", "@daily", "--payload", `"`+strings.Repeat("x", 256<<10)+`"`), "--payload: it has 262146 bytes, at most 262144 are allowed"},
		{texts("create", "x", "@daily", "--event", "User"), `--event "User": 1 tokens; 2 to 6 are allowed`},
		{texts("create", "x", "@daily", "--handler", "a b"), `--handler "a b": ' ' is not allowed`},
		{texts("create", "x", "@daily", "--handler", "a", "--event", "A.b"), "--event and --handler: want one of them"},
		{texts("create", "x", "@daily", "--event", "A.b", "--overlap", "skip"), "are for handlers: nobody says how"},
		{texts("ls", "a*"), "want what the names begin with, without wildcards"},
		{texts("ls", "a", "b"), "2 arguments: want one at most"},
		{texts("get"), "which schedule? want its name"},
		{texts("get", "a", "b"), "2 arguments: want the name of one schedule"},
		{texts("next"), "which schedule? want its name, such as nightly, or --cron"},
		{texts("next", "x", "--cron", "@daily"), "a name and --cron both say what ticks"},
		{texts("next", "x", "--timezone", "UTC"), "--timezone goes with --cron"},
		{texts("next", "--cron", ""), "--cron: the line is empty"},
		{texts("next", "--cron", "soon"), `cron line "soon": it has the wrong number of fields`},
		{texts("next", "x", "-n", "0"), "--count 0: want 1 to 1000"},
		{texts("history", "x", "--limit", "0"), "--limit 0: want 1 or more"},
		{texts("trigger", "x", "--payload", "{"), "--payload: malformed JSON"},
		{texts("backfill", "x", "7d"), "want a name and two times"},
		{texts("backfill", "x", "soon", "0s"), `"soon": want a time, such as`},
		{texts("backfill", "x", "0s", "7d"), "7d is before 0s: want the earlier time first"},
		{texts("backfill", "x", "7d", "2096-01-01"), "2096-01-01 is yet to come"},
		{texts("rm", "x"), "there is no terminal to ask on: give --yes"},
	} {
		t.Run(strings.Join(c.args, " ")[:min(len(strings.Join(c.args, " ")), 80)], func(t *testing.T) {
			t.Parallel()
			args := append([]string{"schedules"}, c.args...)
			o := rpcdo(t, with("NATS_URL", "nats://127.0.0.1:1"), args...)
			o.want(t, exitUsage, nil, texts("rpcdo: ", c.want, "--help)"))
			o.wantLine(t)
			wantProblem(t, with("NATS_URL", "nats://127.0.0.1:1"), exitUsage, "invalid_argument", c.want, args...)
		})
	}
}

func TestSchedulesWithoutABus(t *testing.T) {
	t.Parallel()
	env := with("NATS_URL", "nats://127.0.0.1:1")
	for _, args := range [][]string{
		{"create", "x", "@daily"}, {"ls"}, {"get", "x"}, {"next", "x"}, {"history", "x"}, {"pause", "x"}, {"resume", "x"}, {"trigger", "x"},
		{"backfill", "x", "7d", "0s"}, {"rm", "x", "--yes"},
	} {
		o := rpcdo(t, env, append([]string{"schedules"}, args...)...)
		o.want(t, exitFailed, nil, texts("nothing listens at nats://127.0.0.1:1"))
		o.wantLine(t)
	}
}

func TestSchedulesCompletion(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{"--overlap": "buffer-one\n", "--catchup": "latest\n", "--gap": "run-after\n", "--repeat": "twice\n"} {
		rpcdo(t, Env{}, "__complete", "schedules", "create", flag, "").want(t, exitDone, texts(want), texts("Completion ended"))
	}
}

// toJSON writes a value as JSON.
func toJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
