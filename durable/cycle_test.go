package durable_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// hops are pages whose turns call each other: the param is the path that is
// left, as "b/call c/look". The result says who answered, the innermost first.
func (l *lab) hops(c rpc.Caller) (turns, views) {
	relay := rpc.NewMethod[string, string]("relay.call")
	step := func(ctx context.Context, id, path string) (string, error) {
		next, rest, _ := strings.Cut(path, " ")
		if next == "" {
			return id, nil
		}
		to, method, _ := strings.Cut(next, "/")
		var result string
		var err error
		if to == "relay" {
			result, err = relay.Call(ctx, c, rest)
		} else {
			result, err = l.method(method).Call(ctx, c, to, rest)
		}
		return result + " " + id, err
	}
	return turns{
			"call": func(_ *page, ctx durable.Context, path string) (string, error) { return step(ctx, ctx.ID(), path) },
			"write": func(p *page, ctx durable.Context, path string) (string, error) {
				p.Value++
				return step(ctx, ctx.ID(), path)
			},
		}, views{
			"look": func(_ page, ctx durable.ReadContext, path string) (string, error) { return step(ctx, ctx.ID(), path) },
			"read": read,
		}
}

// relay is a plain service that calls whom it is told to.
func (l *lab) relay(c rpc.Caller) {
	svc := server.New(l.bus, "relay", server.Config{})
	server.Handle(svc, rpc.NewMethod[string, string]("relay.call"), func(ctx context.Context, path string) (string, error) {
		next, rest, _ := strings.Cut(path, " ")
		to, method, _ := strings.Cut(next, "/")
		result, err := l.method(method).Call(ctx, c, to, rest)
		return result + " relay", err
	})
	run(l.T, svc)
}

// A call that would wait for itself fails at once and says why; one that would
// not is served.
func TestCycle(t *testing.T) {
	t.Parallel()
	for name, shortcut := range map[string]bool{"bus": false, "shortcut": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			c := client.New(l.bus, client.Config{NoShortcut: !shortcut, Timeout: labPatience})
			t.Cleanup(c.Close)
			ts, vs := l.hops(c)
			l.serve(durable.Config{}, ts, vs)
			l.relay(c)
			for path, cycle := range map[string]string{
				"a/call":                             "page/a → page/a",
				"b/call a/call":                      "page/a → page/b → page/a",
				"b/call c/call b/call":               "page/b → page/c → page/b",
				"b/call c/call relay d/call a/write": "page/a → page/b → page/c → page/d → page/a",
				"relay a/call":                       "page/a → page/a",
				"b/look a/call":                      "page/a → page/a",
				"a/look a/call":                      "page/a → page/a",
			} {
				start := time.Now()
				_, err := l.method("write").Call(t.Context(), c, "a", path)
				l.coded(err, rpc.FailedPrecondition, "cycle", cycle, "waits for")
				if e := err.(*rpc.Error); e.Retryable || e.RetryAfter != 0 {
					t.Errorf("%s: the error asks to try again: %+v", path, e)
				}
				if took := time.Since(start); took > labPatience/2 {
					t.Errorf("%s: took %v", path, took)
				}
			}
			l.want("0", "a", "read", "")
			for path, want := range map[string]string{
				"a/look":               "a a",
				"b/call a/look":        "a b a",
				"b/call c/call":        "c b a",
				"relay b/look a/look":  "a b relay a",
				"b/look b/call":        "b b a",
				"relay b/call c/write": "c b relay a",
			} {
				got, err := l.method("call").Call(t.Context(), c, "a", path)
				if err != nil || got != want {
					t.Errorf("%s: %q, %v; want %q", path, got, err, want)
				}
			}
			// A view holds nobody up, so it may call its own object.
			if got, err := l.method("look").Call(t.Context(), c, "a", "a/call b/call"); err != nil || got != "b a a" {
				t.Errorf("from a view: %q, %v", got, err)
			}
		})
	}
}

// What begins an object is one of its turns.
func TestCycleFromOnInit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	svc := server.New(l.bus, "pages", server.Config{})
	pages := durable.Serve[page](svc, "page", durable.Config{})
	ts, vs := l.hops(l.far)
	l.methods(pages, ts, vs)
	failed := make(chan error, 100)
	durable.OnInit(pages, func(p *page, ctx durable.Context) error {
		path, ok := map[string]string{"a": "b/call a/call", "c": "c/look", "f": "e/call"}[ctx.ID()]
		if !ok || p.Value != 0 {
			return nil
		}
		next, rest, _ := strings.Cut(path, " ")
		to, method, _ := strings.Cut(next, "/")
		_, err := l.method(method).Call(ctx, l.far, to, rest)
		failed <- err
		p.Value = 1
		return nil
	})
	run(t, svc)
	begun := time.Now()
	l.want("1", "a", "read", "")
	l.coded(<-failed, rpc.FailedPrecondition, "cycle", "page/a → page/b → page/a")
	l.want("1", "c", "read", "") // a view of an object that has not begun waits, too
	l.coded(<-failed, rpc.FailedPrecondition, "cycle", "page/c → page/c")
	// The turn of e waits for the object f to begin, which calls e.
	waits := l.begin("e", "call", "f/read")
	if a := l.end(waits); a.err != nil {
		t.Errorf("a turn that has another object begin: %v", a.err)
	}
	l.coded(<-failed, rpc.FailedPrecondition, "cycle", "page/e → page/f → page/e")
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// The header that carries the chain comes from outside.
func TestChainHeader(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, views{"read": read})
	links := make([]string, 64)
	for i := range links {
		links[i] = bus.Link("page", fmt.Sprint(i))
	}
	subject := bus.ObjectSubject("page", "alice", "add")
	for _, good := range []string{"page/bob", "other/alice", "page/Alice", bus.Chain(links)} {
		if _, err := l.request(subject, `"1"`, "Rpc-Chain", good); err != nil {
			t.Errorf("chain %.40q: %v", good, err)
		}
	}
	for chain, code := range map[string]rpc.Code{
		"page/alice":                     rpc.FailedPrecondition,
		"page/bob,page/alice,other/x":    rpc.FailedPrecondition,
		bus.Chain(append(links, "a/b")):  rpc.FailedPrecondition,
		strings.Repeat("page/bob,", 500): rpc.FailedPrecondition,
		"page":                           rpc.InvalidArgument,
		"page/":                          rpc.InvalidArgument,
		"/alice":                         rpc.InvalidArgument,
		",":                              rpc.InvalidArgument,
		"page/bob,":                      rpc.InvalidArgument,
		"page/a b":                       rpc.InvalidArgument,
		"page/=61lice":                   rpc.InvalidArgument, // not how it is written
		"pa.ge/alice":                    rpc.InvalidArgument,
		"page/alice/x":                   rpc.InvalidArgument,
		"\x01":                           rpc.InvalidArgument,
	} {
		_, err := l.request(subject, `"1"`, "Rpc-Chain", chain)
		if err == nil || err.Code != code || len(err.Message) > 400 {
			t.Errorf("chain %.40q: %v, want %v", chain, err, code)
		}
	}
	l.want("4", "alice", "read", "")
}
