package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

// classBase has what must never be served.
type classBase struct{ io.Closer }

func (*classBase) Promoted() string { return "promoted" }
func (classBase) Inherited() string { return "inherited" }
func (*classBase) Renew() string    { return "of the base" }

// mathClass is served in most tests.
type mathClass struct {
	*classBase
	calls int
}

type point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

func (p *point) Validate() error {
	if math.IsInf(p.X, 0) || p.X > 1000 {
		return errors.New("x is beyond 1000")
	}
	return nil
}

type codedParam int

func (c codedParam) Validate() error {
	if c < 0 {
		return rpc.OutOfRange.Errorf("below zero")
	}
	return nil
}

func (m *mathClass) Add(a, b float64) float64                   { m.calls++; return a + b }
func (m mathClass) Half(n float64) float64                      { return n / 2 }
func (m *mathClass) Calls() int                                 { m.calls++; return m.calls }
func (m *mathClass) Ping()                                      {}
func (m *mathClass) Fail() error                                { return rpc.NotFound.Errorf("no such thing") }
func (m *mathClass) Blow(string) error                          { panic("boom") }
func (m *mathClass) Sum(all []float64) (sum float64)            { return sumOf(all) }
func (m *mathClass) Norm(p point) float64                       { return math.Hypot(p.X, p.Y) }
func (m *mathClass) Maybe(p *point) string                      { return fmt.Sprint(p) }
func (m *mathClass) Echo(v any) any                             { return v }
func (m *mathClass) When(t time.Time) string                    { return t.Format(time.RFC3339) }
func (m *mathClass) Bytes(b []byte) int                         { return len(b) }
func (m *mathClass) Coded(a string, c codedParam) int           { return int(c) }
func (m *mathClass) Distance(a, b point) (float64, error)       { return math.Hypot(a.X-b.X, a.Y-b.Y), nil }
func (m *mathClass) Mixed(s string, n int8, p *point) string    { return fmt.Sprintf("%s %d %v", s, n, p) }
func (m *mathClass) HTTPGet(ctx context.Context) string         { return method(ctx) }
func (m *mathClass) Who(c context.Context, greet string) string { return greet + " " + method(c) }
func (m *mathClass) Renew() string                              { return "of the class" }

// Fetch and those after it are not to be served.
func (m *mathClass) Fetch() string                          { return "reserved" }
func (m *mathClass) Alarm() string                          { return "reserved" }
func (m *mathClass) WebSocketMessage() string               { return "reserved" }
func (m *mathClass) String() string                         { return "called by fmt" }
func (m *mathClass) Error() string                          { return "called by fmt" }
func (m *mathClass) MarshalJSON() ([]byte, error)           { return []byte(`"class"`), nil }
func (m *mathClass) UnmarshalText([]byte) error             { return nil }
func (m *mathClass) Format(f fmt.State, verb rune)          {}
func (m *mathClass) Is(error) bool                          { return false }
func (m *mathClass) unexported() string                     { return "unexported" }
func (m *mathClass) Value(name string) string               { return "a value of " + name } // not driver.Valuer's: served
func (m *mathClass) Marshalled(c context.Context) io.Reader { return nil }                  // another word: served

func sumOf(all []float64) (sum float64) {
	for _, n := range all {
		sum += n
	}
	return sum
}

func method(ctx context.Context) string {
	info, _ := rpc.CallInfoFrom(ctx)
	return info.Method
}

var served = []string{
	"add", "blow", "bytes", "calls", "coded", "distance", "echo", "fail", "half", "httpGet", "marshalled", "maybe",
	"mixed", "norm", "ping", "renew", "sum", "value", "when", "who",
}

// serveMath serves a mathClass and returns a caller that knows only NATS.
func serveMath(t *testing.T) (*bus.Bus, *plain) {
	t.Helper()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	svc := server.New(b, "math", server.Config{})
	server.Register(svc, func() *mathClass { return &mathClass{classBase: new(classBase)} })
	start(t, svc)
	_ = (*mathClass).unexported
	return b, plainClient(t, srv)
}

func TestRegisterServesTheTypesOwnMethodsOnly(t *testing.T) {
	t.Parallel()
	_, p := serveMath(t)
	if got := endpointSubjects(t, p.conn, "math"); strings.Join(got, " ") != "rpc.math."+strings.Join(served, " rpc.math.") {
		t.Errorf("served are %q, want %q", got, served)
	}
	for _, name := range []string{
		"promoted", "inherited", "close", "Promoted", "fetch", "alarm", "webSocketMessage", "string", "error",
		"marshalJSON", "unmarshalText", "format", "is", "unexported", "Add", "classBase.promoted",
	} {
		if _, f := p.request(t, "rpc.math."+name, []byte("null"), nil); f == nil || f.Code != "unimplemented" {
			t.Errorf("math.%s: got %+v, want unimplemented", name, f)
		}
	}
	if got, _ := p.request(t, "rpc.math.renew", []byte("null"), nil); string(got) != `"of the class"` {
		t.Errorf("the method that shadows a promoted one returns %s", got)
	}
}

func TestRegisterCalls(t *testing.T) {
	t.Parallel()
	_, p := serveMath(t)
	for _, tt := range []struct{ method, payload, want string }{
		{"add", `[1,2]`, `3`},
		{"add", ` [ 1 , 2.5 ] `, `3.5`},
		{"half", `3`, `1.5`},
		{"half", `[3]`, `1.5`},
		{"ping", ``, `null`},
		{"ping", `null`, `null`},
		{"ping", `{}`, `null`},
		{"blow", `"x"`, `internal: internal error in math.blow`},
		{"fail", `null`, `not_found: no such thing`},
		{"sum", `[1,2,3]`, `6`},
		{"sum", `[]`, `0`},
		{"sum", `[7]`, `7`},
		{"sum", `[[1,2,3]]`, `invalid_argument: params: want a number, got array`},
		{"norm", `{"x":3,"y":4}`, `5`},
		{"norm", `[{"x":3,"y":4}]`, `5`},
		{"norm", `{"x":2000}`, `invalid_argument: x is beyond 1000`},
		{"norm", `{"x":"3"}`, `invalid_argument: params.x: want a number, got string`},
		{"norm", `[{"x":"3"}]`, `invalid_argument: argument 1.x: want a number, got string`},
		{"norm", `[]`, `invalid_argument: math.norm: want 1 argument (object), got 0`},
		{"norm", `[{},{}]`, `invalid_argument: math.norm: want 1 argument (object), got 2`},
		{"norm", `"a"`, `invalid_argument: params: want an object, got string`},
		{"norm", ``, `invalid_argument: the request has no params: send them as application/json`},
		{"maybe", `null`, `"\u003cnil\u003e"`},
		{"maybe", `{"x":2000}`, `invalid_argument: x is beyond 1000`},
		{"maybe", `[{"x":1,"y":2}]`, `"\u0026{1 2}"`},
		{"echo", `[1]`, `[1]`},
		{"echo", `{"a":[null]}`, `{"a":[null]}`},
		{"when", `"2026-02-01T10:00:00Z"`, `"2026-02-01T10:00:00Z"`},
		{"when", `["2026-02-01T10:00:00Z"]`, `"2026-02-01T10:00:00Z"`},
		{"bytes", `"AAEC"`, `3`},
		{"distance", `[{"x":0,"y":0},{"x":3,"y":4}]`, `5`},
		{"distance", `[{"x":0},{"x":2000}]`, `invalid_argument: argument 2: x is beyond 1000`},
		{"distance", `[{"x":0},{"x":[]}]`, `invalid_argument: argument 2.x: want a number, got array`},
		{"coded", `["a",-1]`, `out_of_range: below zero`},
		{"mixed", `["a",1,null]`, `"a 1 \u003cnil\u003e"`},
		{"mixed", `["a",300,null]`, `invalid_argument: argument 2: want a whole number (int8), got number`},
		{"mixed", `["a",1.5,null]`, `invalid_argument: argument 2: want a whole number (int8), got number`},
		{"mixed", `["a"]`, `invalid_argument: math.mixed: want an array of 3 arguments (string, whole number, object), got 1`},
		{"add", `[1]`, `invalid_argument: math.add: want an array of 2 arguments (number, number), got 1`},
		{"add", `[1,2,3,4]`, `invalid_argument: math.add: want an array of 2 arguments (number, number), got 4`},
		{"add", `[]`, `invalid_argument: math.add: want an array of 2 arguments (number, number), got 0`},
		{"add", `null`, `invalid_argument: math.add: want an array of 2 arguments (number, number), got no array`},
		{"add", `{"a":1,"b":2}`, `invalid_argument: math.add: want an array of 2 arguments (number, number), got no array`},
		{"add", `"1,2"`, `invalid_argument: math.add: want an array of 2 arguments (number, number), got no array`},
		{"add", `["1",2]`, `invalid_argument: argument 1: want a number, got string`},
		{"add", `[1,2`, `invalid_argument: params: malformed JSON`},
		{"add", "[1,\"\xff\"]", `invalid_argument: params: can't be read`},
		{"add", ``, `invalid_argument: the request has no params`},
		{"httpGet", `null`, `"httpGet"`},
		{"who", `"I am"`, `"I am who"`},
		{"value", `"x"`, `"a value of x"`},
	} {
		result, f := p.request(t, "rpc.math."+tt.method, []byte(tt.payload), nil)
		got := string(result)
		if f != nil {
			got = f.Code + ": " + f.Message
		}
		if got != tt.want && (f == nil || !strings.HasPrefix(got, tt.want)) {
			t.Errorf("math.%s %s:\n got %s\nwant %s", tt.method, tt.payload, got, tt.want)
		}
	}
}

func TestRegisterErrorTellsTheArgumentToPrograms(t *testing.T) {
	t.Parallel()
	_, p := serveMath(t)
	_, f := p.request(t, "rpc.math.distance", []byte(`[{"x":0},{"x":[]}]`), nil)
	if f == nil {
		t.Fatal("want an error")
	}
	contains(t, string(f.Details), `"field":"[1].x"`, `"expected":"a number"`, `"got":"array"`)
}

func TestRegisterTakesCBOR(t *testing.T) {
	t.Parallel()
	_, p := serveMath(t)
	for _, tt := range []struct {
		method string
		params any
		want   any
		fails  string
	}{
		{method: "add", params: []any{1, 2.5}, want: 3.5},
		{method: "half", params: []any{3.0}, want: 1.5},
		{method: "half", params: 3.0, want: 1.5},
		{method: "distance", params: []point{{}, {3, 4}}, want: 5.0},
		{method: "sum", params: []float64{1, 2}, want: 3.0},
		{method: "mixed", params: []any{"a", 1, nil}, want: "a 1 <nil>"},
		{method: "bytes", params: []byte{1, 2, 3}, want: uint64(3)},
		{method: "add", params: []any{1}, fails: "math.add: want an array of 2 arguments (number, number), got 1"},
		{method: "add", params: []any{1, 2, 3}, fails: "math.add: want an array of 2 arguments (number, number), got 3"},
		{method: "add", params: nil, fails: "math.add: want an array of 2 arguments"},
		{method: "add", params: map[string]int{"a": 1}, fails: "math.add: want an array of 2 arguments"},
		{method: "add", params: []any{1, "2"}, fails: "argument 2"},
	} {
		payload, err := cbor.Marshal(tt.params)
		if err != nil {
			t.Fatal(err)
		}
		data, f := p.request(t, "rpc.math."+tt.method, payload, header("Content-Type", "application/cbor"))
		switch {
		case f != nil && (tt.fails == "" || f.Code != "invalid_argument" || !strings.Contains(f.Message, tt.fails)):
			t.Errorf("math.%s %v fails with %+v, want %q", tt.method, tt.params, f, tt.fails)
		case f == nil && tt.fails != "":
			t.Errorf("math.%s %v: want an error with %q", tt.method, tt.params, tt.fails)
		case f == nil:
			var got any
			if err := cbor.Unmarshal(data, &got); err != nil || got != tt.want {
				t.Errorf("math.%s %v = %v, %v, want %v", tt.method, tt.params, got, err, tt.want)
			}
		}
	}
}

// gobbler is a codec that knows nothing of arguments.
type gobbler struct{}

func (gobbler) ContentType() string         { return "application/x-gobbler" }
func (gobbler) Marshal(any) ([]byte, error) { return []byte("x"), nil }
func (gobbler) Unmarshal([]byte, any) error { return nil }

func TestRegisterRefusesOtherCodecs(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv, bustest.WithConfig(func(c *bus.Config) { c.Codecs = []bus.Codec{gobbler{}} }))
	svc := server.New(b, "math", server.Config{})
	server.Register(svc, func() *mathClass { return new(mathClass) })
	start(t, svc)
	_, f := plainClient(t, srv).request(t, "rpc.math.add", []byte("x"), header("Content-Type", "application/x-gobbler"))
	if f == nil || f.Code != "invalid_argument" {
		t.Fatalf("got %+v, want invalid_argument", f)
	}
	contains(t, f.Message, "math.add", "application/json", "application/cbor")
}

// greedy keeps what it read even when it then fails.
type greedy struct{ Seen []string }

func (g *greedy) UnmarshalJSON(data []byte) error {
	g.Seen = append(g.Seen, string(data))
	if data[0] == '[' {
		return errors.New("an array")
	}
	return nil
}

type greedyClass struct{}

func (greedyClass) Show(g greedy) []string { return g.Seen }

func TestRegisterReadsAnArgumentAfreshFromAnArray(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := server.New(bustest.Connect(t, srv), "greedy", server.Config{})
	server.Register(svc, func() *greedyClass { return new(greedyClass) })
	start(t, svc)
	if got, f := plainClient(t, srv).request(t, "rpc.greedy.show", []byte(`[1]`), nil); string(got) != `["1"]` {
		t.Errorf("got %s (%+v), want what is in the array alone", got, f)
	}
}

func TestRegisterMakesAnInstanceForEachCall(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	svc := server.New(b, "math", server.Config{})
	var made atomic.Int32
	server.Register(svc, func() *mathClass { made.Add(1); return new(mathClass) })
	start(t, svc)
	if made.Load() != 0 {
		t.Errorf("%d instances were made before the first call", made.Load())
	}
	p := plainClient(t, srv)
	for range 3 {
		if got, f := p.request(t, "rpc.math.calls", nil, nil); string(got) != "1" {
			t.Errorf("a fresh instance has served %s calls (%+v), want 1", got, f)
		}
	}
	if made.Load() != 3 {
		t.Errorf("3 calls made %d instances", made.Load())
	}
}

func TestRegisterSurvivesANilInstance(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	logs := newLogbook()
	b := bustest.Connect(t, srv, logs.option(0))
	svc := server.New(b, "math", server.Config{})
	server.Register(svc, func() *mathClass { return nil })
	start(t, svc)
	if _, f := plainClient(t, srv).request(t, "rpc.math.add", []byte("[1,2]"), nil); f == nil || f.Code != "internal" {
		t.Errorf("got %+v, want internal", f)
	}
	contains(t, logs.text(), "newInstance returned nil")
}

func TestRegisterFromAClient(t *testing.T) {
	t.Parallel()
	b, _ := serveMath(t)
	var (
		add   = rpc.NewMethod[[]any, float64]("math.add")
		dist  = rpc.NewMethod[[2]point, float64]("math.distance")
		norm  = rpc.NewMethod[point, float64]("math.norm")
		half  = rpc.NewMethod[[1]float64, float64]("math.half")
		calls = rpc.NewMethod[rpc.None, int]("math.calls")
	)
	for name, config := range map[string]client.Config{
		"in process":          {},
		"over the bus":        {NoShortcut: true},
		"in process, CBOR":    {Codec: bus.CBOR{}},
		"over the bus, CBOR ": {NoShortcut: true, Codec: bus.CBOR{}},
	} {
		t.Run(name, func(t *testing.T) {
			c := client.New(b, config)
			defer c.Close()
			ctx := t.Context()
			if got, err := add.Call(ctx, c, []any{1, 2.5}); got != 3.5 || err != nil {
				t.Errorf("add = %v, %v", got, err)
			}
			if got, err := dist.Call(ctx, c, [2]point{{}, {3, 4}}); got != 5 || err != nil {
				t.Errorf("distance = %v, %v", got, err)
			}
			if got, err := norm.Call(ctx, c, point{3, 4}); got != 5 || err != nil {
				t.Errorf("norm = %v, %v", got, err)
			}
			if got, err := half.Call(ctx, c, [1]float64{5}); got != 2.5 || err != nil {
				t.Errorf("half = %v, %v", got, err)
			}
			if got, err := calls.Call(ctx, c, rpc.None{}); got != 1 || err != nil {
				t.Errorf("calls = %v, %v", got, err)
			}
			_, err := add.Call(ctx, c, []any{1})
			contains(t, requireCode(t, err, rpc.InvalidArgument).Message, "an array of 2 arguments (number, number), got 1")
			_, err = norm.Call(ctx, c, point{X: 2000})
			contains(t, requireCode(t, err, rpc.InvalidArgument).Message, "x is beyond 1000")
		})
	}
}

func TestRegisterShowsArgumentsToInterceptors(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	seen := make(chan string, 10)
	svc := server.New(b, "math", server.Config{Interceptors: []rpc.Interceptor{{
		Name: "look",
		Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
			return func(ctx context.Context, call *rpc.Call) error {
				text, err := json.Marshal(call.Params)
				if err != nil {
					return err
				}
				if a, ok := call.Params.(*server.Arguments); ok {
					if n, ok := a.Pointer(a.Len() - 1).(*float64); ok {
						*n *= 10
					}
				}
				err = next(ctx, call)
				seen <- fmt.Sprintf("%s %T %s", call.Name(), call.Result, text)
				return err
			}
		},
	}}})
	server.Register(svc.Entrypoint("Admin"), func() *mathClass { return new(mathClass) })
	start(t, svc)
	p := plainClient(t, srv)
	for _, tt := range []struct{ method, payload, want, seen string }{
		{"add", "[1,2]", "21", "math.Admin.add *float64 [1,2]"},
		{"half", "[1]", "5", "math.Admin.half *float64 1"},
		{"ping", "", "null", "math.Admin.ping *rpc.None null"},
	} {
		if got, f := p.request(t, "rpc.math.Admin."+tt.method, []byte(tt.payload), nil); string(got) != tt.want {
			t.Errorf("%s = %s (%+v), want %s", tt.method, got, f, tt.want)
		}
		if got := receive(t, "the interceptor", seen); got != tt.seen {
			t.Errorf("the interceptor saw %s, want %s", got, tt.seen)
		}
	}
}

func TestRegisterRefusesAnArrayBeyondItsArgumentsWithoutKeepingIt(t *testing.T) {
	t.Parallel()
	_, p := serveMath(t)
	payload := []byte("[" + strings.Repeat("0,", 200_000) + "0]")
	if _, f := p.request(t, "rpc.math.add", payload, nil); f == nil || !strings.HasSuffix(f.Message, "got 200001") {
		t.Errorf("got %+v, want an error that counts 200001", f)
	}
}
