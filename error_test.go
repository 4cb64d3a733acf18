package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"rpc.do"
)

// shortage is a detail without a name of its own.
type shortage struct {
	SKU  string `json:"sku"`
	Left int    `json:"left"`
}

// quota has a wire name; its method is the value's.
type quota struct{ Limit int }

func (quota) RPCDetail() string { return "acme.Quota" }

// lock has a wire name; its method is the pointer's.
type lock struct{ Owner string }

func (*lock) RPCDetail() string { return "acme.Lock" }

func TestErrorText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  *rpc.Error
		want string
	}{
		{rpc.NotFound.Errorf("order %s", "7"), "not_found: order 7"},
		{&rpc.Error{Code: rpc.NotFound}, "not_found"},
		{&rpc.Error{}, "unknown"},
		{&rpc.Error{Message: "x"}, "unknown: x"},
	} {
		if got := test.err.Error(); got != test.want {
			t.Errorf("Error() = %q, want %q", got, test.want)
		}
	}
}

func TestErrorIs(t *testing.T) {
	t.Parallel()
	for _, c := range rpc.Codes() {
		for _, err := range []error{
			c.Errorf("x"),
			c.Errorf("x").AsRemote(),
			fmt.Errorf("outer: %w", c.Errorf("x")),
			rpc.Code(c), // a bare code is an error too
		} {
			for _, other := range rpc.Codes() {
				if got, want := errors.Is(err, other), c == other; got != want {
					t.Errorf("errors.Is(%v, %v) = %t", err, other, got)
				}
			}
		}
		e := c.Errorf("x")
		if got, want := errors.Is(e, context.DeadlineExceeded), c == rpc.DeadlineExceeded; got != want {
			t.Errorf("errors.Is(%v, context.DeadlineExceeded) = %t", c, got)
		}
		if got, want := errors.Is(e, context.Canceled), c == rpc.Canceled; got != want {
			t.Errorf("errors.Is(%v, context.Canceled) = %t", c, got)
		}
		if errors.Is(e, io.EOF) {
			t.Errorf("%v is io.EOF", c)
		}
	}
}

func TestErrorAs(t *testing.T) {
	t.Parallel()
	inner := rpc.NotFound.Errorf("order 7").WithDetail(shortage{"abc", 0})
	err := fmt.Errorf("placing: %w", errors.Join(io.EOF, inner))
	var e *rpc.Error
	if !errors.As(err, &e) || e != inner {
		t.Fatalf("errors.As found %v", e)
	}
	var c rpc.Code
	if errors.As(err, &c) {
		t.Error("errors.As found a Code: an Error is not one")
	}
}

func TestErrorfWraps(t *testing.T) {
	t.Parallel()
	notThere := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}

	e := rpc.Internal.Errorf("reading: %w", notThere)
	if e.Message != "reading: open x: file does not exist" {
		t.Errorf("message %q", e.Message)
	}
	var path *fs.PathError
	if !errors.As(e, &path) || path != notThere || !errors.Is(e, fs.ErrNotExist) {
		t.Error("the wrapped error is out of reach")
	}
	if errors.Unwrap(e) != notThere {
		t.Errorf("Unwrap = %v", errors.Unwrap(e))
	}

	two := rpc.Internal.Errorf("%w, and then %w", io.ErrUnexpectedEOF, notThere)
	if !errors.Is(two, io.ErrUnexpectedEOF) || !errors.Is(two, fs.ErrNotExist) {
		t.Error("one of two wrapped errors is out of reach")
	}
	if rpc.Internal.Errorf("%v", notThere).Unwrap() != nil {
		t.Error("an error that was only printed is wrapped")
	}
}

// What is wrapped keeps its own codes to itself: the outer code is the error's.
func TestErrorfOuterCode(t *testing.T) {
	t.Parallel()
	e := rpc.Unavailable.Errorf("stock: %w", rpc.NotFound.Errorf("item"))
	if rpc.CodeOf(e) != rpc.Unavailable {
		t.Errorf("CodeOf = %v", rpc.CodeOf(e))
	}
	if !errors.Is(e, rpc.NotFound) {
		t.Error("in this process the inner code stays reachable")
	}
}

func TestErrorRemote(t *testing.T) {
	t.Parallel()
	local := rpc.NotFound.Errorf("x")
	remote := local.AsRemote()
	switch {
	case local.Remote() || rpc.IsRemote(local):
		t.Error("AsRemote changed the error it was called on")
	case !remote.Remote() || !rpc.IsRemote(fmt.Errorf("x: %w", remote)):
		t.Error("a remote error is not told")
	case rpc.IsRemote(nil) || rpc.IsRemote((*rpc.Error)(nil)) || rpc.IsRemote(io.EOF):
		t.Error("an error that is no Error is remote")
	}
	if changed := remote.WithDetail(1).WithRetryAfter(1).NotExecuted(); !changed.Remote() {
		t.Error("a changed copy forgot that it is remote")
	}
}

// All With methods leave the receiver as it is, and copies do not share room to
// grow into.
func TestErrorCopyOnWrite(t *testing.T) {
	t.Parallel()
	base := rpc.Aborted.Errorf("x").WithDetail(quota{1})
	before := *base
	a, b := base.WithDetail(quota{2}), base.WithDetail(quota{3})
	c := base.WithRetryAfter(time.Second)
	d := base.NotExecuted()
	if !reflect.DeepEqual(*base, before) {
		t.Errorf("the original changed to %+v", base)
	}
	if len(a.Details) != 2 || string(a.Details[1].Value) != `{"Limit":2}` {
		t.Errorf("the first copy has %s", a.Details)
	}
	if len(b.Details) != 2 || string(b.Details[1].Value) != `{"Limit":3}` {
		t.Errorf("the second copy has %s", b.Details)
	}
	if c.RetryAfter != time.Second || !d.Retryable {
		t.Errorf("copies %+v and %+v", c, d)
	}

	roomy := &rpc.Error{Code: rpc.Aborted, Details: make([]rpc.Detail, 0, 8)}
	first := roomy.WithDetail(quota{1})
	roomy.WithDetail(quota{2})
	if string(first.Details[0].Value) != `{"Limit":1}` {
		t.Errorf("copies share the room of the original: %s", first.Details)
	}
}

func TestErrorKeepsItsCauseInCopies(t *testing.T) {
	t.Parallel()
	e := rpc.Internal.Errorf("x: %w", io.EOF).WithDetail(1).NotExecuted().AsRemote()
	if !errors.Is(e, io.EOF) {
		t.Error("a copy lost what was wrapped")
	}
}

func TestWithDetailPanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a value that JSON can't hold was taken")
		}
	}()
	_ = rpc.Internal.Errorf("x").WithDetail(make(chan int))
}

func TestNewDetailFails(t *testing.T) {
	t.Parallel()
	for _, v := range []any{make(chan int), math.NaN(), func() {}} {
		if d, err := rpc.NewDetail(v); err == nil {
			t.Errorf("NewDetail(%T) = %s", v, d.Value)
		}
	}
}

func TestErrorJSON(t *testing.T) {
	t.Parallel()
	e := rpc.NotFound.Errorf("order %d", 7).WithDetail(shortage{"abc", 2}).
		NotExecuted().WithRetryAfter(1500 * time.Millisecond)
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"code":"not_found","message":"order 7",` +
		`"details":[{"type":"rpc_test.shortage","value":{"sku":"abc","left":2}}],"retryable":true,"retryAfterMs":1500}`
	if string(data) != want {
		t.Errorf("on the wire it is\n%s, want\n%s", data, want)
	}
	if data, _ := json.Marshal(&rpc.Error{Code: rpc.Aborted}); string(data) != `{"code":"aborted","message":""}` {
		t.Errorf("the smallest error is %s", data)
	}
}

func TestErrorJSONRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range rpc.Codes() {
		for _, message := range []string{"", "order 7", "two\nlines", `"quotes" <and> & more`, "größer 世界"} {
			want := (&rpc.Error{Code: c, Message: message}).
				WithDetail(shortage{"abc", 2}).WithDetail(quota{3}).WithRetryAfter(3 * time.Second)
			want.Retryable = c%2 == 0
			data, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			got := new(rpc.Error)
			if err := json.Unmarshal(data, got); err != nil {
				t.Fatalf("%s: %v", data, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%+v came back as %+v", want, got)
			}
		}
	}
}

func TestErrorJSONRefuses(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		``, `null`, `{}`, `[]`, `"not_found"`, `{"message":"x"}`, `{"code":""}`, `{"code":"ok"}`, `{"code":5}`,
		`{"code":"nonsense","message":"x"}`, `{"code":"not_found","details":{}}`, `{"code":"not_found","retryAfterMs":"1"}`,
	} {
		before := rpc.Error{Code: rpc.DataLoss, Message: "as it was"}
		e := before
		if err := json.Unmarshal([]byte(body), &e); err == nil {
			t.Errorf("%s was taken as %+v", body, e)
		}
		if !reflect.DeepEqual(e, before) {
			t.Errorf("%s was refused and changed the error to %+v", body, e)
		}
	}
}

// A wait is never rounded to none, never negative, and never so long that it
// overflows.
func TestRetryAfterOnTheWire(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, test := range []struct{ wait, want time.Duration }{
		{0, 0},
		{-time.Second, 0},
		{math.MinInt64, 0},
		{1, time.Millisecond},
		{time.Millisecond, time.Millisecond},
		{time.Millisecond + 1, 2 * time.Millisecond},
		{time.Minute, time.Minute},
		{day, day},
		{2 * day, day},
		{math.MaxInt64, day},
	} {
		data, err := json.Marshal(rpc.Unavailable.Errorf("x").WithRetryAfter(test.wait))
		if err != nil {
			t.Fatal(err)
		}
		var e rpc.Error
		if err := json.Unmarshal(data, &e); err != nil {
			t.Errorf("%v: %s: %v", test.wait, data, err)
		} else if e.RetryAfter != test.want {
			t.Errorf("%v came back as %v (%s), want %v", test.wait, e.RetryAfter, data, test.want)
		}
	}
	for _, body := range []string{
		`{"code":"unavailable","retryAfterMs":-5}`,
		`{"code":"unavailable","retryAfterMs":-9223372036854775808}`,
	} {
		var e rpc.Error
		if err := json.Unmarshal([]byte(body), &e); err != nil || e.RetryAfter != 0 {
			t.Errorf("%s: %v, %v", body, e.RetryAfter, err)
		}
	}
}

func FuzzErrorJSON(f *testing.F) {
	f.Add([]byte(`{"code":"not_found","message":"x","details":[{"type":"a.B","value":{"c":1}}],"retryable":true,"retryAfterMs":5}`))
	f.Add([]byte(`{"code":"ok"}`))
	f.Add([]byte(`{"code":"internal","retryAfterMs":9223372036854775807}`))
	f.Add([]byte(`{"code":"internal","details":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e rpc.Error
		if json.Unmarshal(data, &e) != nil {
			return
		}
		if e.Code.String() == "ok" || rpc.CodeOf(&e) != e.Code || e.RetryAfter < 0 || e.Remote() {
			t.Fatalf("%s was read as %+v", data, e)
		}
		again, err := json.Marshal(&e)
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		var back rpc.Error
		if err := json.Unmarshal(again, &back); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if back.Code != e.Code || back.Message != e.Message || back.Retryable != e.Retryable ||
			back.RetryAfter != e.RetryAfter || len(back.Details) != len(e.Details) {
			t.Fatalf("%+v came back as %+v", e, back)
		}
	})
}

func TestDetailOf(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("outer: %w", rpc.FailedPrecondition.Errorf("x").
		WithDetail(shortage{"abc", 2}).WithDetail(quota{3}).WithDetail(&lock{"ann"}).WithDetail("text").WithDetail(shortage{"xyz", 9}))

	if got, ok := rpc.DetailOf[shortage](err); !ok || got != (shortage{"abc", 2}) {
		t.Errorf("the first of two: %v, %t", got, ok)
	}
	if got, ok := rpc.DetailOf[*shortage](err); !ok || *got != (shortage{"abc", 2}) {
		t.Errorf("as a pointer: %v, %t", got, ok)
	}
	if got, ok := rpc.DetailOf[quota](err); !ok || got.Limit != 3 {
		t.Errorf("with a name: %v, %t", got, ok)
	}
	if got, ok := rpc.DetailOf[*quota](err); !ok || got.Limit != 3 {
		t.Errorf("with a name, as a pointer: %v, %t", got, ok)
	}
	if got, ok := rpc.DetailOf[lock](err); !ok || got.Owner != "ann" {
		t.Errorf("with a name from the pointer's method: %v, %t", got, ok)
	}
	if got, ok := rpc.DetailOf[*lock](err); !ok || got.Owner != "ann" {
		t.Errorf("the same as a pointer: %v, %t", got, ok)
	}
	if got, ok := rpc.DetailOf[string](err); !ok || got != "text" {
		t.Errorf("a plain value: %v, %t", got, ok)
	}
	if got, ok := rpc.DetailOf[rpc.FieldViolation](err); ok || got != (rpc.FieldViolation{}) {
		t.Errorf("one that is not there: %v, %t", got, ok)
	}
}

func TestDetailOfNothing(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, io.EOF, (*rpc.Error)(nil), rpc.NotFound, rpc.NotFound.Errorf("x")} {
		if got, ok := rpc.DetailOf[shortage](err); ok || got != (shortage{}) {
			t.Errorf("%v has %v", err, got)
		}
		if got, ok := rpc.DetailOf[*quota](err); ok || got != nil {
			t.Errorf("%v has %v", err, got)
		}
	}
}

// A detail that does not decode is passed over and leaves nothing behind.
func TestDetailOfMalformed(t *testing.T) {
	t.Parallel()
	name := func(value any) string {
		d, err := rpc.NewDetail(value)
		if err != nil {
			t.Fatal(err)
		}
		return d.Type
	}(shortage{})
	e := &rpc.Error{Code: rpc.Internal, Details: []rpc.Detail{
		{Type: name, Value: json.RawMessage(`{"sku":"spoilt","left":"many"}`)},
		{Type: name, Value: json.RawMessage(`{`)},
		{Type: name},
	}}
	if got, ok := rpc.DetailOf[shortage](e); ok || got != (shortage{}) {
		t.Errorf("malformed details gave %v", got)
	}
	e.Details = append(e.Details, rpc.Detail{Type: name, Value: json.RawMessage(`{"left":4}`)})
	if got, ok := rpc.DetailOf[shortage](e); !ok || got != (shortage{Left: 4}) {
		t.Errorf("got %v, %t; want only what the last detail says", got, ok)
	}
}

func TestDetailNames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		value any
		want  string
	}{
		{shortage{}, "rpc_test.shortage"},
		{&shortage{}, "rpc_test.shortage"},
		{quota{}, "acme.Quota"},
		{&quota{}, "acme.Quota"},
		{(*quota)(nil), "acme.Quota"},
		{lock{}, "acme.Lock"},
		{&lock{}, "acme.Lock"},
		{rpc.FieldViolation{}, "rpc.FieldViolation"},
		{"text", "string"},
		{nil, "null"},
	} {
		d, err := rpc.NewDetail(test.value)
		if err != nil || d.Type != test.want {
			t.Errorf("NewDetail(%T) has type %q, %v; want %q", test.value, d.Type, err, test.want)
		}
	}
}

func TestDetailsAcrossTheWire(t *testing.T) {
	t.Parallel()
	sent := rpc.InvalidArgument.Errorf("x").
		WithDetail(rpc.FieldViolation{Field: "items.qty", Expected: "a whole number", Got: "string"})
	data, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"type":"rpc.FieldViolation","value":{"field":"items.qty","expected":"a whole number","got":"string"}`) {
		t.Errorf("on the wire: %s", data)
	}
	got := new(rpc.Error)
	if err := json.Unmarshal(data, got); err != nil {
		t.Fatal(err)
	}
	v, ok := rpc.DetailOf[rpc.FieldViolation](got.AsRemote())
	if !ok || v.Field != "items.qty" {
		t.Errorf("came back as %+v, %t", v, ok)
	}
}
