package linear

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
)

// simulation makes histories of one object that is linearizable, or that is not
// because of a fault put in on purpose.
type simulation struct {
	clients int
	ops     int     // altogether
	unknown float64 // share of outcomes
	failed  float64 // share of outcomes
	falls   bool    // values go up and down
	ring    int     // length of the traces; 0 is none
	amount  func(r *rand.Rand) int64

	// fault is made once, about half way: "stale read", "lost update",
	// "double", "undead" (a failed operation takes effect). None if empty.
	fault string
}

func alike(*rand.Rand) int64       { return 1 }
func few(r *rand.Rand) int64       { return 1 + r.Int64N(3) }
func different(r *rand.Rand) int64 { return 1 + r.Int64N(1<<40) }

// object is a register as it is at one moment.
type object struct {
	value int64
	log   []string
}

func (o *object) apply(op *Op) {
	switch {
	case op.Kind == CompareAndSet && o.value != op.Expect:
		return
	case op.Kind == CompareAndSet:
		o.value = op.Set
		op.Swapped = true
	case op.Kind == Read:
		return
	default:
		o.value += op.By
	}
	o.log = append(o.log, op.ID)
}

func (o *object) answer(op *Op, ring int) {
	op.Value = o.value
	op.Trace = slices.Clone(o.log[max(0, len(o.log)-ring):])
}

// planned is an operation and the moment when it takes effect, 0 for never.
type planned struct {
	op    *Op
	point int64
}

// run makes a history. The fault was made if injected says so.
func (s simulation) run(r *rand.Rand) (ops []Op, injected bool) {
	plan := s.plan(r)
	var now object
	var past []object // after each operation
	var ends []int64  // the returns of those
	for i, p := range plan {
		op := p.op
		if op.Kind == CompareAndSet {
			s.aim(r, op, now.value)
		}
		if p.point == 0 {
			continue
		}
		acts := &now
		if s.fault != "" && !injected && i > len(plan)/2 && op.Outcome == OK {
			before := func(j int) *object { return &object{past[j].value, slices.Clone(past[j].log)} }
			// A moment before a mutation that had returned when this was called.
			j := slices.IndexFunc(ends, func(end int64) bool { return end < op.Call })
			for k := j; k >= 0 && k < len(ends); k++ {
				if ends[k] < op.Call {
					j = k
				}
			}
			stale := j > 0 && past[j-1].value < past[j].value
			switch {
			case s.fault == "stale read" && op.Kind == Read && stale:
				acts, injected = before(j-1), true
			case s.fault == "lost update" && op.Kind == Add && stale:
				now, injected = *before(j - 1), true
			case s.fault == "double" && op.Kind == Add:
				now.apply(op)
				now.answer(op, s.ring)
				result := op.Result
				now.apply(op)
				op.Result, injected = result, true
				past, ends = append(past, now), append(ends, op.Return) // logs only grow
				continue
			}
		}
		if op.Outcome == Failed && s.fault == "undead" {
			if !injected && op.Kind == Add && i > len(plan)/2 {
				injected = true
			} else {
				continue
			}
		}
		acts.apply(op)
		if op.Outcome == OK {
			acts.answer(op, s.ring)
			past, ends = append(past, *acts), append(ends, op.Return)
		} else {
			op.Swapped = false
		}
	}
	for _, p := range plan {
		ops = append(ops, *p.op)
	}
	slices.SortFunc(ops, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
	return ops, injected
}

// plan draws who calls what when, in the order in which it takes effect.
func (s simulation) plan(r *rand.Rand) []planned {
	var plan []planned
	free := make([]int64, s.clients) // when each client calls next
	for i := range s.ops {
		client := i % s.clients
		if free[client] == 0 {
			free[client] = 1 + r.Int64N(50)
		}
		op := &Op{ID: fmt.Sprintf("op%d", i), Client: fmt.Sprintf("c%02d", client), Object: "x", Outcome: OK}
		switch n := r.IntN(10); {
		case n < 5:
			op.Kind, op.By = Add, s.amount(r)
			if s.falls && r.IntN(2) == 0 {
				op.By = -op.By
			}
		case n < 8:
			op.Kind = Read
		default:
			op.Kind = CompareAndSet
		}
		op.Call = free[client]
		point := op.Call + r.Int64N(40)
		op.Return = point + r.Int64N(40)
		free[client] = op.Return + 1 + r.Int64N(20)
		switch f := r.Float64(); {
		case f < s.unknown:
			op.Outcome = Unknown
			switch r.IntN(3) {
			case 0: // never
				point = 0
			case 1: // late
				point += r.Int64N(2000)
			}
		case f < s.unknown+s.failed:
			op.Outcome = Failed
			if s.fault != "undead" {
				point = 0
			}
		}
		plan = append(plan, planned{op, point})
	}
	slices.SortStableFunc(plan, func(a, b planned) int { return cmp.Compare(a.point, b.point) })
	return plan
}

// aim draws what a CompareAndSet expects and sets.
func (s simulation) aim(r *rand.Rand, op *Op, value int64) {
	op.Expect = value
	if r.IntN(3) == 0 {
		op.Expect += 1 - 2*r.Int64N(2)
	}
	op.Set = op.Expect + s.amount(r)
	if s.falls && r.IntN(2) == 0 {
		op.Set = op.Expect - s.amount(r)
	}
}
