// Command scheduleworker is the process that the end-to-end tests of schedules
// start, stop and kill: it takes the ticks of the bus and handles those of the
// handler "beat".
//
// It prints "ready", and for each run, at once,
//
//	ran <id of the tick> <attempt>
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"rpc.do/bus"
	"rpc.do/schedule"
	"rpc.do/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scheduleworker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	url := flag.String("server", bus.DefaultURL, "the bus")
	id := flag.String("id", "worker", "what the instance calls itself")
	flag.Parse()

	log := zerolog.New(os.Stderr).Level(zerolog.WarnLevel).With().Timestamp().Logger()
	b, err := bus.Connect(ctx, bus.Config{URLs: []string{*url}, Name: *id, Logger: &log})
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := b.Close(); err == nil {
			err = closeErr
		}
	}()
	svc := server.New(b, "clock", server.Config{Version: "1.0.0", DrainTimeout: 10 * time.Second})
	schedule.Handle(svc, "beat", func(_ context.Context, tick schedule.Tick) error {
		say("ran %s %d", tick.ID, tick.Attempt)
		return nil
	})
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
