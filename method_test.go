package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rpc.do"
)

type placeParams struct{ SKU string }

type order struct{ ID string }

// place is a contract as a service's contract package has it.
var place = rpc.NewMethod[placeParams, order]("orders.place",
	rpc.Idempotent(), rpc.Timeout(3*time.Second), rpc.Description("Places an order."))

// capture is a caller that keeps the last call and answers with an order.
type capture struct{ call rpc.Call }

func (c *capture) Call(_ context.Context, call *rpc.Call) error {
	c.call = *call
	if result, ok := call.Result.(*order); ok {
		result.ID = "1"
	}
	return nil
}

// failing is a caller that leaves half a result behind when it fails.
func failing(err error) rpc.Caller {
	return rpc.UnaryFunc(func(_ context.Context, call *rpc.Call) error {
		if result, ok := call.Result.(*order); ok {
			result.ID = "half done"
		}
		return err
	})
}

// mustPanic fails unless fn panics with a text that begins with want.
func mustPanic(t *testing.T, what, want string, fn func()) {
	t.Helper()
	defer func() {
		text, _ := recover().(string)
		if len(text) < len(want) || text[:len(want)] != want {
			t.Errorf("%s: panic %q, want one that begins with %q", what, text, want)
		}
	}()
	fn()
}

func TestMethodSpec(t *testing.T) {
	t.Parallel()
	want := rpc.Spec{Service: "orders", Method: "place", Idempotent: true, Timeout: 3 * time.Second, Description: "Places an order."}
	if got := place.Spec(); *got != want || got.Name() != "orders.place" {
		t.Errorf("Spec = %+v", got)
	}
	deep := rpc.NewMethod[int, int]("todo-app.AdminEntrypoint.createUser").Spec()
	if deep.Service != "todo-app" || deep.Method != "AdminEntrypoint.createUser" || deep.Name() != "todo-app.AdminEntrypoint.createUser" {
		t.Errorf("Spec = %+v", deep)
	}
}

func TestNewMethodPanics(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "orders", "orders.", "orders.fetch", "orders._x", "orders.a b", "orders.>"} {
		mustPanic(t, name, "rpc: NewMethod: ", func() { rpc.NewMethod[int, int](name) })
	}
	for _, d := range []time.Duration{0, -1} {
		mustPanic(t, d.String(), "rpc: a method's timeout", func() { rpc.NewMethod[int, int]("a.b", rpc.Timeout(d)) })
	}
}

// A descriptor that nobody has defined says so where it is used, not in a
// goroutine of the library.
func TestUndefinedMethodPanics(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := rpc.UnaryFunc(func(context.Context, *rpc.Call) error { return nil })
	var m rpc.Method[int, int]
	var o rpc.ObjectMethod[int, int]
	for name, use := range map[string]func(){
		"Spec":        func() { m.Spec() },
		"Call":        func() { _, _ = m.Call(ctx, c, 1) },
		"Go":          func() { m.Go(ctx, c, 1) },
		"Send":        func() { _ = m.Send(ctx, c, 1) },
		"object Spec": func() { o.Spec() },
		"object Call": func() { _, _ = o.Call(ctx, c, "not / an id", 1) },
		"object Go":   func() { o.Go(ctx, c, "id", 1) },
	} {
		want := "rpc: a Method made without NewMethod"
		if strings.HasPrefix(name, "object") {
			want = "rpc: an ObjectMethod made without NewObjectMethod"
		}
		func() {
			defer func() {
				if got := recover(); got != want {
					t.Errorf("%s: panic %v, want %q", name, got, want)
				}
			}()
			use()
		}()
	}
}

func TestCall(t *testing.T) {
	t.Parallel()
	var c capture
	got, err := place.Call(t.Context(), &c, placeParams{"abc"})
	if err != nil || got.ID != "1" {
		t.Fatalf("Call = %v, %v", got, err)
	}
	if params, ok := c.call.Params.(*placeParams); !ok || params.SKU != "abc" {
		t.Errorf("Params = %#v, want a *placeParams", c.call.Params)
	}
	if _, ok := c.call.Result.(*order); !ok {
		t.Errorf("Result = %#v, want an *order", c.call.Result)
	}
	c.call.Params, c.call.Result = nil, nil
	want := rpc.Call{Service: "orders", Method: "place", Idempotent: true, Timeout: 3 * time.Second}
	if !reflect.DeepEqual(c.call, want) {
		t.Errorf("call %+v, want %+v", c.call, want)
	}
}

func TestCallFails(t *testing.T) {
	t.Parallel()
	want := rpc.NotFound.Errorf("sku abc").AsRemote()
	got, err := place.Call(t.Context(), failing(want), placeParams{"abc"})
	if err != error(want) {
		t.Errorf("err = %v, want the caller's own", err)
	}
	if got != (order{}) {
		t.Errorf("a failed call has the result %v", got)
	}
}

func TestCallPassesTheContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "mine")
	fake := rpc.UnaryFunc(func(ctx context.Context, _ *rpc.Call) error {
		if ctx.Value(key{}) != "mine" {
			t.Error("another context arrived")
		}
		return nil
	})
	place.Call(ctx, fake, placeParams{})
	place.Go(ctx, fake, placeParams{}).Wait(t.Context())
	place.Send(ctx, fake, placeParams{})
}

func TestCallOptions(t *testing.T) {
	t.Parallel()
	var c capture
	options := []rpc.CallOption{
		rpc.WithTimeout(time.Minute), rpc.WithID("mine"),
		rpc.WithHeader("X-Tenant", "acme"), rpc.WithHeader("X-Tenant", "other"), rpc.WithHeader("X-B", "b"),
	}
	for range 2 { // options are values: using them again gives the same
		if _, err := place.Call(t.Context(), &c, placeParams{}, options...); err != nil {
			t.Fatal(err)
		}
		want := rpc.Header{"X-Tenant": {"acme", "other"}, "X-B": {"b"}}
		if c.call.Timeout != time.Minute || c.call.ID != "mine" || !reflect.DeepEqual(c.call.Header, want) {
			t.Errorf("call %+v", c.call)
		}
	}
	if spec := place.Spec(); spec.Timeout != 3*time.Second {
		t.Errorf("an option of one call changed the method: %+v", spec)
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	var c capture
	if err := place.Send(t.Context(), &c, placeParams{"abc"}, rpc.WithID("mine")); err != nil {
		t.Fatal(err)
	}
	params, ok := c.call.Params.(*placeParams)
	if !ok || params.SKU != "abc" || c.call.Result != nil || !c.call.OneWay || c.call.ID != "mine" || c.call.Name() != "orders.place" {
		t.Errorf("call %+v", c.call)
	}
	if err := place.Send(t.Context(), failing(io.EOF), placeParams{}); err != io.EOF {
		t.Errorf("err = %v", err)
	}
}

func TestGo(t *testing.T) {
	t.Parallel()
	f := place.Go(t.Context(), new(capture), placeParams{"abc"})
	<-f.Done()
	for range 3 {
		if got, err := f.Wait(t.Context()); err != nil || got.ID != "1" {
			t.Errorf("Wait = %v, %v", got, err)
		}
	}
	want := rpc.Aborted.Errorf("x")
	if got, err := place.Go(t.Context(), failing(want), placeParams{}).Wait(t.Context()); err != error(want) || got != (order{}) {
		t.Errorf("Wait = %v, %v", got, err)
	}
}

// Giving up waiting does not end the call, and what is known already is
// returned even when the context has ended.
func TestFutureOutlivesItsWaiter(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	fake := rpc.UnaryFunc(func(ctx context.Context, call *rpc.Call) error {
		select {
		case <-answer:
			call.Result.(*order).ID = "late"
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	f := place.Go(t.Context(), fake, placeParams{})

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := f.Wait(ended)
	if rpc.CodeOf(err) != rpc.Canceled || !errors.Is(err, context.Canceled) || got != (order{}) {
		t.Errorf("Wait = %v, %v; want Canceled", got, err)
	}
	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := f.Wait(past); rpc.CodeOf(err) != rpc.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v; want DeadlineExceeded", err)
	}
	if rpc.IsRemote(err) {
		t.Error("giving up here looks like the callee's decision")
	}
	select {
	case <-f.Done():
		t.Error("the call ended with the waiter's context")
	default:
	}

	close(answer)
	<-f.Done()
	for range 100 { // both channels are ready: the result must win every time
		if got, err := f.Wait(ended); err != nil || got.ID != "late" {
			t.Fatalf("Wait = %v, %v", got, err)
		}
	}
}

// A waiter whose context ends while it waits is woken at once.
func TestFutureWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		call, stop := context.WithCancel(t.Context())
		blocked := rpc.UnaryFunc(func(ctx context.Context, _ *rpc.Call) error {
			<-ctx.Done()
			return rpc.CodeOf(ctx.Err()).Errorf("the caller gave up")
		})
		f := place.Go(call, blocked, placeParams{})

		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.Wait(ctx); rpc.CodeOf(err) != rpc.DeadlineExceeded {
			t.Errorf("Wait: %v", err)
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %v", waited)
		}

		stop() // the context that the call was started with does end it
		if _, err := f.Wait(t.Context()); rpc.CodeOf(err) != rpc.Canceled {
			t.Errorf("Wait: %v", err)
		}
	})
}

func TestManyWaiters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		f := place.Go(t.Context(), rpc.UnaryFunc(func(_ context.Context, call *rpc.Call) error {
			<-answer
			call.Result.(*order).ID = "1"
			return nil
		}), placeParams{})
		ids := make(chan string)
		for range 8 {
			go func() {
				got, _ := f.Wait(t.Context())
				ids <- got.ID
			}()
		}
		synctest.Wait()
		close(answer)
		for range 8 {
			if id := <-ids; id != "1" {
				t.Errorf("a waiter got %q", id)
			}
		}
	})
}

func TestForwardAuthorization(t *testing.T) {
	t.Parallel()
	served := rpc.WithCallInfo(t.Context(), rpc.CallInfo{
		Header: rpc.Header{"authorization": {"Bearer t0ken", "second"}, "Cookie": {"c"}},
	})
	without := rpc.WithCallInfo(t.Context(), rpc.CallInfo{Header: rpc.Header{"Cookie": {"c"}}})
	for _, test := range []struct {
		what    string
		options []rpc.CallOption
		want    []string
	}{
		{"asked", []rpc.CallOption{rpc.ForwardAuthorization(served)}, []string{"Bearer t0ken"}},
		{"not asked", nil, nil},
		{"outside a call", []rpc.CallOption{rpc.ForwardAuthorization(t.Context())}, nil},
		{"nothing to forward", []rpc.CallOption{rpc.ForwardAuthorization(without)}, nil},
	} {
		var c capture
		// The context that the call is made with does not matter.
		if _, err := place.Call(served, &c, placeParams{}, test.options...); err != nil {
			t.Fatal(err)
		}
		if got := c.call.Header.Values("Authorization"); !slices.Equal(got, test.want) {
			t.Errorf("%s: Authorization %q, want %q", test.what, got, test.want)
		}
		if got := c.call.Header.Get("Cookie"); got != "" {
			t.Errorf("%s: the header Cookie was forwarded too: %q", test.what, got)
		}
	}
}

func TestNoneOnTheWire(t *testing.T) {
	t.Parallel()
	if data, err := json.Marshal(rpc.None{}); err != nil || string(data) != "null" {
		t.Errorf("None is %s, %v", data, err)
	}
	for _, text := range []string{"null", "{}", `{"ignored":1}`} {
		if err := json.Unmarshal([]byte(text), new(rpc.None)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"1", `"x"`, "[]", "true"} {
		if err := json.Unmarshal([]byte(text), new(rpc.None)); err == nil {
			t.Errorf("%s was taken for nothing", text)
		}
	}
}
