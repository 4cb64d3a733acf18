// Command demo runs the services users, mailer and audit until it is
// interrupted.
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
	"golang.org/x/sync/errgroup"

	"rpc.do/bus"
	"rpc.do/examples/events"
	"rpc.do/server"
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
	b, err := bus.Connect(ctx, bus.Config{URLs: servers(), Name: "events-demo", Logger: &log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	services := []*server.Service{events.NewUsers(b), events.NewMailer(b, events.NewFakeSender()), events.NewAudit(b)}
	g, ctx := errgroup.WithContext(ctx)
	for _, svc := range services {
		g.Go(func() error { return svc.Run(ctx) })
	}
	return g.Wait()
}

// servers returns the addresses in NATS_URL. None means the default one, on
// this machine.
func servers() []string {
	if urls := os.Getenv("NATS_URL"); urls != "" {
		return strings.Split(urls, ",")
	}
	return nil
}
