package schedule_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/schedule"
	"rpc.do/server"
)

// Each tick comes once however many processes there are.
func TestEverySecond(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	for range 3 {
		l.serve(func(svc *server.Service) { schedule.Add(svc, "heartbeat", "@every 1s", g.handle) })
	}
	l.until("five ticks came", func() bool { return len(g.all()) >= 5 })
	seen := map[time.Time]bool{}
	for _, tick := range g.all() {
		if seen[tick.Nominal] {
			t.Errorf("the tick of %v came twice", tick.Nominal)
		}
		seen[tick.Nominal] = true
		if late := tick.Fired.Sub(tick.Nominal); late < 0 || late > 5*time.Second || tick.Schedule != "heartbeat" || tick.Attempt != 1 {
			t.Errorf("%+v, late by %v", tick, late)
		}
	}
	l.until("they have finished", func() bool { return l.get("heartbeat").Counts.Finished >= 5 })
}

func TestManage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	var g ticks
	l.serve(func(svc *server.Service) { schedule.Handle(svc, "report", g.handle) })
	spec := schedule.Spec{Name: "nightly", Cron: "0 3 * * *", Zone: "Europe/Berlin", Handler: "report", Payload: []byte(`{"n":1}`)}
	info, err := l.all.Create(ctx, spec, false)
	if err != nil || info.Next.IsZero() {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, err := l.all.Create(ctx, spec, false); err != nil {
		t.Errorf("once more: %v", err)
	}
	other := spec
	other.Cron = "0 4 * * *"
	_, err = l.all.Create(ctx, other, false)
	l.coded(err, rpc.AlreadyExists, "nightly")
	if changed, err := l.all.Create(ctx, other, true); err != nil || !changed.Next.After(info.Next) && changed.Next.Equal(info.Next) {
		t.Errorf("%+v, %v", changed, err)
	}
	if _, err := l.all.Trigger(ctx, "nightly", nil); err != nil {
		t.Fatal(err)
	}
	l.until("it has come", func() bool { return len(g.all()) == 1 })
	if tick := g.all()[0]; tick.Kind != schedule.KindTrigger || string(tick.Payload) != `{"n":1}` || tick.Schedule != "nightly" {
		t.Errorf("%+v", tick)
	}
	l.until("it has finished", func() bool { return l.get("nightly").Counts.Finished == 1 })
	if paused, err := l.all.Pause(ctx, "nightly", "holidays"); err != nil || paused.Paused == nil || paused.Paused.Note != "holidays" {
		t.Errorf("%+v, %v", paused, err)
	}
	if resumed, err := l.all.Resume(ctx, "nightly"); err != nil || resumed.Paused != nil {
		t.Errorf("%+v, %v", resumed, err)
	}
	now := time.Now()
	n, err := l.all.Backfill(ctx, "nightly", now.Add(-72*time.Hour), now.Add(-time.Minute))
	if err != nil || n != 3 {
		t.Errorf("%d ticks, %v", n, err)
	}
	l.until("they have come", func() bool { return len(g.all()) == 4 })
	l.until("they have finished", func() bool { return l.get("nightly").Counts.Finished == 4 })
	list, err := l.all.List(ctx, schedule.List{Prefix: "night"})
	if err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	next, err := l.all.Next(ctx, "nightly", 3)
	if err != nil || len(next) != 3 || next[0].Wall[11:] != "04:00:00" {
		t.Errorf("%+v, %v", next, err)
	}
	if err := l.all.Delete(ctx, "nightly"); err != nil {
		t.Fatal(err)
	}
	_, err = l.all.Get(ctx, "nightly")
	l.coded(err, rpc.NotFound, "nightly")
	l.coded(l.all.Delete(ctx, "nightly"), rpc.NotFound, "nightly")
	if _, err := l.all.Create(ctx, spec, false); err != nil {
		t.Errorf("after it was deleted: %v", err)
	}
}

// A tick that is armed fires, though nobody was there when it was due.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	at := time.Now().Add(time.Second)
	if _, err := l.all.Create(t.Context(), schedule.Spec{Name: "once", At: at}, false); err != nil {
		t.Fatal(err)
	}
	l.until("it is due", func() bool { return time.Now().After(at.Add(500 * time.Millisecond)) })
	l.serve(func(svc *server.Service) { schedule.Handle(svc, "once", g.handle) })
	l.until("it has come", func() bool { return len(g.all()) == 1 })
	l.until("it has finished", func() bool { return l.get("once").Counts.Finished == 1 })
	if info := l.get("once"); !info.Next.IsZero() || info.Counts.Fired != 1 {
		t.Errorf("%+v", info)
	}
}

func TestRunFails(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tries := make(chan int, 10)
	l.serve(func(svc *server.Service) {
		schedule.Handle(svc, "fail", func(_ context.Context, t schedule.Tick) error {
			tries <- t.Attempt
			return errors.New("no paper")
		}, schedule.Attempts(2, time.Millisecond))
	})
	if _, err := l.all.Create(t.Context(), schedule.Spec{Name: "fail", Cron: "@yearly", PauseOnFailure: true}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := l.all.Trigger(t.Context(), "fail", nil); err != nil {
		t.Fatal(err)
	}
	l.until("it has failed", func() bool { return l.get("fail").Counts.Failed == 1 })
	if len(tries) != 2 {
		t.Errorf("%d tries", len(tries))
	}
	if h := l.history("fail"); len(h) != 2 || h[0].State != schedule.Failed || h[0].Reason != "no paper" {
		t.Errorf("%+v", h)
	}
	if info := l.get("fail"); info.Paused == nil {
		t.Errorf("%+v", info)
	}
}
