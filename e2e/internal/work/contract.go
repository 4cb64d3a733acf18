// Package work is the contract of the service that the end-to-end tests run
// beside the demo services, to show what those can't: calls that take time,
// fail, panic, or call the next service.
package work

import "rpc.do"

// The methods. Whether a call may be sent twice is what sets Do and Redo apart.
var (
	Echo  = rpc.NewMethod[string, string]("work.echo")
	Do    = rpc.NewMethod[Task, Done]("work.do")
	Redo  = rpc.NewMethod[Task, Done]("work.redo", rpc.Idempotent())
	Hop   = rpc.NewMethod[Route, Trace]("work.hop")
	Panic = rpc.NewMethod[rpc.None, rpc.None]("work.panic")
	Large = rpc.NewMethod[int, string]("work.large")
)

// Task is work that takes some time.
type Task struct {
	N   int64  `json:"n"` // tells calls apart
	Ms  int    `json:"ms"`
	Pad string `json:"pad,omitempty"`
}

// Done says who did a task.
type Done struct {
	N  int64  `json:"n"`
	By string `json:"by"`
}

// Route is the way of a call through services, each of which calls the next.
type Route struct {
	N    int64    `json:"n"`
	Next []string `json:"next"`
	// Ms is how long each of them works before it goes on.
	Ms int `json:"ms"`
	// Fail is the code that the last one fails with; it returns when that is
	// empty, unless Stay has it wait until its context ends.
	Fail string `json:"fail,omitempty"`
	Stay bool   `json:"stay,omitempty"`
}

// Trace is how much time each service had left when it was called, in
// microseconds, the first one first.
type Trace struct {
	LeftUs []int64 `json:"left_us"`
}

// Reason is the detail of errors made to order.
type Reason struct {
	By string `json:"by"`
}
