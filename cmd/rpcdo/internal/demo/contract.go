// Package demo has the services that rpcdo dev and rpcdo serve run, so that
// there is something to call: math and greeter, which keep no state, and objects,
// which serves the class counter. The greeter also handles an event, and ticks of
// schedules.
package demo

import "rpc.do"

// Version is the version of the services.
const Version = "1.0.0"

// The methods.
var (
	Add = rpc.NewMethod[Numbers, Sum]("math.add", rpc.Idempotent(),
		rpc.Description("Adds two numbers."))
	Divide = rpc.NewMethod[Numbers, Quotient]("math.divide", rpc.Idempotent(),
		rpc.Description("Divides a by b; b must not be 0."))
	Hello = rpc.NewMethod[Person, Greeting]("greeter.hello", rpc.Idempotent(),
		rpc.Description("Greets somebody by name."))
)

// The events: who has registered is greeted.
var (
	Registered = rpc.NewEvent[Person]("User.registered")
	Greeted    = rpc.NewEvent[Greeting]("Greeting.sent")
)

// Numbers are the params of the methods of math.
type Numbers struct {
	A float64 `json:"a"`
	B float64 `json:"b"`
}

// Sum is the result of Add.
type Sum struct {
	Sum float64 `json:"sum"`
}

// Quotient is the result of Divide.
type Quotient struct {
	Quotient float64 `json:"quotient"`
}

// Person is the params of Hello, and the data of Registered.
type Person struct {
	Name string `json:"name"`
}

// Greeting is the result of Hello, and the data of Greeted.
type Greeting struct {
	Message string `json:"message"`
}
