package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"rpc.do"
)

// AddParams and Sum are what the contract of the service math says of its
// method add.
type AddParams struct {
	A int `json:"a"`
	B int `json:"b"`
}

// Sum is the result of add.
type Sum struct {
	Sum int `json:"sum"`
}

// Add is the contract itself: a package variable that both sides import.
var Add = rpc.NewMethod[AddParams, Sum]("math.add", rpc.Idempotent())

// In a test of code that calls, the service is faked by a function.
func Example() {
	fake := rpc.UnaryFunc(func(_ context.Context, call *rpc.Call) error {
		p := call.Params.(*AddParams)
		call.Result.(*Sum).Sum = p.A + p.B
		return nil
	})
	sum, err := Add.Call(context.Background(), fake, AddParams{A: 1, B: 2})
	fmt.Println(sum.Sum, err)
	// Output: 3 <nil>
}

func ExampleNewMethod() {
	spec := Add.Spec()
	fmt.Println(spec.Service, spec.Method, spec.Idempotent)
	// Output: math add true
}

func ExampleNewObjectMethod() {
	addItem := rpc.NewObjectMethod[string, int]("cart.add")
	fake := rpc.UnaryFunc(func(_ context.Context, call *rpc.Call) error {
		fmt.Println(call.Name(), "on", call.Object)
		*call.Result.(*int) = 1
		return nil
	})
	n, err := addItem.Call(context.Background(), fake, "alice", "abc")
	fmt.Println(n, err)
	// Output:
	// cart.add on alice
	// 1 <nil>
}

func ExampleCode() {
	err := fmt.Errorf("placing: %w", rpc.NotFound.Errorf("order %d", 7))

	fmt.Println(err)
	fmt.Println(errors.Is(err, rpc.NotFound), rpc.CodeOf(err), rpc.CodeOf(err).HTTPStatus())
	// Output:
	// placing: not_found: order 7
	// true not_found 404
}

// A call that ran out of time looks the same whether the caller noticed or the
// callee said so.
func ExampleCodeOf() {
	for _, err := range []error{nil, context.DeadlineExceeded, rpc.DeadlineExceeded.Errorf("too slow"), errors.New("disk full")} {
		fmt.Println(rpc.CodeOf(err))
	}
	// Output:
	// ok
	// deadline_exceeded
	// deadline_exceeded
	// unknown
}

// Shortage is a detail of an error: a value for programs.
type Shortage struct {
	SKU  string `json:"sku"`
	Left int    `json:"left"`
}

func ExampleDetailOf() {
	sent := rpc.FailedPrecondition.Errorf("not enough in stock").WithDetail(Shortage{SKU: "abc", Left: 2})

	// What crosses the wire is JSON.
	body, _ := json.Marshal(sent)
	fmt.Println(string(body))

	received := new(rpc.Error)
	_ = json.Unmarshal(body, received)
	if s, ok := rpc.DetailOf[Shortage](received); ok {
		fmt.Printf("%d of %s left\n", s.Left, s.SKU)
	}
	// Output:
	// {"code":"failed_precondition","message":"not enough in stock","details":[{"type":"rpc_test.Shortage","value":{"sku":"abc","left":2}}]}
	// 2 of abc left
}

func ExampleChain() {
	logging := rpc.Interceptor{Name: "log", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			err := next(ctx, call)
			fmt.Println(call.Name(), "ended with", rpc.CodeOf(err))
			return err
		}
	}}
	auth := rpc.Interceptor{Name: "auth", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			if call.Header.Get("Authorization") == "" {
				return rpc.Unauthenticated.Errorf("say who you are")
			}
			return next(ctx, call)
		}
	}}
	serve := func(_ context.Context, call *rpc.Call) error {
		fmt.Println("serving", call.Name())
		return nil
	}

	caller := rpc.Chain(serve, logging, auth) // logging is the outermost
	Add.Call(context.Background(), caller, AddParams{})
	Add.Call(context.Background(), caller, AddParams{}, rpc.WithHeader("Authorization", "Bearer t"))
	// Output:
	// math.add ended with unauthenticated
	// serving math.add
	// math.add ended with ok
}

func ExampleFuture() {
	fake := rpc.UnaryFunc(func(_ context.Context, call *rpc.Call) error {
		p := call.Params.(*AddParams)
		call.Result.(*Sum).Sum = p.A + p.B
		return nil
	})
	ctx := context.Background()

	// Both calls are under way before either is waited for.
	first := Add.Go(ctx, fake, AddParams{1, 2})
	second := Add.Go(ctx, fake, AddParams{3, 4})
	for _, f := range []*rpc.Future[Sum]{first, second} {
		sum, err := f.Wait(ctx)
		fmt.Println(sum.Sum, err)
	}
	// Output:
	// 3 <nil>
	// 7 <nil>
}

func ExampleNewEvent() {
	placed := rpc.NewEvent[order]("Order.placed")
	fmt.Println(placed.Name())
	// Output: Order.placed
}

func ExampleCallInfoFrom() {
	handler := func(ctx context.Context) {
		info, ok := rpc.CallInfoFrom(ctx)
		fmt.Println(ok, info.Caller, info.Attempt)
	}
	handler(context.Background())
	handler(rpc.WithCallInfo(context.Background(), rpc.CallInfo{Caller: "shop", Attempt: 2}))
	// Output:
	// false  0
	// true shop 2
}
