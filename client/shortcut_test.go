package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

type point struct{ X, Y int }

// cartParams can be copied without being encoded, lotParams can't.
type cartParams struct {
	Tags   []string
	Counts map[string][]int
	At     *point
	Sizes  [2][]byte
}

type lotParams struct {
	cart
	When time.Time
	Any  any
	Raw  json.RawMessage
	Hex  hexNumber
}

type cart = cartParams

// hexNumber writes itself as text.
type hexNumber int

func (h hexNumber) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "0x%x", int(h)), nil }
func (h *hexNumber) UnmarshalText(text []byte) error {
	_, err := fmt.Sscanf(string(text), "0x%x", (*int)(h))
	return err
}

func newCart() cartParams {
	return cartParams{
		Tags:   []string{"a", "b"},
		Counts: map[string][]int{"one": {1}, "two": {1, 2}},
		At:     &point{1, 2},
		Sizes:  [2][]byte{{1}, {2, 3}},
	}
}

// scribble changes all that can be reached from c.
func (c *cartParams) scribble() {
	c.Tags[0] = "scribble"
	c.Counts["one"][0] = 99
	c.Counts["three"] = nil
	c.At.X = 99
	c.Sizes[1][0] = 99
}

func TestValuesAreIsolated(t *testing.T) {
	t.Parallel()
	t.Run("copied", func(t *testing.T) {
		t.Parallel()
		testIsolation(t, newCart, (*cartParams).scribble)
	})
	t.Run("encoded", func(t *testing.T) {
		t.Parallel()
		testIsolation(t, func() lotParams {
			return lotParams{newCart(), time.Unix(1, 0).UTC(), map[string]any{"k": []any{"v"}}, json.RawMessage(`{"a":1}`), 17}
		}, func(l *lotParams) {
			l.scribble()
			l.Any.(map[string]any)["k"].([]any)[0] = "scribble"
			l.Raw[1] = 'x'
		})
	})
	t.Run("nothing but a slice", func(t *testing.T) {
		t.Parallel()
		testIsolation(t, func() []string { return []string{"a"} }, func(s *[]string) { (*s)[0] = "scribble" })
	})
}

// testIsolation has the handler keep its params and result, both sides change
// all they have, and looks at what the other side sees.
func testIsolation[T any](t *testing.T, fresh func() T, scribble func(*T)) {
	m := rpc.NewMethod[T, T]("calc.keep")
	kept := make(chan *T, 4)
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, m, func(_ context.Context, p T) (T, error) {
			if !reflect.DeepEqual(p, fresh()) {
				t.Errorf("the handler got %+v, want %+v", p, fresh())
			}
			result := fresh()
			kept <- &p
			kept <- &result
			return result, nil
		})
	}, func(t *testing.T, c *client.Client) {
		params := fresh()
		result, err := m.Call(t.Context(), c, params)
		if err != nil {
			t.Fatal(err)
		}
		theirParams, theirResult := await(t, kept, "the handler's params"), await(t, kept, "the handler's result")
		scribble(theirParams)
		scribble(theirResult)
		if !reflect.DeepEqual(params, fresh()) {
			t.Errorf("the handler changed the caller's params: %+v", params)
		}
		if !reflect.DeepEqual(result, fresh()) {
			t.Errorf("the handler changed the caller's result: %+v", result)
		}
		*theirParams, *theirResult = fresh(), fresh()
		result2, err := m.Call(t.Context(), c, params)
		if err != nil {
			t.Fatal(err)
		}
		theirParams, theirResult = await(t, kept, "the handler's params"), await(t, kept, "the handler's result")
		scribble(&params)
		scribble(&result2)
		if !reflect.DeepEqual(*theirParams, fresh()) {
			t.Errorf("the caller changed the handler's params: %+v", *theirParams)
		}
		if !reflect.DeepEqual(*theirResult, fresh()) {
			t.Errorf("the caller changed the handler's result: %+v", *theirResult)
		}
	})
}

// node refers to itself, spiteful refuses to be written, reluctant to be read.
type (
	node struct {
		Name string
		Next *node
	}
	spiteful  struct{}
	reluctant struct{ A int }
)

func (spiteful) MarshalJSON() ([]byte, error) { return nil, errors.New("out of spite") }
func (*reluctant) UnmarshalJSON([]byte) error { return errors.New("would rather not") }

// TestSameOutcome sends values of many types both ways and wants to see no
// difference: neither in what arrives nor in the error.
func TestSameOutcome(t *testing.T) {
	t.Parallel()
	type tagged struct {
		Kept    int    `json:"kept"`
		Dropped int    `json:"-"`
		Empty   []int  `json:"empty,omitempty"`
		Renamed string `json:"other"`
		hidden  int
		Text    int `json:"text,string"`
	}
	sameOutcome(t, "number", 42)
	sameOutcome(t, "large", uint64(math.MaxUint64))
	sameOutcome(t, "float", 0.1)
	sameOutcome(t, "minus nothing", math.Copysign(0, -1))
	sameOutcome(t, "nan", math.NaN())
	sameOutcome(t, "infinity", []float64{math.Inf(1)})
	sameOutcome(t, "text", "äöü \u2028 <&>\x00")
	sameOutcome(t, "not utf-8", "\xff")
	sameOutcome(t, "nil slice", []int(nil))
	sameOutcome(t, "empty slice", []int{})
	sameOutcome(t, "nil map", map[string]int(nil))
	sameOutcome(t, "bytes", []byte{0, 255})
	sameOutcome(t, "number keys", map[int]string{1: "a"})
	sameOutcome(t, "pointer", &point{1, 2})
	sameOutcome(t, "nil pointer", (*point)(nil))
	sameOutcome(t, "tags", tagged{1, 2, []int{}, "r", 3, 4})
	sameOutcome(t, "time", time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("x", 3600)))
	sameOutcome(t, "any", any(map[string]any{"n": 1, "l": []any{nil, true}}))
	sameOutcome(t, "any number", any(1))
	sameOutcome(t, "recursive", node{"a", &node{"b", nil}})
	sameOutcome(t, "own text", []hexNumber{1, 255})
	sameOutcome(t, "raw", json.RawMessage(`{ "a" : 1 }`))
	sameOutcome(t, "malformed raw", json.RawMessage(`{`))
	sameOutcome(t, "number as text", json.Number("12"))
	sameOutcome(t, "channel", make(chan int))
	sameOutcome(t, "refuses to be written", spiteful{})
	sameOutcome(t, "refuses to be read", reluctant{1})
	sameOutcome(t, "too large", strings.Repeat("x", 1<<20))
	sameOutcome(t, "too large when escaped", strings.Repeat("\x01", 300<<10))
	sameOutcome(t, "just fits", strings.Repeat("x", 1<<20-2))
}

func sameOutcome[T any](t *testing.T, name string, value T) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		_, serving, calling := twoBuses(t)
		take := rpc.NewMethod[T, rpc.None]("calc.take")
		give := rpc.NewMethod[rpc.None, T]("calc.give")
		taken := make(chan T, 1)
		svc := server.New(serving, "calc", server.Config{})
		server.Handle(svc, take, func(_ context.Context, v T) (rpc.None, error) {
			taken <- v
			return rpc.None{}, nil
		})
		server.Handle(svc, give, func(context.Context, rpc.None) (T, error) { return value, nil })
		run(t, svc)
		type outcome struct {
			taken, given       any
			takeError, giveErr string
		}
		through := func(b *bus.Bus) (o outcome) {
			c := client.New(b, client.Config{})
			_, err := take.Call(t.Context(), c, value)
			o.takeError = describe(err)
			if err == nil {
				o.taken = await(t, taken, "the params")
			}
			given, err := give.Call(t.Context(), c, rpc.None{})
			o.given, o.giveErr = given, describe(err)
			return o
		}
		wire, shortcut := through(calling), through(serving)
		if !reflect.DeepEqual(wire, shortcut) {
			t.Errorf("over the wire\n\t%.300v\nby the shortcut\n\t%.300v", fmt.Sprintf("%+v", wire), fmt.Sprintf("%+v", shortcut))
		}
	})
}

// describe returns all of an error that a caller can see.
func describe(err error) string {
	e, ok := errors.AsType[*rpc.Error](err)
	if !ok {
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("%v %q details %v retryable %t after %v remote %t", e.Code, e.Message, e.Details, e.Retryable, e.RetryAfter, e.Remote())
}

var errDisk = errors.New("disk")

// TestSameErrors compares what a caller sees of handlers that fail.
func TestSameErrors(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	fail := rpc.NewMethod[string, int]("calc.fail")
	svc := server.New(serving, "calc", server.Config{})
	server.Handle(svc, fail, func(ctx context.Context, how string) (int, error) {
		switch how {
		case "panic":
			panic("secret")
		case "uncoded":
			return 0, errors.New("secret")
		case "wrapped":
			return 0, fmt.Errorf("outer: %w", rpc.NotFound.Errorf("inner"))
		case "bare code":
			return 0, rpc.Aborted
		case "context":
			return 0, context.Canceled
		case "details":
			return 0, rpc.InvalidArgument.Errorf("no").WithDetail(rpc.FieldViolation{Field: "f"}).WithRetryAfter(1500 * time.Microsecond)
		case "cause":
			return 0, rpc.DataLoss.Errorf("lost: %w", errDisk)
		}
		return 0, rpc.Internal.Errorf("unknown: %s", how)
	})
	run(t, svc)
	for _, how := range []string{"panic", "uncoded", "wrapped", "bare code", "context", "details", "cause"} {
		var texts []string
		for _, b := range []*bus.Bus{calling, serving} {
			_, err := fail.Call(t.Context(), client.New(b, client.Config{}), how, rpc.WithID("the-call"))
			texts = append(texts, describe(err))
			if errors.Is(err, errDisk) {
				t.Errorf("%s: the handler's own error is within the caller's reach", how)
			}
			if strings.Contains(texts[len(texts)-1], "secret") {
				t.Errorf("%s: leaked: %s", how, texts[len(texts)-1])
			}
		}
		if texts[0] != texts[1] {
			t.Errorf("%s\nover the wire   %s\nby the shortcut %s", how, texts[0], texts[1])
		}
	}
}

type cborTagged struct {
	Plain  int
	Secret int `json:"-" cbor:"secret"`
	Other  int `json:"a" cbor:"b"`
}

// TestShortcutKeepsToTheCodec: another codec than JSON sees other fields.
func TestShortcutKeepsToTheCodec(t *testing.T) {
	t.Parallel()
	echo := rpc.NewMethod[cborTagged, cborTagged]("calc.echo")
	want := cborTagged{1, 2, 3}
	overBothWith(t, server.Config{}, client.Config{Codec: bus.CBOR{}}, func(svc *server.Service) {
		server.Handle(svc, echo, func(_ context.Context, p cborTagged) (cborTagged, error) {
			if p != want {
				t.Errorf("params %+v, want %+v", p, want)
			}
			return p, nil
		})
	}, func(t *testing.T, c *client.Client) {
		got, err := echo.Call(t.Context(), c, want)
		wantResult(t, got, err, want)
	})
}

func TestContractsThatDiffer(t *testing.T) {
	t.Parallel()
	type wideParams struct {
		A, B int
		More string
	}
	type floatResult float64
	wide := rpc.NewMethod[wideParams, floatResult]("calc.add")
	overBoth(t, func(svc *server.Service) { server.Handle(svc, add, adder) }, func(t *testing.T, c *client.Client) {
		got, err := wide.Call(t.Context(), c, wideParams{2, 3, "ignored"})
		wantResult(t, got, err, 5)
	})
}

func TestNoShortcut(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	svc := server.New(b, "calc", server.Config{})
	server.Handle(svc, add, adder)
	run(t, svc)
	before := b.Conn().Stats().OutMsgs
	got, err := add.Call(t.Context(), client.New(b, client.Config{NoShortcut: true}), addParams{2, 3})
	wantResult(t, got, err, 5)
	if n := b.Conn().Stats().OutMsgs - before; n != 2 {
		t.Errorf("%d messages went over the bus, want a request and an answer", n)
	}
}

func TestShortcutNeedsNoConnection(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	svc := server.New(b, "calc", server.Config{})
	server.Handle(svc, add, adder)
	run(t, svc)
	c := client.New(b, client.Config{})
	disconnected(t, srv, b)
	got, err := add.Call(t.Context(), c, addParams{2, 3})
	wantResult(t, got, err, 5)
	restarted(t, srv, b)
}

// TestFallsOver: when the instance of this process takes no calls, others do.
func TestFallsOver(t *testing.T) {
	t.Parallel()
	here := func(at string) func(context.Context, rpc.None) (string, error) {
		return func(context.Context, rpc.None) (string, error) { return at, nil }
	}
	where := rpc.NewMethod[rpc.None, string]("calc.where")
	t.Run("shut down", func(t *testing.T) {
		t.Parallel()
		_, far, near := twoBuses(t)
		var stops []func()
		for _, b := range []*bus.Bus{far, near} {
			svc := server.New(b, "calc", server.Config{})
			server.Handle(svc, where, here(b.Name()))
			stops = append(stops, run(t, svc))
		}
		c := client.New(near, client.Config{})
		got, err := where.Call(t.Context(), c, rpc.None{})
		wantResult(t, got, err, "calling")
		stops[1]()
		got, err = where.Call(t.Context(), c, rpc.None{})
		wantResult(t, got, err, "serving")
		stops[0]()
		_, err = where.Call(t.Context(), client.New(near, client.Config{MaxAttempts: 1}), rpc.None{})
		wantCode(t, err, rpc.Unavailable, "rpc.calc.where")
	})
	t.Run("shedding", func(t *testing.T) {
		t.Parallel()
		_, far, near := twoBuses(t)
		busy := make(chan struct{}, 1)
		var farRuns, nearRuns atomic.Int64
		nearSvc := server.New(near, "calc", server.Config{})
		server.Handle(nearSvc, where, func(ctx context.Context, _ rpc.None) (string, error) {
			nearRuns.Add(1)
			busy <- struct{}{}
			<-ctx.Done()
			return "near", nil
		}, server.Concurrency(1), server.Queue(0))
		run(t, nearSvc)
		ctx, release := context.WithCancel(t.Context())
		defer release()
		c := client.New(near, client.Config{MaxAttempts: 1000})
		holds := begin(func() (string, error) { return where.Call(ctx, c, rpc.None{}, rpc.WithTimeout(time.Minute)) })
		await(t, busy, "the call that holds the place")

		farSvc := server.New(far, "calc", server.Config{})
		server.Handle(farSvc, where, func(context.Context, rpc.None) (string, error) {
			farRuns.Add(1)
			return "far", nil
		})
		run(t, farSvc)
		for range 20 {
			got, err := where.Call(t.Context(), c, rpc.None{}, rpc.WithTimeout(patience))
			wantResult(t, got, err, "far")
		}
		if farRuns.Load() != 20 || nearRuns.Load() != 1 {
			t.Errorf("%d runs far and %d near, want 20 and 1", farRuns.Load(), nearRuns.Load())
		}
		release()
		wantCode(t, await(t, holds, "the first call").err, rpc.Canceled)
	})
	t.Run("shedding, and nobody else", func(t *testing.T) {
		t.Parallel()
		b := bustest.New(t)
		busy := make(chan struct{}, 1)
		svc := server.New(b, "calc", server.Config{})
		server.Handle(svc, where, func(ctx context.Context, _ rpc.None) (string, error) {
			busy <- struct{}{}
			<-ctx.Done()
			return "", nil
		}, server.Concurrency(1), server.Queue(0))
		run(t, svc)
		ctx, release := context.WithCancel(t.Context())
		c := client.New(b, client.Config{MaxAttempts: 2})
		holds := begin(func() (string, error) { return where.Call(ctx, c, rpc.None{}, rpc.WithTimeout(time.Minute)) })
		await(t, busy, "the call that holds the place")
		_, err := where.Call(t.Context(), c, rpc.None{})
		wantCode(t, err, rpc.ResourceExhausted, "overloaded")
		release()
		await(t, holds, "the first call")
	})
}

type secretKey struct{}

// TestHandlersContext compares the context of a handler near and far: it has
// the call's deadline and metadata, and none of the caller's values.
func TestHandlersContext(t *testing.T) {
	t.Parallel()
	type seen struct {
		info     rpc.CallInfo
		left     time.Duration
		bounded  bool
		leftover any
	}
	contexts := make(chan seen, 2)
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, add, func(ctx context.Context, p addParams) (int, error) {
			info, _ := rpc.CallInfoFrom(ctx)
			deadline, bounded := ctx.Deadline()
			contexts <- seen{info, time.Until(deadline), bounded, ctx.Value(secretKey{})}
			return p.A + p.B, nil
		})
	}, func(t *testing.T, c *client.Client) {
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), secretKey{}, "caller's"), 30*time.Second)
		defer cancel()
		got, err := add.Call(ctx, c, addParams{1, 2}, rpc.WithTimeout(time.Minute), rpc.WithHeader("X-A", "v"))
		wantResult(t, got, err, 3)
		s := await(t, contexts, "the handler")
		if !s.bounded || s.left > 30*time.Second || s.left < 20*time.Second {
			t.Errorf("the handler has %v (bounded %t) of 30s", s.left, s.bounded)
		}
		if s.leftover != nil {
			t.Errorf("the caller's context value %v reached the handler", s.leftover)
		}
		i := s.info
		if i.Service != "calc" || i.Method != "add" || i.Attempt != 1 || i.Caller == "" || !strings.Contains(i.ID, ".") || i.Header.Get("X-A") != "v" {
			t.Errorf("call info %+v", i)
		}
	})
}

// TestGivingUpLeavesTheHandlerItsValues changes the params and metadata of a
// call that was given up while its handler still reads them; the race detector
// sees what is shared.
func TestGivingUpLeavesTheHandlerItsValues(t *testing.T) {
	t.Parallel()
	m := rpc.NewMethod[cartParams, int]("calc.read")
	started, release, read := make(chan struct{}, 2), make(chan struct{}, 2), make(chan string, 2)
	overBoth(t, func(svc *server.Service) {
		server.Handle(svc, m, func(ctx context.Context, p cartParams) (int, error) {
			started <- struct{}{}
			select {
			case <-release:
			case <-time.After(patience): // the test has failed
			}
			info, _ := rpc.CallInfoFrom(ctx)
			read <- fmt.Sprint(p.Tags, p.Counts, *p.At, " ", info.Header.Get("X-A"))
			return 1, nil
		})
	}, func(t *testing.T, c *client.Client) {
		params, header, result := newCart(), rpc.Header{"X-A": {"v"}}, 0
		ctx, cancel := context.WithCancel(t.Context())
		call := begin(func() (int, error) {
			return 0, c.Call(ctx, &rpc.Call{
				Service: "calc", Method: "read", Params: &params, Result: &result, Header: header, Timeout: time.Minute,
			})
		})
		await(t, started, "the handler")
		cancel()
		wantCode(t, await(t, call, "the call").err, rpc.Canceled)
		params.scribble()
		header.Set("X-A", "scribble")
		release <- struct{}{}
		if got, want := await(t, read, "the handler's end"), "[a b] map[one:[1] two:[1 2]] {1 2} v"; got != want {
			t.Errorf("the handler read %s, want %s", got, want)
		}
		if result != 0 {
			t.Errorf("the result %d came after the caller gave up", result)
		}
	})
}
