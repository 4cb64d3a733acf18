package work

import "rpc.do"

// The methods of the class register: objects that hold a number, and tell which
// changes they have seen.
var (
	Add  = rpc.NewObjectMethod[Change, Register]("register.add")
	Swap = rpc.NewObjectMethod[Change, Register]("register.swap")
	Read = rpc.NewObjectMethod[rpc.None, Register]("register.read")

	// Added is emitted by an Add that is asked to.
	Added = rpc.NewEvent[Change]("Register.added")
)

// Change is a change of a register.
type Change struct {
	ID     string `json:"id"`
	Object string `json:"object"`
	By     int64  `json:"by,omitempty"`     // of an Add
	Expect int64  `json:"expect,omitempty"` // of a Swap
	Set    int64  `json:"set,omitempty"`    // of a Swap
	Event  bool   `json:"event,omitempty"`  // emit Added
}

// Register is a register after an operation.
type Register struct {
	Value   int64    `json:"value"`
	Swapped bool     `json:"swapped,omitempty"`
	Trace   []string `json:"trace,omitempty"` // identities of the latest changes, the latest last
}
