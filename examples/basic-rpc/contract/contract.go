// Package contract is what the service orders and its callers agree on: the
// methods, their params and results, and the details of their errors. It
// imports nothing but rpc.do, so that a caller does not link the service.
package contract

import (
	"time"

	"rpc.do"
)

// The methods of the service orders.
var (
	Place = rpc.NewMethod[PlaceParams, Order]("orders.place",
		rpc.Description("Places an order."))
	Get = rpc.NewMethod[OrderID, Order]("orders.get", rpc.Idempotent(),
		rpc.Description("Returns an order."))
	Ship = rpc.NewMethod[OrderID, Parcel]("orders.ship", rpc.Timeout(10*time.Second),
		rpc.Description("Books a carrier for an order; that takes seconds."))
)

// PlaceParams is what a customer wants.
type PlaceParams struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// Validate refuses what can't be an order. The service calls it before its
// handler sees the params.
func (p PlaceParams) Validate() error {
	if p.Quantity < 1 {
		return rpc.InvalidArgument.Errorf("quantity: want at least 1, got %d", p.Quantity)
	}
	return nil
}

// OrderID says which order.
type OrderID struct {
	ID string `json:"id"`
}

// Order is an order that was placed.
type Order struct {
	ID       string `json:"id"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// Parcel is an order on its way.
type Parcel struct {
	Tracking string `json:"tracking"`
}

// Shortage is a detail of the error that Place returns when there is too little
// in stock.
type Shortage struct {
	SKU  string `json:"sku"`
	Left int    `json:"left"`
}

// RPCDetail names the detail on the wire. Without it the name would be that of
// the Go type, contract.Shortage, and would change when the type moves.
func (Shortage) RPCDetail() string { return "orders.Shortage" }
