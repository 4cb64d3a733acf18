package demo

import (
	"context"
	"math"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/server"
)

// Math returns the service math, not yet running.
func Math(b *bus.Bus) *server.Service {
	svc := server.New(b, "math", server.Config{Version: Version, Description: "Arithmetic, to try calls with."})
	server.Handle(svc, Add, add)
	server.Handle(svc, Divide, divide)
	return svc
}

func add(_ context.Context, n Numbers) (Sum, error) {
	sum := n.A + n.B
	if math.IsInf(sum, 0) {
		return Sum{}, rpc.OutOfRange.Errorf("the sum of %g and %g is too large for a number", n.A, n.B)
	}
	return Sum{sum}, nil
}

func divide(_ context.Context, n Numbers) (Quotient, error) {
	if n.B == 0 {
		return Quotient{}, rpc.InvalidArgument.Errorf("division by zero").
			WithDetail(rpc.FieldViolation{Field: "b", Expected: "a number other than 0", Got: "0"})
	}
	quotient := n.A / n.B
	if math.IsInf(quotient, 0) {
		return Quotient{}, rpc.OutOfRange.Errorf("%g divided by %g is too large for a number", n.A, n.B)
	}
	return Quotient{quotient}, nil
}
