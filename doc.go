// Package rpc is the contract between services: typed descriptors of methods,
// object methods and events, the error type with its codes, and the metadata
// of a call. It does no I/O and imports the standard library only, so a
// contract package costs its users nothing.
//
// A contract is defined once and imported by both sides:
//
//	package orders
//
//	var Place = rpc.NewMethod[PlaceParams, Order]("orders.place")
//
// The service gives the method a handler (package server), a caller calls it
// through a [Caller] (package client):
//
//	server.Handle(svc, orders.Place, place)
//	order, err := orders.Place.Call(ctx, c, orders.PlaceParams{SKU: "abc"})
//
// A wrong type on either side does not compile. Names are explicit strings
// because they are subjects on the bus: they are stable, and visible to the
// nats tools.
package rpc
