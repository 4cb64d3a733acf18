// Command caller makes some calls of the service orders and prints what comes
// of them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/examples/basic-rpc/contract"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "caller:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	b, err := bus.Connect(ctx, bus.Config{URLs: servers(), Name: "orders-caller"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	c := client.New(b, client.Config{})

	order, err := contract.Place.Call(ctx, c, contract.PlaceParams{SKU: "keyboard", Quantity: 2})
	if err != nil {
		return err
	}
	fmt.Printf("placed: %s, %d of %s\n", order.ID, order.Quantity, order.SKU)

	// Get is idempotent: should the answer get lost, the call is sent again.
	order, err = contract.Get.Call(ctx, c, contract.OrderID{ID: order.ID})
	if err != nil {
		return err
	}
	fmt.Printf("found: %s, %d of %s\n", order.ID, order.Quantity, order.SKU)

	// The code of an error says what kind it is, its details what to do.
	_, err = contract.Place.Call(ctx, c, contract.PlaceParams{SKU: "keyboard", Quantity: 2})
	shortage, ok := rpc.DetailOf[contract.Shortage](err)
	if !ok {
		return fmt.Errorf("want a shortage, got: %w", err)
	}
	fmt.Printf("refused: %v\n", err)
	fmt.Printf("still there: %d of %s\n", shortage.Left, shortage.SKU)

	_, err = contract.Get.Call(ctx, c, contract.OrderID{ID: "order-7"})
	if !errors.Is(err, rpc.NotFound) {
		return fmt.Errorf("want not_found, got: %w", err)
	}
	fmt.Printf("missing: %v\n", err)

	// Shipping takes longer than this caller waits. The deadline travels with
	// the call, so the handler stops as well.
	_, err = contract.Ship.Call(ctx, c, contract.OrderID{ID: order.ID}, rpc.WithTimeout(200*time.Millisecond))
	fmt.Printf("too slow: %v\n", rpc.CodeOf(err))
	return nil
}

// servers returns the addresses in NATS_URL. None means the default one, on
// this machine.
func servers() []string {
	if urls := os.Getenv("NATS_URL"); urls != "" {
		return strings.Split(urls, ",")
	}
	return nil
}
