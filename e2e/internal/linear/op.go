package linear

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Kind is what an operation does.
type Kind string

const (
	// Add adds Op.By, which is not 0, to the value. Its Result.Value is the sum.
	Add Kind = "add"

	// AddEvent is an Add that emits an event too: for this package the same.
	AddEvent Kind = "add-event"

	// Read changes nothing. Its Result.Value is the value.
	Read Kind = "read"

	// CompareAndSet replaces the value by Op.Set if it is Op.Expect, from which
	// Set differs. Its Result.Value is the value after that, and Result.Swapped
	// says whether it was replaced.
	CompareAndSet Kind = "cas"
)

// Outcome is what is known of an operation.
type Outcome string

const (
	// OK: it was done and has a result.
	OK Outcome = "ok"

	// Failed: it was surely not done and never will be.
	Failed Outcome = "failed"

	// Unknown: it may have been done, or be done later, or never.
	Unknown Outcome = "unknown"
)

// Op is an operation of a history.
type Op struct {
	ID     string `json:"id"` // one of its own in the whole history
	Client string `json:"client,omitempty"`
	Object string `json:"object,omitempty"`
	Kind   Kind   `json:"kind,omitempty"`
	By     int64  `json:"by,omitempty"`     // Add, AddEvent
	Expect int64  `json:"expect,omitempty"` // CompareAndSet
	Set    int64  `json:"set,omitempty"`    // CompareAndSet

	// Call and Return are times of [Now]. The Return of an operation without a
	// result says when its caller gave up, and is not looked at.
	Call   int64 `json:"call,omitempty"`
	Return int64 `json:"return,omitempty"`

	Outcome Outcome `json:"outcome,omitempty"`
	Result          // of an operation that is OK
	Note    string  `json:"note,omitempty"` // for people: why it is not OK
}

// Result is what an operation returned.
type Result struct {
	Value   int64 `json:"value,omitempty"`
	Swapped bool  `json:"swapped,omitempty"`

	// Trace lists the identities of the latest mutations of the object, the
	// latest one last: this operation itself, if it changed the object. How many
	// is the object's choice, as long as none between them is left out. Empty
	// says nothing.
	Trace []string `json:"trace,omitempty"`
}

// changes reports whether the operation changed, or would change, the value.
func (op *Op) changes() bool {
	return op.Kind == Add || op.Kind == AddEvent ||
		op.Kind == CompareAndSet && (op.Outcome != OK || op.Swapped)
}

// String is the operation with its result, as in "add 2 → 7".
func (op *Op) String() string {
	var b strings.Builder
	switch op.Kind {
	case Add, AddEvent:
		fmt.Fprintf(&b, "%s %d", op.Kind, op.By)
	case CompareAndSet:
		fmt.Fprintf(&b, "cas %d to %d", op.Expect, op.Set)
	default:
		b.WriteString(string(op.Kind))
	}
	switch {
	case op.Outcome == Failed:
		b.WriteString(" → failed")
	case op.Outcome != OK:
		b.WriteString(" → ?")
	case op.Kind == CompareAndSet && !op.Swapped:
		fmt.Fprintf(&b, " → refused, is %d", op.Value)
	default:
		fmt.Fprintf(&b, " → %d", op.Value)
	}
	return b.String()
}

// check reports what is wrong with the record of an operation; what is wrong
// with its result is for the checker.
func (op *Op) check() error {
	switch {
	case op.ID == "":
		return fmt.Errorf("linear: %v of client %q has no ID", op, op.Client)
	case op.Kind != Add && op.Kind != AddEvent && op.Kind != Read && op.Kind != CompareAndSet:
		return fmt.Errorf("linear: operation %s: unknown kind %q", op.ID, op.Kind)
	case (op.Kind == Add || op.Kind == AddEvent) && op.By == 0:
		return fmt.Errorf("linear: operation %s: adds 0", op.ID)
	case op.Kind == CompareAndSet && op.Expect == op.Set:
		return fmt.Errorf("linear: operation %s: sets what it expects", op.ID)
	case op.Outcome != OK && op.Outcome != Failed && op.Outcome != Unknown:
		return fmt.Errorf("linear: operation %s: unknown outcome %q", op.ID, op.Outcome)
	case op.Outcome == OK && op.Return < op.Call:
		return fmt.Errorf("linear: operation %s: returned before it was called: are the times of one machine?", op.ID)
	}
	return nil
}

// Merge makes one history of those of several processes of one machine, in the
// order of their calls. It fails if the same identity is used twice.
func Merge(histories ...[]Op) ([]Op, error) {
	all := slices.Concat(histories...)
	slices.SortStableFunc(all, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
	return all, checkAll(all)
}

func checkAll(ops []Op) error {
	seen := make(map[string]bool, len(ops))
	for i := range ops {
		if err := ops[i].check(); err != nil {
			return err
		}
		if seen[ops[i].ID] {
			return fmt.Errorf("linear: two operations have the ID %s", ops[i].ID)
		}
		seen[ops[i].ID] = true
	}
	return nil
}
