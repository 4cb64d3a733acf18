package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rpc.do"
	"rpc.do/examples/basic-rpc/contract"
)

// shop keeps its orders in memory: they are gone when the program ends, and a
// second instance would have others.
type shop struct {
	mu     sync.Mutex // handlers run concurrently
	stock  map[string]int
	orders map[string]contract.Order
}

func newShop() *shop {
	return &shop{
		stock:  map[string]int{"keyboard": 3, "mouse": 10},
		orders: map[string]contract.Order{},
	}
}

func (s *shop) place(_ context.Context, p contract.PlaceParams) (contract.Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left, known := s.stock[p.SKU]
	if !known {
		return contract.Order{}, rpc.NotFound.Errorf("nothing with the SKU %q is sold here", p.SKU)
	}
	if left < p.Quantity {
		return contract.Order{}, rpc.FailedPrecondition.Errorf("%d of %s are wanted, %d are left", p.Quantity, p.SKU, left).
			WithDetail(contract.Shortage{SKU: p.SKU, Left: left})
	}
	s.stock[p.SKU] -= p.Quantity
	order := contract.Order{ID: fmt.Sprintf("order-%d", len(s.orders)+1), SKU: p.SKU, Quantity: p.Quantity}
	s.orders[order.ID] = order
	return order, nil
}

func (s *shop) get(_ context.Context, p contract.OrderID) (contract.Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	order, ok := s.orders[p.ID]
	if !ok {
		return contract.Order{}, rpc.NotFound.Errorf("there is no order %q", p.ID)
	}
	return order, nil
}

// ship stands for what takes long. It ends early when the caller's deadline
// passes or the caller gives up.
func (s *shop) ship(ctx context.Context, p contract.OrderID) (contract.Parcel, error) {
	if _, err := s.get(ctx, p); err != nil {
		return contract.Parcel{}, err
	}
	select {
	case <-time.After(5 * time.Second):
		return contract.Parcel{Tracking: "T-" + p.ID}, nil
	case <-ctx.Done():
		return contract.Parcel{}, ctx.Err()
	}
}
