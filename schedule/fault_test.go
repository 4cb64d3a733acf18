package schedule_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
	"rpc.do/schedule"
	"rpc.do/server"
)

const keys = "$KV." + schedule.Bucket + "."

func (l *lab) create(spec schedule.Spec) schedule.Info {
	l.Helper()
	info, err := l.all.Create(l.Context(), spec, false)
	if err != nil {
		l.Fatal(err)
	}
	return info
}

func (l *lab) stream(name string) jetstream.Stream {
	l.Helper()
	stream, err := l.b.JetStream().Stream(l.Context(), name)
	if err != nil {
		l.Fatal(err)
	}
	return stream
}

func (l *lab) purge(subject string) {
	l.Helper()
	if err := l.stream("KV_"+schedule.Bucket).Purge(l.Context(), jetstream.WithPurgeSubject(keys+subject)); err != nil {
		l.Fatal(err)
	}
}

// edit changes a record behind the back of the package.
func (l *lab) edit(name string, change func(map[string]any), header nats.Header) {
	l.Helper()
	msg, err := l.stream("KV_"+schedule.Bucket).GetLastMsgForSubject(l.Context(), keys+name)
	if err != nil {
		l.Fatal(err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(msg.Data, &fields); err != nil {
		l.Fatal(err)
	}
	change(fields)
	data, err := json.Marshal(fields)
	if err != nil {
		l.Fatal(err)
	}
	if _, err := l.b.JetStream().PublishMsg(l.Context(), &nats.Msg{Subject: keys + name, Header: header, Data: data}); err != nil {
		l.Fatal(err)
	}
}

// settled waits until all ticks that the server has released are decided on.
func (l *lab) settled() {
	l.Helper()
	consumer, err := l.b.JetStream().Consumer(l.Context(), "KV_"+schedule.Bucket, "rpc-schedules")
	if err != nil {
		l.Fatal(err)
	}
	l.until("all ticks are decided on", func() bool {
		info, err := consumer.Info(l.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	})
}

// events are those that EVENTS has, by id.
func (l *lab) events(subject string) map[string]int {
	l.Helper()
	stream := l.stream(bus.EventsStream)
	got := map[string]int{}
	for seq := uint64(1); ; seq++ {
		msg, err := stream.GetMsg(l.Context(), seq, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return got
		}
		if err != nil {
			l.Fatal(err)
		}
		got[msg.Header.Get("ce-id")]++
		seq = msg.Sequence
	}
}

// fence has a tick go the whole way, so that those before it have gone too.
func (l *lab) fence(handler string, g *ticks) {
	l.Helper()
	l.create(schedule.Spec{Name: "fence", At: time.Now().Add(300 * time.Millisecond), Handler: handler})
	l.until("the fence has come", func() bool {
		for _, tick := range g.all() {
			if tick.Schedule == "fence" {
				return true
			}
		}
		return false
	})
	l.settled()
}

func TestChangedWhileArmed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	l.serve(func(svc *server.Service) { schedule.Handle(svc, "report", g.handle) })
	at := time.Now().Add(600 * time.Millisecond).UTC()
	spec := schedule.Spec{Name: "once", At: at, Handler: "report", Payload: []byte(`"old"`)}
	l.create(spec)
	spec.At, spec.Payload = at.Add(400*time.Millisecond), []byte(`"new"`)
	if _, err := l.all.Create(t.Context(), spec, true); err != nil {
		t.Fatal(err)
	}
	l.until("it has come", func() bool { return len(g.all()) > 0 })
	l.fence("report", &g)
	if got := g.all(); len(got) != 2 || string(got[0].Payload) != `"new"` || !got[0].Nominal.Equal(spec.At) {
		t.Errorf("%+v", got)
	}
}

func TestDeletedWhileArmed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	l.serve(func(svc *server.Service) { schedule.Handle(svc, "report", g.handle) })
	l.create(schedule.Spec{Name: "once", At: time.Now().Add(400 * time.Millisecond), Handler: "report"})
	if err := l.all.Delete(t.Context(), "once"); err != nil {
		t.Fatal(err)
	}
	for subject := range l.subjects() {
		if subject != "once" { // which says that it is gone
			t.Errorf("left: %s", subject)
		}
	}
	l.fence("report", &g)
	if got := g.all(); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// A tick that was on its way when its schedule was deleted is not taken for one of
// the next schedule of that name.
func TestMadeAgainWhileFired(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.create(schedule.Spec{Name: "once", At: time.Now().Add(200 * time.Millisecond), Handler: "report"})
	l.until("its tick is there", func() bool { return l.subjects()["_fired.once"] > 0 })
	if err := l.all.Delete(t.Context(), "once"); err != nil {
		t.Fatal(err)
	}
	made := l.create(schedule.Spec{Name: "once", Cron: "@yearly", Handler: "report"})
	var g ticks
	l.serve(func(svc *server.Service) { schedule.Handle(svc, "report", g.handle) })
	l.fence("report", &g)
	if info := l.get("once"); info.Counts.Fired != 0 || !info.Next.Equal(made.Next) || len(g.all()) != 1 {
		t.Errorf("%+v, %+v", info, g.all())
	}
}

// The process that decides dies before it has armed the next tick.
func TestDiedBeforeArming(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	for range 2 {
		l.serve(func(svc *server.Service) { schedule.Handle(svc, "once", g.handle) })
	}
	l.create(schedule.Spec{Name: "once", At: time.Now().Add(700 * time.Millisecond)})
	l.purge("_armed.once")
	l.until("it is found", func() bool { return len(g.all()) > 0 })
	l.until("it has finished", func() bool { return l.get("once").Counts.Finished == 1 })
	if info := l.get("once"); info.Counts.Fired != 1 || len(g.all()) != 1 {
		t.Errorf("%+v", info)
	}
}

// The process that decides dies before it has sent the event.
func TestDiedBeforeSending(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	forgotten := make(chan struct{}) // what was pending
	l.create(schedule.Spec{Name: "yearly", Cron: "@yearly"})
	now := time.Now().UTC()
	id := "yearly@" + now.Format(time.RFC3339Nano)
	event := schedule.Event{Schedule: "yearly", ID: id, Nominal: now, Fired: now, Until: now.Add(time.Hour)}
	l.edit("yearly", func(r map[string]any) {
		r["running"] = []any{schedule.Run{ID: id, Nominal: now, Fired: now, Until: now.Add(time.Hour)}}
		r["pending"] = []any{map[string]any{"id": id, "event": "Schedule.fired.yearly", "data": event, "time": now, "nominal": now}}
		r["counts"] = schedule.Counts{Fired: 1}
	}, nats.Header{"Rpc-Wake": {now.Format(time.RFC3339Nano)}})
	for range 2 {
		l.serve(func(svc *server.Service) {
			schedule.Handle(svc, "yearly", func(ctx context.Context, tick schedule.Tick) error {
				<-forgotten
				return g.handle(ctx, tick)
			})
		})
	}
	l.until("the record says that nothing is to be sent any more", func() bool {
		msg, err := l.stream("KV_"+schedule.Bucket).GetLastMsgForSubject(t.Context(), keys+"yearly")
		return err == nil && !strings.Contains(string(msg.Data), `"pending"`)
	})
	close(forgotten)
	l.until("it is found, and finishes", func() bool { return l.get("yearly").Counts.Finished == 1 })
	if n := len(l.events("$.Schedule.fired.yearly")); n != 1 || len(g.all()) != 1 {
		t.Errorf("%d events, %+v", n, g.all())
	}
}

// The overlap policy ends the context of a run in another process.
func TestCancel(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	type end struct{ err, cause error }
	began, ended := make(chan string, 2), make(chan end, 2)
	release := make(chan struct{})
	for range 2 {
		l.serve(func(svc *server.Service) {
			schedule.Handle(svc, "long", func(ctx context.Context, tick schedule.Tick) error {
				began <- tick.ID
				select {
				case <-ctx.Done():
					ended <- end{ctx.Err(), context.Cause(ctx)}
					return ctx.Err()
				case <-release:
					return nil
				}
			})
		})
	}
	l.create(schedule.Spec{Name: "long", Cron: "@yearly", Overlap: schedule.OverlapCancel, PauseOnFailure: true})
	trigger := func() {
		if _, err := l.all.Trigger(t.Context(), "long", nil); err != nil {
			t.Fatal(err)
		}
	}
	trigger()
	first := <-began
	trigger()
	select {
	case e := <-ended:
		if !errors.Is(e.err, context.Canceled) || e.cause == nil || e.cause.Error() == e.err.Error() {
			t.Errorf("%+v", e)
		}
	case <-time.After(patience):
		t.Fatal("the first run goes on")
	}
	if second := <-began; second == first {
		t.Errorf("%s came twice", first)
	}
	close(release)
	l.until("the second has finished", func() bool { return l.get("long").Counts.Finished == 1 })
	if info := l.get("long"); info.Counts.Failed != 1 || info.Paused != nil {
		t.Errorf("%+v", info)
	}
	if h := l.history("long"); len(h) != 4 || h[2].Reason != schedule.ReasonCancel || h[2].Kind != schedule.KindTrigger {
		t.Errorf("%+v", h)
	}
}

// A schedule that has an event of its own sends that, with its payload as data.
func TestOwnEvent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	type order struct{ N int }
	got := make(chan pipeline.Event[order], 10)
	for range 2 {
		l.serve(func(svc *server.Service) {
			schedule.Serve(svc)
			pipeline.On(svc, rpc.NewEvent[order]("Order.due"), "note", func(_ context.Context, e pipeline.Event[order]) error {
				got <- e
				return nil
			})
		})
	}
	at := time.Now().Add(300 * time.Millisecond).UTC()
	l.create(schedule.Spec{Name: "due", At: at, Event: "Order.due", Payload: []byte(`{"N":7}`)})
	select {
	case e := <-got:
		if e.Data.N != 7 || e.ID != "due@"+at.Format(time.RFC3339Nano) || e.Subject != "due" {
			t.Errorf("%+v", e)
		}
	case <-time.After(patience):
		t.Fatal("it does not come")
	}
	if n := l.events("$.Order.due"); len(n) != 1 || n["due@"+at.Format(time.RFC3339Nano)] != 1 {
		t.Errorf("%v", n)
	}
	l.until("the record does not wait for anything", func() bool {
		info := l.get("due")
		return info.Counts.Fired == 1 && len(info.Running) == 0 && info.Next.IsZero()
	})
	for subject, n := range l.subjects() {
		if subject == "_armed.due" {
			t.Errorf("%s has %d", subject, n)
		}
	}
}

// Services that have the same handler share its runs.
func TestServicesShare(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var mu sync.Mutex
	by := map[string][]string{} // id to services
	for _, name := range []string{"reports", "billing"} {
		l.serveAs(name, func(svc *server.Service) {
			schedule.Handle(svc, "share", func(_ context.Context, tick schedule.Tick) error {
				mu.Lock()
				defer mu.Unlock()
				by[tick.ID] = append(by[tick.ID], name)
				return nil
			})
		})
	}
	l.create(schedule.Spec{Name: "share", Cron: "@yearly", Overlap: schedule.OverlapAllow})
	const n = 20
	for range n {
		if _, err := l.all.Trigger(t.Context(), "share", nil); err != nil {
			t.Fatal(err)
		}
	}
	l.until("all have finished", func() bool { return l.get("share").Counts.Finished == n })
	mu.Lock()
	defer mu.Unlock()
	for id, names := range by {
		if len(names) != 1 {
			t.Errorf("%s ran at %v", id, names)
		}
	}
	if len(by) != n {
		t.Errorf("%d runs", len(by))
	}
}

// A run that ends while the bus is away does not run again when it is back.
func TestEndsWithoutBus(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var runs atomic.Int32
	began, down := make(chan struct{}), make(chan struct{})
	l.serve(func(svc *server.Service) {
		schedule.Handle(svc, "report", func(context.Context, schedule.Tick) error {
			if runs.Add(1) == 1 {
				close(began)
				<-down
			}
			return errors.New("no paper")
		})
	})
	l.create(schedule.Spec{Name: "report", Cron: "@yearly"})
	if _, err := l.all.Trigger(t.Context(), "report", nil); err != nil {
		t.Fatal(err)
	}
	<-began
	l.srv.NATS().Shutdown()
	close(down)
	if err := l.srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.until("it has failed", func() bool {
		info, err := l.all.Get(t.Context(), "report")
		return err == nil && info.Counts.Failed == 1
	})
	if n := runs.Load(); n != 1 {
		t.Errorf("%d runs", n)
	}
}

// An error that tells events not to try again does not keep a run from its
// attempts, nor from having an outcome.
func TestFinalErrors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	attempts := make(chan int, 10)
	l.serve(func(svc *server.Service) {
		schedule.Handle(svc, "lost", func(_ context.Context, tick schedule.Tick) error {
			attempts <- tick.Attempt
			if tick.Schedule == "terminal" {
				return rpc.Terminal(errors.New("no paper"))
			}
			return rpc.NotFound.Errorf("no paper")
		}, schedule.Attempts(3, time.Millisecond))
	})
	for name, want := range map[string]int{"lost": 3, "terminal": 1} {
		l.create(schedule.Spec{Name: name, Cron: "@yearly", Handler: "lost"})
		if _, err := l.all.Trigger(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
		l.until(name+" has failed", func() bool { return l.get(name).Counts.Failed == 1 })
		if n := len(attempts); n != want {
			t.Errorf("%s: %d attempts", name, n)
		}
		for range want {
			<-attempts
		}
	}
}

// Deleting a schedule ends what has fired and not begun.
func TestDeletedBeforeRun(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.create(schedule.Spec{Name: "report", Cron: "@yearly"})
	if _, err := l.all.Trigger(t.Context(), "report", nil); err != nil {
		t.Fatal(err)
	}
	if err := l.all.Delete(t.Context(), "report"); err != nil {
		t.Fatal(err)
	}
	var g ticks
	l.serve(func(svc *server.Service) { schedule.Handle(svc, "report", g.handle) })
	l.fence("report", &g)
	if n := len(g.all()); n != 1 {
		t.Errorf("%+v", g.all())
	}
}

// Many change a schedule while it ticks: each change happens once.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	for range 2 {
		l.serve(func(svc *server.Service) { schedule.Handle(svc, "busy", g.handle) })
	}
	l.create(schedule.Spec{Name: "busy", Cron: "@every 1s", Overlap: schedule.OverlapAllow})
	const each, callers = 10, 4
	var group sync.WaitGroup
	for range callers {
		all := schedule.Open(bustest.Connect(t, l.srv))
		group.Go(func() {
			for range each {
				if _, err := all.Trigger(t.Context(), "busy", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	l.until("all have finished", func() bool {
		counts := l.get("busy").Counts
		return counts.Finished >= each*callers+1 && counts.Finished == counts.Fired
	})
	if _, err := l.all.Pause(t.Context(), "busy", "enough"); err != nil {
		t.Fatal(err)
	}
	l.until("what ran has finished", func() bool { return len(l.get("busy").Running) == 0 })
	seen, triggers := map[string]bool{}, 0
	for _, tick := range g.all() {
		if seen[tick.ID] {
			t.Errorf("%s came twice", tick.ID)
		}
		if seen[tick.ID] = true; tick.Kind == schedule.KindTrigger {
			triggers++
		}
	}
	if counts := l.get("busy").Counts; triggers != each*callers || counts.Fired != uint64(len(seen)) {
		t.Errorf("%d triggers, %d ticks, %+v", triggers, len(seen), counts)
	}
	if n := len(l.events("$.Schedule.fired.busy")); n != len(seen) {
		t.Errorf("%d events, %d ticks", n, len(seen))
	}
}

// A definition whose end has come is no reason not to start.
func TestAddIsOver(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	l.serve(func(svc *server.Service) {
		schedule.Add(svc, "over", "@daily", g.handle, schedule.With(func(s *schedule.Spec) { s.End = time.Now().Add(-time.Hour) }))
	})
	_, err := l.all.Get(t.Context(), "over")
	l.coded(err, rpc.NotFound)
	defer func() {
		if text := fmt.Sprint(recover()); !strings.Contains(text, "schedule: Add: ") || !strings.Contains(text, "nonsense") {
			t.Errorf("panic %q", text)
		}
	}()
	schedule.Add(server.New(l.b, "x", server.Config{}), "wrong", "nonsense", g.handle)
	t.Error("a definition that is wrong is taken")
}
