package linear

import (
	"cmp"
	"math"
	"slices"
)

// history is what happened to one object, prepared for the checker: the
// operations with a result, and beside them those that may have happened.
type history struct {
	object string
	known  []*known
	open   []*open // by Call

	// Open operations of one class can stand for each other; the earliest of a
	// class comes first. They are listed by what they need to take effect.
	classes int
	adds    [][]*open
	sets    map[int64][][]*open // by the value that they expect
	byID    map[string]*open

	// rises says that every mutation makes the value larger. Then the values
	// give the order of the known operations, see known.
	rises bool

	// traced says that results carry traces.
	traced bool
}

// known is an operation with a result, which tells the value before it.
type known struct {
	op        *Op
	pre, post int64
	changes   bool
	wrong     bool // the result does not even fit the operation

	// If values only rise, so many known operations come before this one: those
	// that found a smaller value, then those that saw the same one, in the order
	// of their calls, and last the one that changed it. If there is any legal
	// order then this is one: an operation that only saw a value can as well
	// come right before another that did so and was called later.
	rank int

	// limit is the latest time at which open operations that this one needs can
	// have been called, as far as this one tells and, if values only rise, those
	// that come after it.
	limit int64
}

// open is a mutation whose outcome is unknown.
type open struct {
	op        *Op
	mentioned bool // by a trace
	class     int
	place     int    // in its class
	mark      uint64 // a random number of its own, for hashing
}

// apply returns the value after the operation, if it can take effect.
func (o *open) apply(value int64) (after int64, ok bool) {
	if o.op.Kind == CompareAndSet {
		return o.op.Set, value == o.op.Expect
	}
	return value + o.op.By, true
}

// before is the reverse of apply.
func (o *open) before(value int64) (before int64, ok bool) {
	if o.op.Kind == CompareAndSet {
		return o.op.Expect, value == o.op.Set
	}
	return value - o.op.By, true
}

// newHistory prepares the operations of one object.
func newHistory(object string, ops []*Op) *history {
	h := &history{object: object, rises: true, sets: map[int64][][]*open{}, byID: map[string]*open{}}
	for _, op := range ops {
		switch {
		case op.Outcome == OK:
			h.known = append(h.known, newKnown(op))
		case op.Outcome == Unknown && op.changes():
			h.open = append(h.open, &open{op: op})
			h.byID[op.ID] = h.open[len(h.open)-1]
		}
	}
	slices.SortStableFunc(h.known, func(a, b *known) int { return cmp.Compare(a.op.Call, b.op.Call) })
	slices.SortStableFunc(h.open, func(a, b *open) int { return cmp.Compare(a.op.Call, b.op.Call) })
	for _, k := range h.known {
		h.traced = h.traced || len(k.op.Trace) > 0
		h.rises = h.rises && (!k.changes || k.post > k.pre)
	}
	for _, o := range h.open {
		after, _ := o.apply(o.op.Expect)
		h.rises = h.rises && after > o.op.Expect
	}
	h.readTraces()
	h.classify()
	h.rank()
	return h
}

func newKnown(op *Op) *known {
	k := &known{op: op, pre: op.Value, post: op.Value, changes: op.changes(), limit: op.Return}
	switch {
	case op.Kind == CompareAndSet && op.Swapped:
		k.pre = op.Expect
		k.wrong = op.Value != op.Set
	case op.Kind == CompareAndSet:
		k.wrong = op.Value == op.Expect
	case k.changes:
		k.pre = op.Value - op.By
	}
	return k
}

// readTraces notes which open operations traces mention, and which traces can't
// be true.
func (h *history) readTraces() {
	changed := map[string]bool{}
	for _, k := range h.known {
		changed[k.op.ID] = k.changes
	}
	seen := map[string]bool{}
	for _, k := range h.known {
		trace := k.op.Trace
		clear(seen)
		for _, id := range trace {
			o := h.byID[id]
			k.wrong = k.wrong || seen[id] || o == nil && !changed[id]
			if o != nil {
				o.mentioned = true
			}
			seen[id] = true
		}
		if len(trace) > 0 && k.changes && trace[len(trace)-1] != k.op.ID {
			k.wrong = true
		}
	}
}

// classify puts together the open operations that do the same. One that a trace
// mentions stands for itself.
func (h *history) classify() {
	type class struct {
		set    bool
		by     int64
		expect int64
		to     int64
	}
	classes := map[class][]*open{}
	var order []class
	add := func(class []*open) {
		for place, o := range class {
			o.class, o.place, o.mark = h.classes, place, mix(uint64(h.classes)<<32+uint64(place))
		}
		h.classes++
		if op := class[0].op; op.Kind == CompareAndSet {
			h.sets[op.Expect] = append(h.sets[op.Expect], class)
		} else {
			h.adds = append(h.adds, class)
		}
	}
	for _, o := range h.open {
		if o.mentioned {
			add([]*open{o})
			continue
		}
		c := class{by: o.op.By}
		if o.op.Kind == CompareAndSet {
			c = class{set: true, expect: o.op.Expect, to: o.op.Set}
		}
		if classes[c] == nil {
			order = append(order, c)
		}
		classes[c] = append(classes[c], o)
	}
	for _, c := range order {
		add(classes[c])
	}
}

func (h *history) rank() {
	if !h.rises {
		return
	}
	order := slices.Clone(h.known)
	slices.SortStableFunc(order, func(a, b *known) int {
		switch {
		case a.pre != b.pre || a.changes == b.changes:
			return cmp.Compare(a.pre, b.pre)
		case a.changes:
			return 1
		default:
			return -1
		}
	})
	limit := int64(math.MaxInt64)
	for rank, k := range slices.Backward(order) {
		limit = min(limit, k.op.Return)
		k.rank, k.limit = rank, limit
	}
}

// until returns the history as it was at a moment: what has not returned by
// then has no result yet.
func (h *history) until(moment int64) *history {
	var ops []*Op
	for _, k := range h.known {
		switch {
		case k.op.Return <= moment:
			ops = append(ops, k.op)
		case k.op.Call <= moment:
			op := *k.op
			op.Outcome, op.Return, op.Result = Unknown, 0, Result{}
			ops = append(ops, &op)
		}
	}
	for _, o := range h.open {
		if o.op.Call <= moment {
			ops = append(ops, o.op)
		}
	}
	return newHistory(h.object, ops)
}

// end is the last return.
func (h *history) end() int64 {
	end := int64(math.MinInt64)
	for _, k := range h.known {
		end = max(end, k.op.Return)
	}
	return end
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
