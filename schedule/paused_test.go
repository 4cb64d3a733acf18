package schedule_test

import (
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/schedule"
	"rpc.do/server"
)

// A schedule that begins paused does not fire before it is resumed.
func TestBeginsPaused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	l.serve(func(svc *server.Service) { schedule.Handle(svc, "wait", g.handle) })
	spec := schedule.Spec{Name: "wait", Cron: "@every 1s", Paused: "until the launch"}
	info, err := l.all.Create(t.Context(), spec, false)
	if err != nil || info.Paused == nil || info.Paused.Note != "until the launch" {
		t.Fatalf("%+v, %v", info, err)
	}
	l.until("a tick is skipped", func() bool { return l.get("wait").Counts.Skipped[schedule.ReasonPaused] > 0 })
	if n := len(g.all()); n > 0 {
		t.Errorf("%d ticks came", n)
	}
	if _, err := l.all.Resume(t.Context(), "wait"); err != nil {
		t.Fatal(err)
	}
	resumed := time.Now()
	l.until("a tick has come", func() bool { return len(g.all()) > 0 })
	if tick := g.all()[0]; tick.Nominal.Before(resumed.Add(-2 * time.Second)) {
		t.Errorf("%+v came after %v", tick, resumed)
	}
	if info, err := l.all.Create(t.Context(), spec, false); err != nil || info.Paused != nil {
		t.Errorf("made once more: %+v, %v", info, err)
	}
	spec.Name, spec.Paused = "long", strings.Repeat("x", 1001)
	_, err = l.all.Create(t.Context(), spec, false)
	l.coded(err, rpc.InvalidArgument, "note", "1000")
}
