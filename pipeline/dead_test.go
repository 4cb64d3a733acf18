package pipeline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
	"rpc.do/server"
)

func (l *lab) deadLetters(n int) []pipeline.DeadLetter {
	l.Helper()
	var found []pipeline.DeadLetter
	l.until("the dead letters are there", func() bool {
		var err error
		if found, err = l.p.DeadLetters(l.Context(), pipeline.DeadQuery{Limit: 1000}); err != nil {
			l.Fatal(err)
		}
		return len(found) >= n
	})
	if len(found) != n {
		l.Fatalf("%d dead letters, want %d: %+v", len(found), n, found)
	}
	return found
}

// What becomes of an event says its handler's error.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	outcomes := map[string]error{
		"invalid_argument": rpc.InvalidArgument.Errorf("no such size"), "not_found": rpc.NotFound.Errorf("gone"),
		"permission_denied": rpc.PermissionDenied.Errorf("no"), "unauthenticated": rpc.Unauthenticated.Errorf("who?"),
		"unimplemented": rpc.Unimplemented.Errorf("not yet"), "terminal": rpc.Terminal(errFailed),
		"internal": rpc.Internal.Errorf("bug"), "plain": errFailed, "panic": nil,
		"unavailable": rpc.Unavailable.Errorf("later"), "aborted": rpc.Aborted.Errorf("race"),
	}
	var attempts atomic.Int32
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(_ context.Context, e pipeline.Event[order]) error {
			attempts.Add(1)
			if e.Data.Bad == "panic" {
				panic("at the disco")
			}
			return outcomes[e.Data.Bad]
		}, pipeline.Attempts(3), pipeline.Backoff(time.Millisecond))
	})
	for name := range outcomes {
		l.sendOrder(order{N: 5, Bad: name})
	}
	tries := 0
	for _, d := range l.deadLetters(len(outcomes)) {
		var o order
		if err := json.Unmarshal(d.Event.Data, &o); err != nil || o.N != 5 {
			t.Fatalf("data %s: %v", d.Event.Data, err)
		}
		want := pipeline.DeadLetter{Reason: "attempts", Attempts: 3, Code: "unknown", Error: "it failed"}
		switch o.Bad {
		case "terminal":
			want.Reason, want.Attempts = "terminal", 1
		case "panic":
			want.Code, want.Error = "internal", "panic: at the disco"
		case "plain":
		case "internal", "unavailable", "aborted":
			want.Code, want.Error = o.Bad, outcomes[o.Bad].(*rpc.Error).Message
		default:
			want = pipeline.DeadLetter{Reason: "code", Attempts: 1, Code: o.Bad, Error: outcomes[o.Bad].(*rpc.Error).Message}
		}
		tries += want.Attempts
		if d.Reason != want.Reason || d.Attempts != want.Attempts || d.Code != want.Code || d.Error != want.Error {
			t.Errorf("%s: %s after %d attempts, %s %q; want %s after %d, %s %q",
				o.Bad, d.Reason, d.Attempts, d.Code, d.Error, want.Reason, want.Attempts, want.Code, want.Error)
		}
		if d.Service != "shop" || d.Handler != "note" || d.Version != "1.2.3" || time.Since(d.Time).Abs() > time.Minute ||
			d.Event.Type != "Order.placed" || d.Event.ID == "" || d.Event.Sequence == 0 {
			t.Errorf("%+v", d)
		}
	}
	if n := int(attempts.Load()); n != tries {
		t.Errorf("%d attempts, want %d", n, tries)
	}
}

func TestDeadLetterRetried(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g, other := newLog(), newLog()
	var mended atomic.Bool
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
			if !mended.Load() {
				return rpc.Terminal(errFailed)
			}
			if !e.Again || e.Attempt != 1 || e.ID == "" || e.Sequence == 0 {
				t.Errorf("%+v", e)
			}
			return g.handle(ctx, e)
		})
		pipeline.On(svc, placed, "other", other.handle)
	})
	sent := l.sendOrder(order{N: 1})
	l.send(2, 3)
	dead := l.deadLetters(3)
	mended.Store(true)
	ctx := t.Context()
	for _, d := range dead {
		switch {
		case d.Event.ID == sent.ID:
			if err := l.p.RetryDead(ctx, d.ID, nil); err != nil {
				t.Fatal(err)
			}
		case strings.Contains(string(d.Event.Data), "2"):
			if err := l.p.RetryDead(ctx, d.ID, json.RawMessage(`{"n":22}`)); err != nil {
				t.Fatal(err)
			}
		default:
			if err := l.p.DiscardDead(ctx, d.ID); err != nil {
				t.Fatal(err)
			}
			l.coded(l.p.DiscardDead(ctx, d.ID), rpc.NotFound, "dead letter")
			l.coded(l.p.RetryDead(ctx, d.ID, nil), rpc.NotFound, "dead letter")
		}
	}
	l.want(g, 1, 22)
	l.want(other, 1, 2, 3) // is not disturbed
	l.deadLetters(0)
	l.until("the lane is empty", func() bool {
		h, err := l.p.Handler(ctx, "shop", "note")
		if err != nil {
			t.Fatal(err)
		}
		return h.Again == 0 && h.Running == 0 && h.Dead == 0
	})
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newLog()
	l.serve("shop", func(svc *server.Service) { pipeline.On(svc, placed, "note", g.handle) })
	if _, err := l.b.EnsureEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.plain("$.Order.placed", []byte(`{"n":`), nil)
	l.plain("$.Order.placed", []byte(`{"n":"one"}`), nil)
	l.plain("$.Order.placed", []byte(`{"n":1}`), nats.Header{"Content-Type": {"application/x-unheard-of"}})
	l.plain("$.Order.placed", []byte(`{"n":1}`), nats.Header{"ce-time": {"yesterday"}})
	l.plain("$.Order.placed", []byte(`{"n":1}`), nats.Header{"ce-hops": {"65"}})
	l.plain("$.Order.placed", []byte(`{"n":64}`), nats.Header{"ce-hops": {"64"}})
	l.plain("$.Order.placed", []byte(`{"n":77}`), nil) // no headers at all
	l.want(g, 64, 77)
	var left []string
	for _, d := range l.deadLetters(5) {
		left = append(left, fmt.Sprint(d.Reason, ": ", d.Error))
	}
	for _, want := range []struct{ reason, text string }{
		{"decode", "unexpected end"}, {"decode", "cannot unmarshal string"}, {"decode", "application/x-unheard-of"},
		{"decode", "RFC 3339"}, {"loop", "65 events"},
	} {
		i := slices.IndexFunc(left, func(d string) bool { return strings.HasPrefix(d, want.reason+":") && strings.Contains(d, want.text) })
		if i < 0 {
			t.Errorf("no dead letter %s with %q; there are %q", want.reason, want.text, left)
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
}

// An event that kills whoever tries it is a dead letter in the end.
func TestDeadlyEvent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const tries = 2
	var begun atomic.Int32
	register := func(b *bus.Bus, last bool) func(*server.Service) {
		return func(svc *server.Service) {
			pipeline.On(svc, placed, "note", func(ctx context.Context, e pipeline.Event[order]) error {
				begun.Add(1)
				if last {
					t.Errorf("attempt %d is made", e.Attempt)
					return nil
				}
				b.Conn().Close() // the process dies
				<-ctx.Done()
				return ctx.Err()
			}, pipeline.Attempts(tries), pipeline.Singleton())
		}
	}
	for i := range tries {
		b := bustest.Connect(t, l.srv, bustest.IgnoreLeaks())
		svc := server.New(b, "shop", server.Config{DrainTimeout: 10 * time.Millisecond})
		register(b, false)(svc)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = svc.Run(ctx) }()
		<-svc.Ready()
		if i == 0 {
			l.send(1)
		}
		l.until("an attempt has begun", func() bool { return begun.Load() == int32(i)+1 })
		cancel()
		<-ended
	}
	l.serve("shop", register(nil, true))
	d := l.deadLetters(1)[0]
	if d.Reason != "died" || d.Attempts != tries || begun.Load() != tries || !strings.Contains(d.Error, "died") {
		t.Errorf("%+v after %d attempts", d, begun.Load())
	}
}
