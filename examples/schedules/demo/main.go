// Command demo runs the service reports until it is interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/rs/zerolog"

	"rpc.do/bus"
	"rpc.do/examples/schedules"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	log := zerolog.New(os.Stderr).Level(zerolog.InfoLevel).With().Timestamp().Logger()
	b, err := bus.Connect(ctx, bus.Config{URLs: servers(), Name: "schedules-demo", Logger: &log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	svc, err := schedules.NewReports(b, &schedules.FakeSales{})
	if err != nil {
		return err
	}
	return svc.Run(ctx)
}

// servers returns the addresses in NATS_URL. None means the default one, on
// this machine.
func servers() []string {
	if urls := os.Getenv("NATS_URL"); urls != "" {
		return strings.Split(urls, ",")
	}
	return nil
}
