// Command worker is the process that the end-to-end tests start, stop and kill:
// one instance of the service of package work.
//
// It prints "ready", and one line for what happens in its handlers, at once, so
// that the lines survive even a kill -9:
//
//	began <method> <n>
//	cancelled <n> <unix ns>     hop: the context has ended
//	failed <n> <unix ns>        hop: the handler returns an error
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/e2e/internal/work"
	"rpc.do/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	url := flag.String("server", bus.DefaultURL, "the bus")
	name := flag.String("service", "work", "name of the service")
	id := flag.String("id", "worker", "what the instance calls itself")
	concurrency := flag.Int("concurrency", 0, "calls that run at once")
	queue := flag.Int("queue", 0, "calls that wait")
	lease := flag.Duration("objects", 0, "serve the class register too, with this lease")
	flag.Parse()

	log := zerolog.New(os.Stderr).Level(zerolog.WarnLevel).With().Timestamp().Logger()
	b, err := bus.Connect(ctx, bus.Config{URLs: strings.Split(*url, ","), Name: *id, Logger: &log})
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := b.Close(); err == nil {
			err = closeErr
		}
	}()
	w := &worker{id: *id, client: client.New(b, client.Config{})}
	svc := server.New(b, *name, server.Config{
		Version: "1.0.0", Concurrency: *concurrency, Queue: *queue, DrainTimeout: 15 * time.Second,
	})
	server.Handle(svc, work.Echo, func(_ context.Context, text string) (string, error) { return text, nil })
	server.Handle(svc, work.Do, func(ctx context.Context, t work.Task) (work.Done, error) { return w.do(ctx, "do", t) })
	server.Handle(svc, work.Redo, func(ctx context.Context, t work.Task) (work.Done, error) { return w.do(ctx, "redo", t) })
	server.Handle(svc, work.Hop, w.hop)
	server.Handle(svc, work.Panic, func(context.Context, rpc.None) (rpc.None, error) { panic("on order") })
	server.Handle(svc, work.Large, func(_ context.Context, size int) (string, error) { return strings.Repeat("x", size), nil })
	if *lease > 0 {
		serveRegisters(svc, durable.Config{Lease: *lease})
	}

	served := make(chan error, 1)
	go func() { served <- svc.Run(ctx) }()
	select {
	case err := <-served:
		return err
	case <-svc.Ready():
	}
	say("ready")
	return <-served
}

// say prints one line in one write, so that lines of many goroutines stay whole.
func say(format string, args ...any) {
	if _, err := fmt.Fprintf(os.Stdout, format+"\n", args...); err != nil {
		os.Exit(1) // the test that reads the lines is gone
	}
}

type worker struct {
	id     string
	client *client.Client
}

func (w *worker) do(ctx context.Context, method string, t work.Task) (work.Done, error) {
	say("began %s %d", method, t.N)
	if err := pause(ctx, t.Ms); err != nil {
		return work.Done{}, err
	}
	return work.Done{N: t.N, By: w.id}, nil
}

// hop works, then calls the next service of the route, if there is one.
func (w *worker) hop(ctx context.Context, r work.Route) (trace work.Trace, err error) {
	deadline, _ := ctx.Deadline()
	trace.LeftUs = []int64{time.Until(deadline).Microseconds()}
	cancelled := func() { say("cancelled %d %d", r.N, time.Now().UnixNano()) }
	stop := context.AfterFunc(ctx, cancelled)
	defer func() {
		if stop() && ctx.Err() != nil {
			cancelled() // the handler was faster
		}
		if err != nil {
			say("failed %d %d", r.N, time.Now().UnixNano())
		}
	}()
	if err := pause(ctx, r.Ms); err != nil {
		return trace, err
	}
	say("began hop %d", r.N)
	if len(r.Next) == 0 {
		return trace, w.arrive(ctx, r)
	}
	next := r.Next[0]
	r.Next = r.Next[1:]
	rest, err := work.Hop.Call(ctx, w.client.Service(next), r)
	trace.LeftUs = append(trace.LeftUs, rest.LeftUs...)
	return trace, err
}

// arrive ends a route.
func (w *worker) arrive(ctx context.Context, r work.Route) error {
	if r.Stay {
		<-ctx.Done()
		return ctx.Err()
	}
	if r.Fail == "" {
		return nil
	}
	code, err := rpc.ParseCode(r.Fail)
	if err != nil {
		return rpc.InvalidArgument.Errorf("%w", err)
	}
	return code.Errorf("made to order: %s", r.Fail).WithDetail(work.Reason{By: w.id})
}

func pause(ctx context.Context, ms int) error {
	if ms <= 0 {
		return nil
	}
	timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
