package cli

import (
	"context"
	"strings"
	"testing"

	"rpc.do/pipeline"
)

func TestEventsHandlers(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.run("handlers").want(t, exitDone, nil, texts("no handlers of events have run on nats://"))
	l.run("handlers", "--json").want(t, exitDone, texts("[]\n"), nil)
	done := func(context.Context, pipeline.RawEvent) error { return nil }
	stop := l.serve("mailer", "send-welcome", "User.registered", done, pipeline.Also("User.changed.*"))
	l.serve("audit", "record", "$.>", done)
	until(t, "both wait for events", func() bool { return strings.Count(l.run("handlers").out, "  yes\n") == 2 })
	l.run("handlers").want(t, exitDone, texts(
		"SERVICE  HANDLER       PATTERNS                         VERSION  PENDING  RUNNING  AGAIN  DEAD  OLDEST  WAITING\n",
		"audit    record        $.>                              1.2.3    0        0        0      0     -       yes\n",
		"mailer   send-welcome  User.changed.*, User.registered  1.2.3    0        0        0      0     -       yes\n"), nil)
	stop()
	l.send("User.registered", 2)
	o := l.run("handlers", "mailer")
	o.want(t, exitDone, texts("1.2.3    2        0        0      0     ", "  no\n"), nil)
	if strings.Contains(o.out, "audit") {
		t.Errorf("got %s", o.out)
	}
	found := fromJSON[[]pipeline.HandlerInfo](t, l.run("handlers", "mailer", "--json").out)
	if len(found) != 1 || found[0].Pending != 2 || found[0].Waiting || len(found[0].Patterns) != 2 {
		t.Errorf("got %+v", found)
	}
	wantProblem(t, l.env, exitFailed, "not_found", `no handler of a service "nope" has run on nats://`, "events", "handlers", "nope")
}

func TestEventsHandlersRemove(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	stop := l.serve("mailer", "send-welcome", "User.registered", func(context.Context, pipeline.RawEvent) error { return nil })
	wantProblem(t, l.env, exitFailed, "failed_precondition", "stop the instances", "events", "handlers", "rm", "mailer", "send-welcome", "--yes")
	stop()
	l.send("User.registered", 3)
	asked := l.env
	asked.In, asked.InTerminal = strings.NewReader("n\n"), true
	rpcdo(t, asked, "events", "handlers", "rm", "mailer", "send-welcome").want(t, exitFailed, nil,
		texts("Forget the handler send-welcome of mailer, with 3 events that it has not had and 0 that it was to have again? [y/N] ", "nothing was forgotten"))
	asked.In = strings.NewReader("y\n")
	rpcdo(t, asked, "events", "handlers", "rm", "mailer", "send-welcome").want(t, exitDone, texts("forgot the handler send-welcome of mailer\n"), texts("[y/N] "))
	l.run("handlers", "--json").want(t, exitDone, texts("[]\n"), nil)
	wantProblem(t, l.env, exitFailed, "not_found", "has run on nats://", "events", "handlers", "rm", "mailer", "send-welcome", "--yes")
}

func TestEventsLag(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	began, release := make(chan struct{}), make(chan struct{})
	stop := l.serve("mailer", "send-welcome", "User.registered", func(context.Context, pipeline.RawEvent) error {
		began <- struct{}{}
		<-release
		return nil
	}, pipeline.Concurrency(1))
	l.run("lag", "mailer", "send-welcome", "--max-age", "1ms", "--max-pending", "0", "--max-dead", "0").want(t, exitDone, texts("never"), nil)
	l.send("User.registered", 3)
	<-began
	l.run("lag").want(t, exitDone, texts("SERVICE  HANDLER       PENDING  RUNNING  REDELIVERED  AGAIN  DEAD  OLDEST", "ms ago"), nil)
	o := l.run("lag", "mailer", "--max-age", "1ms")
	o.want(t, exitFailed, texts("mailer   send-welcome  "), texts("rpcdo: mailer send-welcome has an event that is ", " old, more than 1ms\n"))
	o.wantLine(t)
	o = l.run("lag", "--max-age", "1d", "--max-pending", "100", "--json")
	o.want(t, exitDone, texts(`"oldest":"`), nil)
	o = l.run("lag", "--max-age", "1ms", "--json")
	if p := fromJSON[problem](t, o.err); o.status != exitFailed || p.Code != "failed_precondition" || len(fromJSON[[]pipeline.HandlerInfo](t, o.out)) != 1 {
		t.Errorf("status %d, %+v, %s", o.status, p, o.out)
	}
	close(release)
	<-began
	<-began
	stop()
	l.send("User.registered", 5)
	l.run("lag", "--max-pending", "4").want(t, exitFailed, texts("no\n"), texts("mailer send-welcome has 5 events to come, more than 4"))
	l.run("lag", "--max-pending", "5").want(t, exitDone, texts("no\n"), nil)
	wantProblem(t, l.env, exitFailed, "not_found", `no handler "nope" of a service "mailer"`, "events", "lag", "mailer", "nope")
}

func TestEventsReplay(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.send("Order.placed", 2) // before there was a handler
	l.send("Order.paid", 1)
	handled := make(chan pipeline.RawEvent, 100)
	handle := func(_ context.Context, e pipeline.RawEvent) error { handled <- e; return nil }
	stop := l.serve("shop", "follow", "Order.*", handle, pipeline.Concurrency(1))
	l.run("replay", "shop", "follow", "--dry-run").want(t, exitDone, texts("shop follow would have 3 events again\n"), nil)
	l.run("replay", "shop", "follow", "--dry-run", "--pattern", "Order.paid").want(t, exitDone, texts("would have 1 event again\n"), nil)
	l.run("replay", "shop", "follow", "--dry-run", "--since", "1h", "--after", "1").want(t, exitDone, texts("would have 2 events again\n"), nil)
	l.run("replay", "shop", "follow", "--pattern", "User.*").want(t, exitDone, texts("is to have 0 events again\n"), texts("the handler has events of Order.*: of these none is stored"))
	l.env.ErrTerminal = true
	l.run("replay", "shop", "follow", "--wait").want(t, exitDone, texts("shop follow has had 3 events again\n"), texts("\r\x1b[Kreplaying shop follow: 3 events queued, at 3 of 3"))
	l.env.ErrTerminal = false
	for i := range 3 {
		if e := <-handled; !e.Again || e.Sequence != uint64(i+1) {
			t.Errorf("got %+v", e)
		}
	}
	r := fromJSON[replayed](t, l.run("replay", "shop", "follow", "--before", "2", "--wait", "--json").out)
	if want := (replayed{Service: "shop", Handler: "follow", Replayed: pipeline.Replayed{Events: 1, Sequence: 1, Last: 1}, Done: true}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	<-handled
	stop()
	l.run("replay", "shop", "follow", "--after", "2").want(t, exitDone, texts("is to have 1 event again\n"), texts("no instance waits for events now"))
	p := start(t, l.env, "events", "replay", "shop", "follow", "--wait")
	<-p.err.contains("no instance of shop waits for events")
	l.serve("shop", "follow", "Order.*", handle, pipeline.Concurrency(1))
	p.waitFor(t, "has had 3 events again\n")
	wantProblem(t, l.env, exitFailed, "not_found", `no handler "nope"`, "events", "replay", "shop", "nope")
	if len(handled) != 4 {
		t.Errorf("%d were handled, want 4", len(handled))
	}
}

func TestEventsReplayIsInterrupted(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.serve("shop", "follow", "Order.*", func(context.Context, pipeline.RawEvent) error { return nil })()
	l.send("Order.placed", 2)
	p := start(t, l.env, "events", "replay", "shop", "follow", "--wait")
	<-p.err.contains("no instance of shop waits for events")
	if status := p.stop(t); status != exitFailed || !strings.Contains(p.err.String(), "interrupted: 2 events are still to come; the handler has them all the same") {
		t.Errorf("status %d, stderr %q", status, &p.err)
	}
}
