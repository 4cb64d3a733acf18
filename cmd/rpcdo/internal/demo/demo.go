package demo

import (
	"rpc.do/bus"
	"rpc.do/server"
)

// Services returns the demo services, by name, not yet running.
func Services(b *bus.Bus) []*server.Service {
	return []*server.Service{Greeter(b), Math(b), Objects(b)}
}
