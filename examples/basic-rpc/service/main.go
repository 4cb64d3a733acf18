// Command service serves orders from memory until it is interrupted.
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
	"rpc.do/examples/basic-rpc/contract"
	"rpc.do/server"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	log := zerolog.New(os.Stderr).Level(zerolog.InfoLevel).With().Timestamp().Logger()
	b, err := bus.Connect(ctx, bus.Config{URLs: servers(), Name: "orders-service", Logger: &log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	shop := newShop()
	svc := server.New(b, "orders", server.Config{Version: "1.0.0", Description: "Takes orders."})
	server.Handle(svc, contract.Place, shop.place)
	server.Handle(svc, contract.Get, shop.get)
	server.Handle(svc, contract.Ship, shop.ship)
	return svc.Run(ctx) // until a signal ends ctx; then it finishes what it has taken
}

// servers returns the addresses in NATS_URL. None means the default one, on
// this machine.
func servers() []string {
	if urls := os.Getenv("NATS_URL"); urls != "" {
		return strings.Split(urls, ",")
	}
	return nil
}
