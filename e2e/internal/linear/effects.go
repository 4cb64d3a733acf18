package linear

import (
	"errors"
	"fmt"
)

// CheckEffects compares a history with what its operations left behind outside
// of the objects' values, such as events or entries of a log: seen lists the
// identities of the operations that left something, once for each time. What
// was done must be there exactly once; what may have been done, once at most;
// what failed or changes nothing, never. The error lists what is wrong, all or
// the first 20.
//
// Give it the operations that leave something: of AddEvent and Add together,
// for instance, only the former.
func CheckEffects(ops []Op, seen []string) error {
	if err := checkAll(ops); err != nil {
		return err
	}
	times := make(map[string]int, len(seen))
	for _, id := range seen {
		times[id]++
	}
	var wrong []error
	for i := range ops {
		op := &ops[i]
		n := times[op.ID]
		delete(times, op.ID)
		switch {
		case n > 1:
			wrong = append(wrong, fmt.Errorf("twice: %v [%s] of %q: %d times", op, op.ID, op.Object, n))
		case n == 0 && op.Outcome == OK && op.changes():
			wrong = append(wrong, fmt.Errorf("lost: %v [%s] of %q", op, op.ID, op.Object))
		case n == 1 && (op.Outcome == Failed || !op.changes()):
			wrong = append(wrong, fmt.Errorf("not to be: %v [%s] of %q", op, op.ID, op.Object))
		}
	}
	for id, n := range times {
		wrong = append(wrong, fmt.Errorf("not of this history: %q, %d times", id, n))
	}
	if len(wrong) == 0 {
		return nil
	}
	const most = 20
	count := fmt.Errorf("linear: effects: %d wrong", len(wrong))
	return errors.Join(append([]error{count}, wrong[:min(most, len(wrong))]...)...)
}
