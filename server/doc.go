// Package server serves typed methods on the bus.
//
//	svc := server.New(b, "orders", server.Config{Version: "1.2.0"})
//	server.Handle(svc, orders.Place, place) // func(ctx context.Context, p orders.PlaceParams) (orders.Order, error)
//	err := svc.Run(ctx)                     // serves until ctx ends, then drains
//
// A service is one name on the bus, shared by any number of instances. Each
// instance has one queue subscription for all its methods and runs calls
// concurrently within bounds: what is over them is answered with
// ResourceExhausted, never dropped and never queued without end.
//
// The package does not make calls (package client does), keep state (durable)
// or handle events (pipeline).
package server
