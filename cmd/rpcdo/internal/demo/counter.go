package demo

import (
	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable"
	"rpc.do/server"
)

// Class is the class of the demo's objects.
const Class = "counter"

// The contract of the class: objects that count.
var (
	Increment = rpc.NewObjectMethod[IncrementParams, Count]("counter.increment", rpc.Description("Adds to the counter."))
	Value     = rpc.NewObjectMethod[rpc.None, Count]("counter.value", rpc.Description("Tells the counter's value."))
	Reset     = rpc.NewObjectMethod[rpc.None, Count]("counter.reset", rpc.Description("Sets the counter to zero."))
)

// IncrementParams says by how much to count.
type IncrementParams struct {
	By int64 `json:"by"`
}

// Count is a counter's value.
type Count struct {
	Value int64 `json:"value"`
}

// counter is the state of one counter.
type counter struct {
	Value int64 `json:"value"`
}

func (c *counter) increment(_ durable.Context, p IncrementParams) (Count, error) {
	sum := c.Value + p.By
	if (sum > c.Value) != (p.By > 0) && p.By != 0 {
		return Count{}, rpc.OutOfRange.Errorf("%d and %d more is too large for a counter", c.Value, p.By)
	}
	c.Value = sum
	return Count(*c), nil
}

func (c *counter) reset(durable.Context, rpc.None) (Count, error) {
	c.Value = 0
	return Count(*c), nil
}

func (c counter) value(durable.ReadContext, rpc.None) (Count, error) { return Count(c), nil }

// Objects returns a service that serves the class counter, not yet running.
func Objects(b *bus.Bus) *server.Service {
	svc := server.New(b, "objects", server.Config{Version: Version, Description: "Serves the demo's durable objects."})
	counters := durable.Serve[counter](svc, Class, durable.Config{})
	durable.Handle(counters, Increment, (*counter).increment)
	durable.Handle(counters, Reset, (*counter).reset)
	durable.View(counters, Value, counter.value)
	return svc
}
