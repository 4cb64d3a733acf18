package demo

import (
	"context"
	"strings"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/server"
)

// Greeter returns the service greeter, not yet running.
func Greeter(b *bus.Bus) *server.Service {
	svc := server.New(b, "greeter", server.Config{Version: Version, Description: "Greets people, to try calls with."})
	server.Handle(svc, Hello, hello)
	handleEvents(b, svc)
	handleTicks(b, svc)
	return svc
}

// Validate refuses a person without a name, before the handler sees it.
func (p Person) Validate() error {
	if strings.TrimSpace(p.Name) != "" {
		return nil
	}
	return rpc.InvalidArgument.Errorf("the name is empty: whom to greet?").
		WithDetail(rpc.FieldViolation{Field: "name", Expected: "a name", Got: "an empty text"})
}

func hello(_ context.Context, p Person) (Greeting, error) {
	return Greeting{"Hello, " + strings.TrimSpace(p.Name) + "!"}, nil
}
