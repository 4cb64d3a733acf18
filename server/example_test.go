package server_test

import (
	"context"
	"fmt"
	"log"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/server"
)

type sumParams struct {
	A int `json:"a"`
	B int `json:"b"`
}

type sumResult struct {
	Sum int `json:"sum"`
}

var add = rpc.NewMethod[sumParams, sumResult]("math.add")

// newBus starts a server in this process and connects to it, for the examples.
func newBus() (b *bus.Bus, closeBus func()) {
	srv, err := natsd.Start(context.Background(), natsd.Config{Port: natsd.FreePort, NoJetStream: true})
	if err != nil {
		log.Fatal(err)
	}
	b, err = bus.Connect(context.Background(), bus.Config{InProcess: srv, Name: "example"})
	if err != nil {
		log.Fatal(err)
	}
	return b, func() {
		b.Close()
		srv.Shutdown()
	}
}

// serve runs svc until the function it returns is called.
func serve(svc *server.Service) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- svc.Run(ctx) }()
	<-svc.Ready()
	return func() {
		cancel()
		if err := <-done; err != nil {
			log.Fatal(err)
		}
	}
}

// A service has methods, which are plain functions, and runs until its context
// ends.
func Example() {
	b, closeBus := newBus()
	defer closeBus()

	svc := server.New(b, "math", server.Config{Version: "1.2.0"})
	server.Handle(svc, add, func(_ context.Context, p sumParams) (sumResult, error) {
		return sumResult{p.A + p.B}, nil
	})

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- svc.Run(ctx) }()
	<-svc.Ready()

	c := client.New(b, client.Config{})
	r, err := add.Call(ctx, c, sumParams{1, 2})
	fmt.Println(r.Sum, err)

	cancel() // Run finishes what it has taken
	fmt.Println(<-done)
	// Output:
	// 3 <nil>
	// <nil>
}

// An error with a code reaches the caller as it is.
func ExampleHandle() {
	b, closeBus := newBus()
	defer closeBus()

	divide := rpc.NewMethod[sumParams, int]("math.divide", rpc.Idempotent())
	svc := server.New(b, "math", server.Config{})
	server.Handle(svc, divide, func(_ context.Context, p sumParams) (int, error) {
		if p.B == 0 {
			return 0, rpc.InvalidArgument.Errorf("can't divide %d by zero", p.A)
		}
		return p.A / p.B, nil
	}, server.Concurrency(8))
	defer serve(svc)()

	c := client.New(b, client.Config{})
	_, err := divide.Call(context.Background(), c, sumParams{6, 0})
	fmt.Println(err)
	fmt.Println(rpc.CodeOf(err) == rpc.InvalidArgument, rpc.IsRemote(err))
	// Output:
	// invalid_argument: can't divide 6 by zero
	// true true
}

// What need not delay the answer goes on after it.
func ExampleWaitUntil() {
	b, closeBus := newBus()
	defer closeBus()

	mailed := make(chan string)
	svc := server.New(b, "math", server.Config{})
	server.Handle(svc, add, func(ctx context.Context, p sumParams) (sumResult, error) {
		server.WaitUntil(ctx, func(context.Context) error {
			mailed <- "mailed" // nobody receives before the call has been answered
			return nil
		})
		return sumResult{p.A + p.B}, nil
	})
	defer serve(svc)()

	r, err := add.Call(context.Background(), client.New(b, client.Config{}), sumParams{1, 2})
	fmt.Println(r.Sum, err)
	fmt.Println(<-mailed)
	// Output:
	// 3 <nil>
	// mailed
}

// The methods of an entrypoint are reached through it and in no other way.
func ExampleService_Entrypoint() {
	b, closeBus := newBus()
	defer closeBus()

	admins := rpc.Interceptor{Name: "admins", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			if call.Header.Get("Authorization") != "Bearer secret" {
				return rpc.PermissionDenied.Errorf("%s is for admins", call.Method)
			}
			return next(ctx, call)
		}
	}}
	reset := rpc.NewMethod[rpc.None, string]("math.reset")

	svc := server.New(b, "math", server.Config{})
	admin := svc.Entrypoint("Admin", admins)
	server.Handle(admin, reset, func(context.Context, rpc.None) (string, error) { return "as new", nil })
	defer serve(svc)()

	ctx := context.Background()
	c := client.New(b, client.Config{})
	_, err := reset.Call(ctx, c, rpc.None{})
	fmt.Println(err)
	asAdmin := c.Service("math").Entrypoint("Admin")
	_, err = reset.Call(ctx, asAdmin, rpc.None{})
	fmt.Println(err)
	text, err := reset.Call(ctx, asAdmin, rpc.None{}, rpc.WithHeader("Authorization", "Bearer secret"))
	fmt.Println(text, err)
	// Output:
	// unimplemented: Method not found
	// permission_denied: Admin.reset is for admins
	// as new <nil>
}
