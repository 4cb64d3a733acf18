package server_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

// Three services in a row: front calls middle, middle calls back.
var (
	front  = rpc.NewMethod[hopParams, hopResult]("front.go")
	middle = rpc.NewMethod[hopParams, hopResult]("middle.go")
	back   = rpc.NewMethod[hopParams, hopResult]("back.go")
)

type hopParams struct {
	Code        rpc.Code `json:"code,omitempty"`
	Uncoded     bool     `json:"uncoded,omitempty"`
	NotExecuted bool     `json:"notExecuted,omitempty"`
	Wrap        bool     `json:"wrap,omitempty"`
	Detach      bool     `json:"detach,omitempty"` // the handlers' calls have contexts of their own
	Block       bool     `json:"block,omitempty"`
}

type hopResult struct {
	Left []time.Duration `json:"left"` // what was left of the time when each handler began, last hop first
}

// shortage is a detail with a wire name of its own.
type shortage struct {
	SKU     string `json:"sku"`
	Missing int    `json:"missing"`
}

func (shortage) RPCDetail() string { return "orders.Shortage" }

const secret = "password=hunter2"

// hops is a chain of three services and a caller in front of it.
type hops struct {
	caller *client.Client
	logs   *logbook
	seen   chan string // "<service> <what its context says>", as handlers' contexts end
	inside chan string // services whose handlers run
}

// newHops starts the chain: each service on a connection of its own, or all and
// the caller on one, which takes the shortcut.
func newHops(t *testing.T, local bool) *hops {
	h := &hops{logs: newLogbook(), seen: make(chan string, 8), inside: make(chan string, 8)}
	srv := bustest.Server(t)
	connect := func() *bus.Bus { return bustest.Connect(t, srv, h.logs.option(zerolog.DebugLevel)) }
	if local {
		shared := connect()
		connect = func() *bus.Bus { return shared }
	}
	for _, hop := range []struct {
		method rpc.Method[hopParams, hopResult]
		next   *rpc.Method[hopParams, hopResult]
	}{{back, nil}, {middle, &back}, {front, &middle}} {
		b := connect()
		c := client.New(b, client.Config{MaxAttempts: 1})
		svc := server.New(b, hop.method.Spec().Service, server.Config{})
		server.Handle(svc, hop.method, func(ctx context.Context, p hopParams) (hopResult, error) {
			return h.serve(ctx, c, hop.next, p)
		})
		start(t, svc)
	}
	h.caller = client.New(connect(), client.Config{MaxAttempts: 1})
	return h
}

func (h *hops) serve(ctx context.Context, c *client.Client, next *rpc.Method[hopParams, hopResult], p hopParams) (hopResult, error) {
	info, _ := rpc.CallInfoFrom(ctx)
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	if p.Block {
		context.AfterFunc(ctx, func() { h.seen <- info.Service + " " + ctx.Err().Error() })
		h.inside <- info.Service
	}
	if next == nil {
		return hopResult{[]time.Duration{left}}, lastHop(ctx, p)
	}
	if p.Detach {
		ctx = context.Background()
	}
	r, err := next.Call(ctx, c, p)
	if err != nil && p.Wrap {
		err = fmt.Errorf("calling %s for %s: %w", next.Spec().Name(), info.Caller, err)
	}
	r.Left = append(r.Left, left)
	return r, err
}

func lastHop(ctx context.Context, p hopParams) error {
	switch {
	case p.Block:
		<-ctx.Done()
		return ctx.Err()
	case p.Uncoded:
		return errors.New(secret)
	case p.Code != 0:
		err := p.Code.Errorf("hop says: %q isn’t there\n(second line)", "x").
			WithDetail(shortage{"abc", 3}).
			WithDetail(rpc.FieldViolation{Field: "items.sku", Expected: "a string", Got: "a number"}).
			WithRetryAfter(1500 * time.Millisecond)
		if p.NotExecuted {
			err = err.NotExecuted()
		}
		return err
	}
	return nil
}

func eachTransport(t *testing.T, test func(t *testing.T, local bool)) {
	for name, local := range map[string]bool{"wire": false, "shortcut": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, local)
		})
	}
}

func TestErrorsThroughThreeHops(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		h := newHops(t, local)
		if len(rpc.Codes()) != 16 {
			t.Fatalf("%d codes", len(rpc.Codes()))
		}
		for _, code := range rpc.Codes() {
			for _, wrap := range []bool{false, true} {
				for i := range 4 {
					p := hopParams{Code: code, Wrap: wrap, NotExecuted: i&1 > 0, Detach: i&2 > 0}
					_, err := front.Call(t.Context(), h.caller, p)
					checkHopError(t, fmt.Sprintf("%+v", p), err, code)
				}
			}
		}
	})
}

func checkHopError(t *testing.T, name string, err error, code rpc.Code) {
	t.Helper()
	e := errorOf(t, err)
	if e.Code != code || !errors.Is(err, code) {
		t.Errorf("%s: the code is %v", name, e.Code)
	}
	if want := "hop says: \"x\" isn’t there\n(second line)"; e.Message != want {
		t.Errorf("%s: the message is %q", name, e.Message)
	}
	if d, ok := rpc.DetailOf[shortage](err); !ok || d != (shortage{"abc", 3}) {
		t.Errorf("%s: the first detail is %v (%v)", name, d, ok)
	}
	if d, ok := rpc.DetailOf[rpc.FieldViolation](err); !ok || d.Field != "items.sku" || d.Got != "a number" {
		t.Errorf("%s: the second detail is %v (%v)", name, d, ok)
	}
	if len(e.Details) != 2 {
		t.Errorf("%s: %d details", name, len(e.Details))
	}
	if e.RetryAfter != 1500*time.Millisecond {
		t.Errorf("%s: RetryAfter is %v", name, e.RetryAfter)
	}
	if e.Retryable {
		t.Errorf("%s: it is called retryable, and two hops ran", name)
	}
	if !rpc.IsRemote(err) {
		t.Errorf("%s: it does not count as remote", name)
	}
}

// A handler that could not make its own call did run itself.
func TestUnsentCallOfAHandlerIsNotRetryable(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		srv := bustest.Server(t)
		b := bustest.Connect(t, srv)
		inner := client.New(b, client.Config{MaxAttempts: 1})
		svc := server.New(b, "front", server.Config{})
		server.Handle(svc, front, func(ctx context.Context, p hopParams) (hopResult, error) {
			r, err := middle.Call(ctx, inner, hopParams{})
			if err != nil && p.Wrap {
				err = fmt.Errorf("wrapped: %w", err)
			}
			return r, err
		})
		start(t, svc)
		caller := inner
		if !local {
			caller = client.New(bustest.Connect(t, srv), client.Config{MaxAttempts: 1})
		}
		for _, wrap := range []bool{false, true} {
			_, err := front.Call(t.Context(), caller, hopParams{Wrap: wrap})
			e := requireCode(t, err, rpc.Unavailable)
			contains(t, e.Message, "rpc.middle.go", "listens")
			if e.Retryable {
				t.Errorf("wrapped=%v: %v is called retryable, and the first hop ran", wrap, e)
			}
		}
	})
}

// A direct call of a handler that says it did nothing may be sent again.
func TestNotExecutedIsTheHandlersToSay(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		h := newHops(t, local)
		_, err := back.Call(t.Context(), h.caller, hopParams{Code: rpc.Unavailable, NotExecuted: true})
		if e := requireCode(t, err, rpc.Unavailable); !e.Retryable {
			t.Errorf("%v is not retryable", e)
		}
	})
}

func TestUncodedErrorStaysInTheLog(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		for _, wrap := range []bool{false, true} {
			h := newHops(t, local)
			_, err := front.Call(t.Context(), h.caller, hopParams{Uncoded: true, Wrap: wrap})
			e := requireCode(t, err, rpc.Internal)
			contains(t, e.Message, "internal error in back.go", "log")
			if len(e.Details) > 0 || e.Retryable {
				t.Errorf("details %v, retryable %v", e.Details, e.Retryable)
			}
			if got := fmt.Sprintf("%+v", e); strings.Contains(got, secret) {
				t.Errorf("the text leaked: %s", got)
			}
			line := h.logs.await(t, "the uncoded error", func(l logLine) bool { return l.has("error", secret) })
			if !line.has("level", "warn") || line["service"] != "back" || line["method"] != "go" || line["from"] != "test" || line["id"] == "" {
				t.Errorf("the log line is %v", line)
			}
			contains(t, e.Message, fmt.Sprint(line["id"]))
			leaks := h.logs.count(func(l logLine) bool { return l["service"] != "back" && l.has("error", secret) })
			if leaks > 0 {
				t.Errorf("%d lines of other services have the text", leaks)
			}
		}
	})
}

func TestDeadlineShrinksHopByHop(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		h := newHops(t, local)
		for _, given := range []time.Duration{time.Second, 5 * time.Second, time.Minute} {
			r, err := front.Call(t.Context(), h.caller, hopParams{}, rpc.WithTimeout(given))
			if err != nil {
				t.Fatal(err)
			}
			budgets := append(r.Left, given)
			if len(budgets) != 4 {
				t.Fatalf("budgets %v", budgets)
			}
			for i := range 3 {
				if budgets[i] >= budgets[i+1] {
					t.Errorf("hop %d had %v, the one before it %v", 3-i, budgets[i], budgets[i+1])
				}
			}
			if budgets[0] < given/2 {
				t.Errorf("only %v of %v arrived", budgets[0], given)
			}
		}
	})
}

func TestDeadlineEndsAllHops(t *testing.T) {
	t.Parallel()
	eachTransport(t, func(t *testing.T, local bool) {
		h := newHops(t, local)
		_, err := front.Call(t.Context(), h.caller, hopParams{Block: true}, rpc.WithTimeout(100*time.Millisecond))
		requireCode(t, err, rpc.DeadlineExceeded)
		for range 3 {
			receive(t, "the end of a handler's context", h.seen)
		}
	})
}

// The rounds are timed, so nothing else of this package runs meanwhile.
func TestCancelReachesAllHops(t *testing.T) {
	for name, local := range map[string]bool{"wire": false, "shortcut": true} {
		t.Run(name, func(t *testing.T) {
			h := newHops(t, local)
			const rounds = 11
			var took []time.Duration
			for range rounds {
				took = append(took, cancelOnce(t, h))
			}
			slices.Sort(took)
			t.Logf("from the cancel to the last of three handlers: median %v, worst %v", took[rounds/2], took[rounds-1])
			// The median: one round may meet a machine that is busy elsewhere.
			if limit := 50 * time.Millisecond * slowdown; took[rounds/2] > limit {
				t.Errorf("half of the cancels took longer than %v: %v", limit, took)
			}
		})
	}
}

// cancelOnce starts a call, cancels it when all three handlers run, and returns
// how long it took until all three contexts had ended.
func cancelOnce(t *testing.T, h *hops) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	future := front.Go(ctx, h.caller, hopParams{Block: true}, rpc.WithTimeout(time.Minute))
	for range 3 {
		receive(t, "a handler", h.inside)
	}
	begin := time.Now()
	cancel()
	var seen []string
	for range 3 {
		seen = append(seen, receive(t, "the end of a handler's context", h.seen))
	}
	took := time.Since(begin)
	slices.Sort(seen)
	if want := []string{"back context canceled", "front context canceled", "middle context canceled"}; !slices.Equal(seen, want) {
		t.Errorf("ended: %q, want %q", seen, want)
	}
	_, err := future.Wait(t.Context())
	requireCode(t, err, rpc.Canceled)
	return took
}
