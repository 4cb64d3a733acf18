package linear

import (
	"slices"
	"sync/atomic"

	"github.com/anishathalye/porcupine"
)

// Bounds of the search. Reaching one makes the verdict GaveUp, unless an order
// was found all the same.
const (
	maxConfigs = 64     // ways to explain the operations that have been put in order
	maxSearch  = 20_000 // ways looked at to explain one jump of the value
)

// model is the register as porcupine wants it. Its operations are the known
// ones; the open ones are in its states.
type model struct {
	h         *history
	maxStates int64 // 0 is no bound

	states    atomic.Int64
	exhausted atomic.Bool // maxStates is reached
	truncated atomic.Bool // one of the other bounds is
}

// state is the object after some of the known operations: all that it can be,
// since there may be several ways to explain what they saw. It is not changed
// once it is made.
type state struct {
	applied int // known operations
	configs []config
	hash    uint64
}

// config is one explanation. All of a state have the same value.
type config struct {
	value int64
	used  []uint16 // so many of each class of open operations have taken effect; nil is none
	marks uint64   // a hash of used
	floor int64    // the latest call of these: whatever follows can't have returned before; see use
	last  *link    // the mutations, if the history has traces
}

// link is a list of mutations, the latest one first. The list without its first
// link is the list before that mutation.
type link struct {
	id    string // "" stands for any number of mutations in any order
	below *link
	hash  uint64
}

func (l *link) push(id string) *link {
	hash := uint64(len(id))
	for _, b := range []byte(id) {
		hash = mix(hash ^ uint64(b))
	}
	if l != nil {
		hash ^= mix(l.hash)
	}
	return &link{id: id, below: l, hash: hash}
}

// matches reports whether the list ends with the trace.
func (l *link) matches(trace []string) bool {
	for _, id := range slices.Backward(trace) {
		if l == nil {
			return false
		}
		if l.id == "" {
			return true
		}
		if l.id != id {
			return false
		}
		l = l.below
	}
	return true
}

func (c *config) hash() uint64 {
	h := mix(uint64(c.value)) ^ c.marks
	if c.last != nil {
		h ^= c.last.hash
	}
	return h
}

func (c *config) has(o *open) bool { return c.used != nil && int(c.used[o.class]) > o.place }

// next returns the earliest operation of a class that has not taken effect.
func (c *config) next(class []*open) *open {
	n := 0
	if c.used != nil {
		n = int(c.used[class[0].class])
	}
	if n == len(class) {
		return nil
	}
	return class[n]
}

// use returns c after the next operation of a class, which is o.
//
// Where values only rise less has to be remembered. A conditional update can't
// happen again, because the value that it expects is gone. And when k was
// reached, k.limit has said all that floor would say later.
func (h *history) use(c config, o *open, after int64) config {
	c.value = after
	if h.rises && o.op.Kind == CompareAndSet {
		return c
	}
	if !h.rises {
		c.floor = max(c.floor, o.op.Call)
	}
	used := make([]uint16, h.classes)
	copy(used, c.used)
	used[o.class]++
	c.used, c.marks = used, c.marks^o.mark
	return c
}

// within reports whether c needs no operation that d does not need too, so that
// its floor is no higher, and the two are the same otherwise.
func (c *config) within(d *config) bool {
	if c.last != d.last && (c.last == nil || d.last == nil || c.last.hash != d.last.hash) {
		return false
	}
	for class, n := range c.used {
		if n > 0 && (d.used == nil || n > d.used[class]) {
			return false
		}
	}
	return true
}

// least leaves out what needs more than another one does.
func least(configs []config) []config {
	if len(configs) < 2 {
		return configs
	}
	var kept []config
	for i := range configs {
		c := &configs[i]
		if slices.ContainsFunc(kept, func(k config) bool { return k.within(c) }) {
			continue
		}
		kept = slices.DeleteFunc(kept, func(k config) bool { return c.within(&k) })
		kept = append(kept, *c)
	}
	return kept
}

// step puts an operation behind those of s. Nil says that it can't be there.
func (m *model) step(s *state, k *known) *state {
	if k.wrong || m.exhausted.Load() {
		return nil
	}
	if m.h.rises && s.applied != k.rank {
		return nil
	}
	next := &state{applied: s.applied + 1}
	for i := range s.configs {
		for _, c := range m.reach(s.configs[i], k) {
			if k.changes {
				c.value = k.post
				if m.h.traced {
					c.last = c.last.push(k.op.ID)
				}
			}
			next.configs = append(next.configs, c)
		}
	}
	if next.configs = least(next.configs); len(next.configs) == 0 {
		return nil
	}
	if len(next.configs) > maxConfigs {
		m.truncated.Store(true)
		next.configs = next.configs[:maxConfigs]
	}
	for i := range next.configs {
		next.hash += mix(next.configs[i].hash()) // in any order
	}
	if m.maxStates > 0 && m.states.Add(1) >= m.maxStates {
		m.exhausted.Store(true)
	}
	return next
}

func (s *state) equal(t *state) bool {
	if s.hash != t.hash || len(s.configs) != len(t.configs) {
		return false
	}
	// Of two that are within each other both are the same.
	for i := range s.configs {
		if !slices.ContainsFunc(t.configs, func(c config) bool {
			return c.value == s.configs[i].value && c.within(&s.configs[i]) && s.configs[i].within(&c)
		}) {
			return false
		}
	}
	return true
}

// porcupine returns the model and the history as porcupine wants them. Clients
// are numbered as in clients.
func (m *model) porcupine(clients map[string]int) (porcupine.Model, []porcupine.Operation) {
	ops := make([]porcupine.Operation, len(m.h.known))
	for i, k := range m.h.known {
		ops[i] = porcupine.Operation{
			ClientId: clients[k.op.Client], Input: k, Call: k.op.Call, Return: k.op.Return, Metadata: k.op.ID,
		}
	}
	return porcupine.Model{
		Init: func() any { return &state{configs: []config{{}}} },
		Step: func(s, input, _ any) (bool, any) {
			next := m.step(s.(*state), input.(*known))
			return next != nil, next
		},
		Equal:                     func(s, t any) bool { return s.(*state).equal(t.(*state)) },
		Hash:                      func(s any) uint64 { return s.(*state).hash },
		DescribeOperation:         func(input, _ any) string { return input.(*known).op.String() },
		DescribeState:             func(s any) string { return s.(*state).String() },
		DescribeOperationMetadata: func(id any) string { return id.(string) },
	}, ops
}
