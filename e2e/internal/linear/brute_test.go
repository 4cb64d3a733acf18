package linear

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// brute tries every order of a short history of one object: the definition of
// linearizability, with no thought given to time.
func brute(ops []Op) bool {
	var left []*Op
	for i := range ops {
		if ops[i].Outcome != Failed {
			left = append(left, &ops[i])
		}
	}
	return bruteFrom(object{}, left)
}

func bruteFrom(now object, left []*Op) bool {
	if !slices.ContainsFunc(left, func(op *Op) bool { return op.Outcome == OK }) {
		return true
	}
	for i, op := range left {
		if slices.ContainsFunc(left, func(other *Op) bool { return other.Outcome == OK && other.Return < op.Call }) {
			continue
		}
		next := object{now.value, slices.Clone(now.log)}
		did := *op
		did.Result = Result{}
		next.apply(&did)
		if op.Outcome == OK && !explains(&next, &did, op) {
			continue
		}
		if bruteFrom(next, slices.Delete(slices.Clone(left), i, i+1)) {
			return true
		}
	}
	return false
}

// explains reports whether op returned what it must have.
func explains(now *object, did, op *Op) bool {
	n := len(now.log) - len(op.Trace)
	return now.value == op.Value && did.Swapped == op.Swapped && n >= 0 && slices.Equal(now.log[n:], op.Trace)
}

// spoil changes something of a history, at random.
func spoil(r *rand.Rand, ops []Op) {
	op := &ops[r.IntN(len(ops))]
	switch r.IntN(7) {
	case 0, 1:
		op.Value += r.Int64N(5) - 2
	case 2:
		other := &ops[r.IntN(len(ops))]
		op.Result, other.Result = other.Result, op.Result
	case 3:
		op.Return = op.Call + r.Int64N(20)
	case 4:
		op.Call += r.Int64N(60)
		op.Return = max(op.Return, op.Call)
	case 5:
		op.Outcome = []Outcome{OK, Unknown, Failed}[r.IntN(3)]
	case 6:
		if n := len(op.Trace); n > 0 {
			op.Trace = slices.Clone(op.Trace)
			op.Trace[r.IntN(n)] = ops[r.IntN(len(ops))].ID
		}
	}
	if op.Outcome != OK {
		op.Result = Result{}
	}
}

// The checker agrees with the definition on many short histories, of which
// about half are legal.
func TestAgainstDefinition(t *testing.T) {
	t.Parallel()
	for _, falls := range []bool{false, true} {
		for _, ring := range []int{0, 100, 2} {
			t.Run(fmt.Sprintf("falls=%v,ring=%d", falls, ring), func(t *testing.T) {
				t.Parallel()
				count := map[bool]int{}
				missed := 0
				for seed := range uint64(3000) {
					r := rand.New(rand.NewPCG(seed, 1))
					s := simulation{
						clients: 1 + r.IntN(5), ops: 1 + r.IntN(8), unknown: r.Float64() * 0.6, failed: 0.1,
						falls: falls, ring: ring, amount: few,
					}
					ops, _ := s.run(r)
					for range r.IntN(3) {
						spoil(r, ops)
					}
					legal := brute(ops)
					v, reason := newHistory("x", pointers(ops)).check(DefaultMaxMemory, soon())
					count[legal]++
					if (v == Pass) == legal && v != GaveUp {
						continue
					}
					// A trace that is shorter than what happened unseen, or
					// missing, is not made full use of.
					if ring > 0 && !legal && v == Pass {
						missed++
						continue
					}
					t.Fatalf("seed %d: %v %s, but by definition legal: %v\n%s", seed, v, reason, legal, list(ops))
				}
				t.Logf("legal or not: %v, missed: %d", count, missed)
				if count[true] < 500 || count[false] < 500 || missed > count[false]/20 {
					t.Errorf("of 3000 histories %d are legal; %d that are not were missed", count[true], missed)
				}
			})
		}
	}
}
