package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"
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

// The service that is called in three ways.
var (
	sameEcho   = rpc.NewMethod[noteParams, noteResult]("same.echo")
	sameCheck  = rpc.NewMethod[checkedParams, noteResult]("same.check")
	sameSize   = rpc.NewMethod[sizeParams, sizeResult]("same.size")
	sameFail   = rpc.NewMethod[failParams, noteResult]("same.fail")
	sameSlow   = rpc.NewMethod[noteParams, noteResult]("same.slow")
	sameNumber = rpc.NewMethod[noteParams, numberResult]("same.number")
	sameBomb   = rpc.NewMethod[bombParams, bombResult]("same.bomb")
	sameNone   = rpc.NewMethod[rpc.None, rpc.None]("same.none")
)

type noteParams struct {
	Text  string         `json:"text"`
	Count int            `json:"count"`
	Tags  []string       `json:"tags,omitempty"`
	Inner *noteParams    `json:"inner,omitempty"`
	Extra map[string]int `json:"extra,omitempty"`
}

type noteResult struct {
	Note noteParams `json:"note"`
	Len  int        `json:"len"`
}

type checkedParams struct {
	Quantity int `json:"quantity"`
}

// Validate has errors with a code and without.
func (p checkedParams) Validate() error {
	switch {
	case p.Quantity > 100:
		return rpc.OutOfRange.Errorf("quantity %d is more than 100", p.Quantity).
			WithDetail(rpc.FieldViolation{Field: "quantity", Expected: "at most 100"})
	case p.Quantity < 1:
		return errors.New("quantity must be at least 1")
	}
	return nil
}

type sizeParams struct {
	Bytes int `json:"bytes"`
}

type sizeResult struct {
	Data string `json:"data"`
}

type failParams struct {
	How string `json:"how"`
}

type numberResult struct {
	Value float64 `json:"value"`
}

// bombParams and bombResult panic when they are read and written.
type bombParams struct {
	Fuse string `json:"fuse"`
}

func (p *bombParams) UnmarshalJSON(data []byte) error {
	if bytes.Contains(data, []byte("in")) {
		panic("boom on the way in")
	}
	p.Fuse = "out"
	return nil
}

type bombResult struct{}

func (bombResult) MarshalJSON() ([]byte, error) { panic("boom on the way out") }

func echo(_ context.Context, p noteParams) (noteResult, error) {
	return noteResult{p, len(p.Text)}, nil
}

func fail(_ context.Context, p failParams) (noteResult, error) {
	switch p.How {
	case "coded":
		return noteResult{}, rpc.FailedPrecondition.Errorf("the order is %q already", "paid\nand sent").WithDetail(shortage{"abc", 1})
	case "bare code":
		return noteResult{}, rpc.NotFound
	case "no code":
		return noteResult{}, &rpc.Error{Message: "a message alone"}
	case "uncoded":
		return noteResult{}, errors.New(secret)
	case "nil of type *Error":
		var none *rpc.Error
		return noteResult{}, none
	case "canceled":
		return noteResult{}, context.Canceled
	case "panic":
		panic(secret)
	case "runtime panic":
		return noteResult{Len: []int{1}[len(p.How)]}, nil
	}
	return noteResult{}, nil
}

func serveSame(b *bus.Bus) *server.Service {
	svc := server.New(b, "same", server.Config{})
	server.Handle(svc, sameEcho, echo)
	server.Handle(svc, sameCheck, func(context.Context, checkedParams) (noteResult, error) { return noteResult{}, nil })
	server.Handle(svc, sameSize, func(_ context.Context, p sizeParams) (sizeResult, error) {
		return sizeResult{strings.Repeat("x", p.Bytes)}, nil
	})
	server.Handle(svc, sameFail, fail)
	server.Handle(svc, sameSlow, func(ctx context.Context, _ noteParams) (noteResult, error) {
		<-ctx.Done()
		return noteResult{}, ctx.Err()
	})
	server.Handle(svc, sameNumber, func(context.Context, noteParams) (numberResult, error) {
		return numberResult{math.NaN()}, nil
	})
	server.Handle(svc, sameBomb, func(context.Context, bombParams) (bombResult, error) { return bombResult{}, nil })
	server.Handle(svc, sameNone, func(context.Context, rpc.None) (rpc.None, error) { return rpc.None{}, nil })
	return svc
}

// outcome is what came of a call, as far as it must not depend on the way.
type outcome struct {
	result  string
	code    string
	message string
	details string
}

func outcomeOf(t testing.TB, result []byte, err error) outcome {
	t.Helper()
	if err == nil {
		return outcome{result: string(result)}
	}
	e := errorOf(t, err)
	o := outcome{code: e.Code.String(), message: e.Message}
	if len(e.Details) > 0 {
		details, err := json.Marshal(e.Details)
		if err != nil {
			t.Fatal(err)
		}
		o.details = string(details)
	}
	return o
}

// text is params as they are on the wire, well-formed or not.
type text []byte

// textCodec sends text as it is and calls it JSON.
type textCodec struct{ bus.JSON }

func (textCodec) Marshal(v any) ([]byte, error) {
	if p, ok := v.(*text); ok {
		return *p, nil
	}
	return json.Marshal(v)
}

// way is one way to call the service.
type way struct {
	name string
	call func(t testing.TB, c sameCase) outcome
}

const sameID = "call-of-the-table"

func sameWays(t *testing.T) []way {
	t.Helper()
	srv := bustest.Server(t)
	log := newLogbook()
	serving := bustest.Connect(t, srv, log.option(zerolog.ErrorLevel))
	calling := bustest.Connect(t, srv)
	start(t, serveSame(serving))
	remote := client.New(calling, client.Config{MaxAttempts: 1})
	local := client.New(serving, client.Config{MaxAttempts: 1})
	remoteText := client.New(calling, client.Config{MaxAttempts: 1, Codec: textCodec{}})
	localText := client.New(serving, client.Config{MaxAttempts: 1, Codec: textCodec{}})
	nobody := plainClient(t, srv)
	t.Cleanup(func() {
		for _, c := range []*client.Client{remote, local, remoteText, localText} {
			c.Close()
		}
	})
	return []way{
		{"plain NATS request", func(t testing.TB, c sameCase) outcome { return c.callPlain(t, nobody) }},
		{"typed client", func(t testing.TB, c sameCase) outcome { return c.callTyped(t, remote) }},
		{"typed shortcut", func(t testing.TB, c sameCase) outcome { return c.callTyped(t, local) }},
		{"client, other type", func(t testing.TB, c sameCase) outcome { return c.callText(t, remoteText) }},
		{"shortcut, other type", func(t testing.TB, c sameCase) outcome { return c.callText(t, localText) }},
	}
}

// sameCase is one call of the table.
type sameCase struct {
	name   string
	method string
	params string
	// typed calls the method by its descriptor; nil where its types don't let
	// such params be sent.
	typed   func(t testing.TB, c *client.Client, params string, opts ...rpc.CallOption) (any, error)
	timeout time.Duration

	want outcome // an empty message stands for any, the same for all
	// differs is set where the message says who decided, so it differs.
	differs bool
	// sizes is set where the size of the answer is at the bound: a codec of
	// another name takes room for it.
	sizes bool
}

func (c sameCase) options() []rpc.CallOption {
	opts := []rpc.CallOption{rpc.WithID(sameID)}
	if c.timeout > 0 {
		opts = append(opts, rpc.WithTimeout(c.timeout))
	}
	return opts
}

func (c sameCase) callPlain(t testing.TB, p *plain) outcome {
	h := header("Rpc-Id", sameID)
	if c.timeout > 0 {
		h.Set("Rpc-Timeout", strconv.FormatInt(c.timeout.Milliseconds(), 10))
	}
	result, f := p.request(t, "rpc.same."+c.method, []byte(c.params), h)
	if f == nil {
		return outcome{result: string(result)}
	}
	return outcome{code: f.Code, message: f.Message, details: string(f.Details)}
}

func (c sameCase) callTyped(t testing.TB, cl *client.Client) outcome {
	if c.typed == nil {
		return c.want
	}
	result, err := c.typed(t, cl, c.params, c.options()...)
	data, merr := json.Marshal(result)
	if err == nil && merr != nil {
		t.Fatal(merr)
	}
	return outcomeOf(t, data, err)
}

func (c sameCase) callText(t testing.TB, cl *client.Client) outcome {
	m := rpc.NewMethod[text, json.RawMessage]("same." + c.method)
	if c.sizes {
		return c.want
	}
	result, err := m.Call(t.Context(), cl, text(c.params), c.options()...)
	return outcomeOf(t, result, err)
}

// by calls m with params that are read from JSON first.
func by[P, R any](m rpc.Method[P, R]) func(testing.TB, *client.Client, string, ...rpc.CallOption) (any, error) {
	return func(t testing.TB, c *client.Client, params string, opts ...rpc.CallOption) (any, error) {
		var p P
		if err := json.Unmarshal([]byte(params), &p); err != nil {
			t.Fatal(err)
		}
		return m.Call(t.Context(), c, p, opts...)
	}
}

func violation(field, expected, got string) string {
	data, err := json.Marshal([]map[string]any{{
		"type": "rpc.FieldViolation", "value": rpc.FieldViolation{Field: field, Expected: expected, Got: got},
	}})
	if err != nil {
		panic(err)
	}
	return string(data)
}

func sameCases() []sameCase {
	const limit = 1 << 20
	uncoded := "internal error in same.fail; the service's log tells more about call " + sameID
	bomb := "internal error in same.bomb; the service's log tells more about call " + sameID
	full := `{"text":"héllo <&> \u2028","count":-3,"tags":["a","",""],"inner":{"text":"","count":0},"extra":{"k":1}}`
	return []sameCase{
		{name: "ok", method: "echo", params: full, typed: by(sameEcho),
			want: outcome{result: `{"note":{"text":"héllo \u003c\u0026\u003e \u2028","count":-3,"tags":["a","",""],"inner":{"text":"","count":0},"extra":{"k":1}},"len":14}`}},
		{name: "unknown fields are ignored", method: "echo", params: `{"text":"x","color":"red"}`, typed: by(sameEcho),
			want: outcome{result: `{"note":{"text":"x","count":0},"len":1}`}},
		{name: "none", method: "none", params: `null`, typed: by(sameNone), want: outcome{result: `null`}},
		{name: "none from an object", method: "none", params: `{}`, want: outcome{result: `null`}},
		{name: "none from nothing", method: "none", params: ``, want: outcome{result: `null`}},

		{name: "malformed", method: "echo", params: `{"text":`, want: outcome{code: "invalid_argument", message: "params: malformed JSON at byte 8: unexpected end of JSON input"}},
		{name: "malformed in the middle", method: "echo", params: `{"text":"a" "count":1}`, want: outcome{code: "invalid_argument",
			message: `params: malformed JSON at byte 13: invalid character '"' after object key:value pair`}},
		{name: "not JSON", method: "echo", params: "hello", want: outcome{code: "invalid_argument",
			message: "params: malformed JSON at byte 1: invalid character 'h' looking for beginning of value"}},
		{name: "trailing garbage", method: "echo", params: `{"text":"a"} x`, want: outcome{code: "invalid_argument",
			message: "params: malformed JSON at byte 14: invalid character 'x' after top-level value"}},
		{name: "two values", method: "echo", params: `{}{}`, want: outcome{code: "invalid_argument",
			message: "params: malformed JSON at byte 3: invalid character '{' after top-level value"}},
		{name: "empty", method: "echo", params: ``, want: outcome{code: "invalid_argument", message: "the request has no params: send them as application/json"}},
		{name: "invalid UTF-8", method: "echo", params: "{\"text\":\"\xff\"}", want: outcome{code: "invalid_argument",
			message: "params: can't be read as an object: not valid UTF-8"}},
		{name: "wrong type", method: "echo", params: `{"text":12}`, want: outcome{code: "invalid_argument",
			message: "params.text: want a string, got number", details: violation("text", "a string", "number")}},
		{name: "wrong type below", method: "echo", params: `{"inner":{"tags":["a",{}]}}`, want: outcome{code: "invalid_argument",
			message: "params.inner.tags: want a string, got object", details: violation("inner.tags", "a string", "object")}},
		{name: "a fraction", method: "echo", params: `{"count":1.5}`, want: outcome{code: "invalid_argument",
			message: "params.count: want a whole number (int), got number", details: violation("count", "a whole number (int)", "number")}},
		{name: "null", method: "echo", params: `null`, want: outcome{code: "invalid_argument",
			message: "params: want an object, got null", details: violation("", "an object", "null")}},
		{name: "an array", method: "echo", params: `[1]`, want: outcome{code: "invalid_argument",
			message: "params: want an object, got array", details: violation("", "an object", "array")}},

		{name: "valid", method: "check", params: `{"quantity":5}`, typed: by(sameCheck), want: outcome{result: `{"note":{"text":"","count":0},"len":0}`}},
		{name: "refused by Validate", method: "check", params: `{"quantity":0}`, typed: by(sameCheck),
			want: outcome{code: "invalid_argument", message: "quantity must be at least 1"}},
		{name: "refused by Validate with a code", method: "check", params: `{"quantity":101}`, typed: by(sameCheck),
			want: outcome{code: "out_of_range", message: "quantity 101 is more than 100", details: violation("quantity", "at most 100", "")}},

		{name: "coded error", method: "fail", params: `{"how":"coded"}`, typed: by(sameFail), want: outcome{code: "failed_precondition",
			message: `the order is "paid\nand sent" already`, details: `[{"type":"orders.Shortage","value":{"sku":"abc","missing":1}}]`}},
		{name: "bare code", method: "fail", params: `{"how":"bare code"}`, typed: by(sameFail), want: outcome{code: "not_found", message: "not_found"}},
		{name: "error without a code", method: "fail", params: `{"how":"no code"}`, typed: by(sameFail), want: outcome{code: "unknown", message: "a message alone"}},
		{name: "uncoded error", method: "fail", params: `{"how":"uncoded"}`, typed: by(sameFail), want: outcome{code: "internal", message: uncoded}},
		{name: "nil of type *Error", method: "fail", params: `{"how":"nil of type *Error"}`, typed: by(sameFail), want: outcome{code: "internal", message: uncoded}},
		{name: "context error", method: "fail", params: `{"how":"canceled"}`, typed: by(sameFail), want: outcome{code: "canceled", message: "same.fail was cancelled"}},
		{name: "panic", method: "fail", params: `{"how":"panic"}`, typed: by(sameFail), want: outcome{code: "internal", message: uncoded}},
		{name: "runtime panic", method: "fail", params: `{"how":"runtime panic"}`, typed: by(sameFail), want: outcome{code: "internal", message: uncoded}},
		{name: "panic while params are read", method: "bomb", params: `{"fuse":"in"}`, want: outcome{code: "internal", message: bomb}},

		{name: "no such method", method: "nope", params: `{}`, typed: by(rpc.NewMethod[noteParams, noteResult]("same.nope")),
			want: outcome{code: "unimplemented", message: "Method not found"}},
		{name: "deadline", method: "slow", params: `{}`, typed: by(sameSlow), timeout: 50 * time.Millisecond, differs: true,
			want: outcome{code: "deadline_exceeded"}},
		{name: "the largest result", method: "size", params: `{"bytes":` + strconv.Itoa(limit-len(`{"data":""}`)) + `}`, typed: by(sameSize), sizes: true,
			want: outcome{result: `{"data":"` + strings.Repeat("x", limit-len(`{"data":""}`)) + `"}`}},
		{name: "result too large", method: "size", params: `{"bytes":` + strconv.Itoa(limit-len(`{"data":""}`)+1) + `}`, typed: by(sameSize), sizes: true,
			want: outcome{code: "resource_exhausted", message: "the result of same.size: the message has 1048577 bytes, the bus takes at most 1048576 (max_payload)"}},
		{name: "result that JSON can't hold", method: "number", params: `{}`, typed: by(sameNumber),
			want: outcome{code: "internal", message: "same.number: the result can't be encoded as application/json"}},
	}
}

func TestSameOutcomeWhicheverWay(t *testing.T) {
	t.Parallel()
	ways := sameWays(t)
	for _, c := range sameCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, w := range ways {
				got := w.call(t, c)
				if c.differs {
					got.message = c.want.message
				}
				if got != c.want {
					t.Errorf("%s:\n got %.300q\nwant %.300q", w.name, got, c.want)
				}
			}
		})
	}
}

// The shortcut is one: the calls of the table do not pass the server.
func TestShortcutDoesNotTouchTheBus(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	start(t, serveSame(b))
	spying := bustest.Connect(t, srv).Conn()
	spy, err := spying.SubscribeSync("rpc.same.>")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = spy.Unsubscribe() }()
	if err := spying.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off  bool
		seen int
	}{{false, 0}, {true, 1}} {
		caller := client.New(b, client.Config{NoShortcut: c.off})
		if _, err := sameEcho.Call(t.Context(), caller, noteParams{}); err != nil {
			t.Fatal(err)
		}
		caller.Close()
		if err := b.Conn().Flush(); err != nil {
			t.Fatal(err)
		}
		if err := spying.Flush(); err != nil {
			t.Fatal(err)
		}
		if n, _, err := spy.Pending(); err != nil || n != c.seen {
			t.Errorf("shortcut off=%v: the bus saw %d calls (%v), want %d", c.off, n, err, c.seen)
		}
	}
}
