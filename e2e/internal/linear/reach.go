package linear

import (
	"math"
	"slices"
	"strconv"
)

// reach returns what c can become right before k, by open operations alone: the
// ways to get to the value that k found, each with no more operations than it
// needs.
func (m *model) reach(c config, k *known) []config {
	var reached []config
	trace := k.op.Trace
	switch {
	case len(trace) == 0:
		reached = m.search(c, k.pre, k.limit, nil)
	case k.changes:
		reached = m.follow(c, k, trace[:len(trace)-1])
	default:
		reached = m.follow(c, k, trace)
	}
	return slices.DeleteFunc(reached, func(c config) bool { return c.floor > k.op.Return })
}

// follow reaches k by the operations that its trace, without k itself, names
// behind the last one of c.
func (m *model) follow(c config, k *known, trace []string) []config {
	from := 0 // what follows the last one of c
	if c.last != nil {
		if c.last.id == "" {
			return m.search(c, k.pre, k.limit, nil)
		}
		from = 1 + lastIndex(trace, c.last.id)
		if !c.last.matches(trace[:from]) {
			return nil
		}
	}
	gap := make([]*open, 0, len(trace)-from)
	start := k.pre // the value before the gap
	for _, id := range slices.Backward(trace[from:]) {
		o, ok := m.h.byID[id]
		if !ok || c.has(o) || o.op.Call > k.limit {
			return nil // it has had its effect, or has not been called
		}
		if start, ok = o.before(start); !ok {
			return nil
		}
		gap = append(gap, o)
	}
	starts := []config{c}
	switch {
	case from == 0:
		// The trace does not reach back to the last one of c: more may have
		// happened in between.
		starts = m.search(c, start, k.limit, gap)
	case c.value != start:
		return nil
	}
	var reached []config
	for _, c := range starts {
		for _, o := range slices.Backward(gap) {
			after, _ := o.apply(c.value)
			c = m.h.use(c, o, after)
			c.last = c.last.push(o.op.ID)
		}
		reached = append(reached, c)
	}
	return reached
}

func lastIndex(trace []string, id string) int {
	for i, t := range slices.Backward(trace) {
		if t == id {
			return i
		}
	}
	return -1
}

// search reaches a value by any open operations that were called before limit,
// other than those left out.
func (m *model) search(c config, target, limit int64, without []*open) []config {
	if len(m.h.open) == 0 {
		if c.value != target {
			return nil
		}
		return []config{c}
	}
	last := c.last
	if m.h.traced && (len(without) > 0 || c.value != target) {
		last = last.push("") // nobody says what happened here
	}
	type place struct {
		value int64
		marks uint64
	}
	var reached []config
	visited := map[place]bool{{c.value, c.marks}: true}
	for queue := []config{c}; len(queue) > 0; queue = queue[1:] {
		c := queue[0]
		if c.value == target {
			c.last = last
			reached = append(reached, c)
			continue
		}
		for _, class := range slices.Concat(m.h.sets[c.value], m.h.adds) {
			o := c.next(class)
			if o == nil || o.op.Call > limit || slices.Contains(without, o) {
				continue
			}
			after, _ := o.apply(c.value)
			if m.h.rises && after > target {
				continue
			}
			next := m.h.use(c, o, after)
			at := place{after, next.marks}
			if visited[at] {
				continue
			}
			if len(visited) == maxSearch {
				m.truncated.Store(true)
				return least(reached)
			}
			visited[at] = true
			queue = append(queue, next)
		}
	}
	return least(reached)
}

// String is the value, and how many open operations have taken effect at least.
func (s *state) String() string {
	fewest := math.MaxInt
	for i := range s.configs {
		n := 0
		for _, u := range s.configs[i].used {
			n += int(u)
		}
		fewest = min(fewest, n)
	}
	text := strconv.FormatInt(s.configs[0].value, 10)
	if fewest > 0 {
		text += " (with " + strconv.Itoa(fewest) + " of unknown outcome)"
	}
	return text
}
