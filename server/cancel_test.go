package server_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

// A cancellation may come right behind its request, or overtake it on the way
// through the process: no handler misses it.
func TestCancelRightAway(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	svc := server.New(bustest.Connect(t, srv), "slow", server.Config{Concurrency: 10_000})
	wait := rpc.NewMethod[int, rpc.None]("slow.wait", rpc.Timeout(time.Minute))
	var began, cancelled atomic.Int64
	server.Handle(svc, wait, func(ctx context.Context, _ int) (rpc.None, error) {
		began.Add(1)
		select {
		case <-ctx.Done():
			cancelled.Add(1)
		case <-time.After(patience):
		}
		return rpc.None{}, ctx.Err()
	})
	start(t, svc)
	c := client.New(bustest.Connect(t, srv), client.Config{})
	var callers sync.WaitGroup
	for i := range 32 {
		callers.Go(func() {
			for j := range 50 {
				ctx, cancel := context.WithCancel(t.Context())
				stop := time.AfterFunc(time.Duration((i*50+j)%100)*5*time.Microsecond, cancel)
				_, err := wait.Call(ctx, c, 1)
				requireCode(t, err, rpc.Canceled)
				stop.Stop()
				cancel()
			}
		})
	}
	callers.Wait()
	await(t, "the handlers", func() bool { return began.Load() == cancelled.Load() })
	t.Logf("%d handlers began, all were cancelled", began.Load())
}

// Closing the bus shuts its services down while the connection works still.
func TestBusClosed(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	svc := server.New(b, "slow", server.Config{})
	began, end := make(chan struct{}), make(chan struct{})
	wait := rpc.NewMethod[rpc.None, string]("slow.wait")
	server.Handle(svc, wait, func(context.Context, rpc.None) (string, error) {
		close(began)
		<-end
		return "done", nil
	})
	ran := make(chan error, 1)
	go func() { ran <- svc.Run(context.Background()) }()
	<-svc.Ready()
	call := wait.Go(t.Context(), client.New(bustest.Connect(t, srv), client.Config{}), rpc.None{})
	receive(t, "the call", began)
	closed := make(chan error, 1)
	go func() { closed <- b.Close() }()
	close(end)
	if got, err := call.Wait(t.Context()); err != nil || got != "done" {
		t.Errorf("the call that ran when the bus was closed: %q, %v", got, err)
	}
	if err := receive(t, "Close", closed); err != nil {
		t.Errorf("Close: %v", err)
	}
	contains(t, receive(t, "Run", ran).Error(), "slow", "the bus was closed")
}
