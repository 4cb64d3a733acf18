// Package client calls services over the bus.
//
//	c := client.New(b, client.Config{})
//	order, err := orders.Place.Call(ctx, c, orders.PlaceParams{SKU: "abc"})
//
// A Client is an rpc.Caller: the typed descriptors call through it. It gives
// every call a deadline that travels with it, cancels the handler when the
// caller gives up, and sends again what surely did not run, or may run twice,
// within a retry budget. A service of the same process on the same bus is
// called without the bus, with the same outcome.
//
// The package does not serve calls; that is package server.
package client
