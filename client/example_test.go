package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/server"
)

// A contract is written once and imported by both sides.
var (
	divide = rpc.NewMethod[DivideParams, float64]("math.divide", rpc.Idempotent(), rpc.Timeout(2*time.Second))
	square = rpc.NewMethod[int, int]("math.square", rpc.Idempotent())
	role   = rpc.NewMethod[rpc.None, string]("math.role")
)

// DivideParams are the params of math.divide.
type DivideParams struct {
	Dividend float64 `json:"dividend"`
	Divisor  float64 `json:"divisor"`
}

// demo runs a bus with the services of the examples and returns a connection
// to it.
func demo(register ...func(b *bus.Bus) *server.Service) (b *bus.Bus, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	srv, err := natsd.Start(ctx, natsd.Config{Port: natsd.FreePort, NoJetStream: true})
	if err != nil {
		panic(err)
	}
	connect := func(name string) *bus.Bus {
		b, err := bus.Connect(ctx, bus.Config{InProcess: srv, Name: name})
		if err != nil {
			panic(err)
		}
		return b
	}
	serving, calling := connect("services"), connect("example")
	var services sync.WaitGroup
	for _, r := range register {
		svc := r(serving)
		services.Go(func() {
			if err := svc.Run(ctx); err != nil {
				panic(err)
			}
		})
		<-svc.Ready()
	}
	return calling, func() {
		cancel()
		services.Wait()
		if err := errors.Join(calling.Close(), serving.Close()); err != nil {
			panic(err)
		}
		srv.Shutdown()
	}
}

func mathService(b *bus.Bus) *server.Service {
	svc := server.New(b, "math", server.Config{})
	server.Handle(svc, divide, func(_ context.Context, p DivideParams) (float64, error) {
		if p.Divisor == 0 {
			return 0, rpc.InvalidArgument.Errorf("division by zero").
				WithDetail(rpc.FieldViolation{Field: "divisor", Expected: "not 0"})
		}
		return p.Dividend / p.Divisor, nil
	})
	server.Handle(svc, square, func(_ context.Context, n int) (int, error) { return n * n, nil })
	server.Handle(svc, role, func(context.Context, rpc.None) (string, error) { return "anybody", nil })
	return svc
}

func Example() {
	b, stop := demo(mathService)
	defer stop()
	c := client.New(b, client.Config{})
	ctx := context.Background()

	quotient, err := divide.Call(ctx, c, DivideParams{Dividend: 7, Divisor: 2})
	fmt.Println(quotient, err)

	_, err = divide.Call(ctx, c, DivideParams{Dividend: 7}, rpc.WithTimeout(time.Second))
	fmt.Println(err)
	fmt.Println(rpc.CodeOf(err), errors.Is(err, rpc.InvalidArgument), rpc.IsRemote(err))
	if violation, ok := rpc.DetailOf[rpc.FieldViolation](err); ok {
		fmt.Println(violation.Field, "must be", violation.Expected)
	}
	// Output:
	// 3.5 <nil>
	// invalid_argument: division by zero
	// invalid_argument true true
	// divisor must be not 0
}

// Calls that run at the same time.
func Example_futures() {
	b, stop := demo(mathService)
	defer stop()
	c := client.New(b, client.Config{})
	ctx := context.Background()

	three, four := square.Go(ctx, c, 3), square.Go(ctx, c, 4)
	a, err := three.Wait(ctx)
	if err != nil {
		fmt.Println(err)
	}
	b2, err := four.Wait(ctx)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(a + b2)
	// Output: 25
}

// A contract bound to a service that is deployed under another name.
func ExampleClient_Service() {
	staging := func(b *bus.Bus) *server.Service {
		svc := server.New(b, "math-staging", server.Config{})
		server.Handle(svc, square, func(_ context.Context, n int) (int, error) { return n * n, nil })
		return svc
	}
	b, stop := demo(staging)
	defer stop()
	c := client.New(b, client.Config{MaxAttempts: 1})
	ctx := context.Background()

	n, err := square.Call(ctx, c.Service("math-staging"), 5)
	fmt.Println(n, err)
	_, err = square.Call(ctx, c, 5)
	fmt.Println(err)
	// Output:
	// 25 <nil>
	// unavailable: math.square: nobody listens on rpc.math.square: is the service "math" running? `rpcdo services ls` shows what is
}

// The methods of an entrypoint are reached through that entrypoint alone.
func ExampleBinding_Entrypoint() {
	withAdmin := func(b *bus.Bus) *server.Service {
		svc := mathService(b)
		server.Handle(svc.Entrypoint("Admin"), role, func(context.Context, rpc.None) (string, error) { return "admin", nil })
		return svc
	}
	b, stop := demo(withAdmin)
	defer stop()
	c := client.New(b, client.Config{})
	ctx := context.Background()

	for _, caller := range []rpc.Caller{c, c.Service("math").Entrypoint("Admin")} {
		fmt.Println(role.Call(ctx, caller, rpc.None{}))
	}
	_, err := square.Call(ctx, c.Service("math").Entrypoint("Admin"), 5)
	fmt.Println(err)
	// Output:
	// anybody <nil>
	// admin <nil>
	// unimplemented: Method not found
}

// After two calls in a row without an answer, a third does not even try.
func ExampleBreaker() {
	b, stop := demo() // nobody serves math
	defer stop()
	c := client.New(b, client.Config{
		MaxAttempts:  1,
		Interceptors: []rpc.Interceptor{client.Breaker(client.BreakerConfig{Failures: 2, OpenFor: time.Minute})},
	})
	for range 3 {
		_, err := square.Call(context.Background(), c, 5)
		fmt.Println(err)
	}
	// Output:
	// unavailable: math.square: nobody listens on rpc.math.square: is the service "math" running? `rpcdo services ls` shows what is
	// unavailable: math.square: nobody listens on rpc.math.square: is the service "math" running? `rpcdo services ls` shows what is
	// unavailable: math.square: not sent: the circuit breaker of math is open, its last calls got no answer
}

// While a call waits for its answer, identical ones share it.
func ExampleCoalesce() {
	running, release := make(chan struct{}), make(chan struct{})
	runs := 0
	patient := func(b *bus.Bus) *server.Service {
		svc := server.New(b, "math", server.Config{})
		server.Handle(svc, square, func(_ context.Context, n int) (int, error) {
			runs++
			close(running)
			<-release
			return n * n, nil
		})
		return svc
	}
	b, stop := demo(patient)
	defer stop()
	c := client.New(b, client.Config{Interceptors: []rpc.Interceptor{client.Coalesce()}})
	ctx := context.Background()

	first := square.Go(ctx, c, 7)
	<-running
	hasty, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err := square.Call(hasty, c, 7) // joins the first, and gives up alone
	fmt.Println(rpc.CodeOf(err))
	close(release)
	n, err := first.Wait(ctx)
	fmt.Println(n, err, runs)
	// Output:
	// deadline_exceeded
	// 49 <nil> 1
}
