package linear

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// excerpt is a violation cut down to its end.
type excerpt struct {
	h      *history // up to the moment when it was no longer linearizable
	last   *known   // the operation that returned then
	before []*known // a legal order of all that had returned earlier; nil if not known
	after  *state   // what follows from it
}

// excerpt finds the first return by which the history has no legal order.
func (h *history) excerpt(memory int, deadline time.Time) *excerpt {
	returns := slices.Clone(h.known)
	slices.SortStableFunc(returns, func(a, b *known) int { return cmp.Compare(a.op.Return, b.op.Return) })
	// What no order was found for in half of the time counts as legal: the one
	// that is found is illegal for sure.
	limit := time.Now().Add(time.Until(deadline) / 2)
	n := sort.Search(len(returns)-1, func(n int) bool {
		v, _ := h.until(returns[n].op.Return).check(memory, limit)
		return v == Violation
	})
	x := &excerpt{h: h.until(returns[n].op.Return), last: returns[n]}
	if n == 0 {
		x.before = []*known{}
		return x
	}
	earlier := h.until(returns[n-1].op.Return)
	m := earlier.newModel(memory)
	pm, ops := m.porcupine(nil)
	result, info := porcupine.CheckOperationsVerbose(pm, ops, max(time.Until(limit), time.Second))
	if result != porcupine.Ok {
		return x
	}
	m.maxStates = 0
	s := pm.Init()
	x.before = []*known{}
	for _, i := range info.PartialLinearizations()[0][0] {
		x.before = append(x.before, earlier.known[i])
		_, s = pm.Step(s, earlier.known[i], nil)
	}
	x.after = s.(*state)
	return x
}

// text is the excerpt for people, with times since epoch.
func (x *excerpt) text(epoch int64) string {
	const most = 8
	var b strings.Builder
	line := func(mark string, op *Op) {
		fmt.Fprintf(&b, "\n  %s %12s – %-12s %s: %v   [%s]", mark, at(op.Call, epoch), at(op.Return, epoch), op.Client, op, op.ID)
		if n := len(op.Trace); n > 0 {
			fmt.Fprintf(&b, " after %s", strings.Join(op.Trace[max(0, n-3):], ", "))
		}
		if op.Note != "" {
			fmt.Fprintf(&b, " (%s)", op.Note)
		}
	}
	fmt.Fprintf(&b, "no order explains the first %d results; without the last of them there is one", len(x.h.known))
	if x.before != nil {
		b.WriteString(", which ends so:")
	}
	for _, k := range x.before[max(0, len(x.before)-most):] {
		line(" ", k.op)
	}
	if x.after != nil {
		fmt.Fprintf(&b, "\n  then the value is %v", x.after)
	}
	b.WriteString("\nthis one has no place:")
	line("✗", x.last.op)
	for _, reason := range x.reasons() {
		fmt.Fprintf(&b, "\n    %s", reason)
	}
	open := slices.Clone(x.h.open)
	slices.Reverse(open)
	if len(open) > 0 {
		fmt.Fprintf(&b, "\nnot returned, or outcome unknown, by then (%d, the latest first):", len(open))
	}
	for _, o := range open[:min(most, len(open))] {
		line("?", o.op)
	}
	return b.String()
}

func at(t, epoch int64) string {
	if t == 0 {
		return "?"
	}
	return fmt.Sprintf("%.6fs", float64(t-epoch)/1e9)
}

// reasons says what is plainly wrong, if something is.
func (x *excerpt) reasons() (reasons []string) {
	trace := x.last.op.Trace
	for i, id := range trace {
		if slices.Contains(trace[:i], id) {
			reasons = append(reasons, fmt.Sprintf("by its trace %s took effect twice", id))
		}
		if x.h.byID[id] == nil && !slices.ContainsFunc(x.h.known, func(k *known) bool { return k.op.ID == id && k.changes }) {
			reasons = append(reasons, fmt.Sprintf("by its trace %s took effect: it failed, changes nothing, or was not called by then", id))
		}
	}
	switch {
	case len(reasons) > 0:
	case x.last.wrong:
		reasons = []string{"its result does not fit what it was to do"}
	case x.h.rises:
		reasons = x.stale()
	}
	return reasons
}

// stale looks for an operation that the last one contradicts, where values only
// rise.
func (x *excerpt) stale() []string {
	var newest *known
	for _, k := range x.h.known {
		switch {
		case k.op == x.last.op:
		case k.changes && x.last.changes && k.pre == x.last.pre:
			return []string{fmt.Sprintf("%s [%s] changed the same value %d: one of the two was lost", k.op, k.op.ID, k.pre)}
		case k.op.Return < x.last.op.Call && (newest == nil || k.post > newest.post):
			newest = k
		}
	}
	if newest != nil && newest.post > x.last.pre {
		return []string{fmt.Sprintf("it found %d, but %s [%s] had returned before it was called", x.last.pre, newest.op, newest.op.ID)}
	}
	return nil
}

// draw has porcupine draw the excerpt into a file of dir, with the open
// operations as notes, and returns the file's name.
func (x *excerpt) draw(dir string, clients map[string]int, deadline time.Time) (string, error) {
	m := x.h.newModel(DefaultMaxMemory)
	pm, ops := m.porcupine(clients)
	_, info := porcupine.CheckOperationsVerbose(pm, ops, max(time.Until(deadline), time.Second))
	m.maxStates = 0
	m.exhausted.Store(false)
	var notes []porcupine.Annotation
	for _, o := range x.h.open {
		notes = append(notes, porcupine.Annotation{
			ClientId: clients[o.op.Client], Start: o.op.Call, End: x.h.end(),
			Description: o.op.String(), Details: strings.TrimSpace(o.op.ID + " " + o.op.Note),
			BackgroundColor: "#ffd27f",
		})
	}
	info.AddAnnotations(notes)
	f, err := os.CreateTemp(dir, "linear-"+fileName(x.h.object)+"-*.html")
	if err != nil {
		return "", fmt.Errorf("linear: %w", err)
	}
	err = porcupine.Visualize(pm, info, f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", fmt.Errorf("linear: %s: %w", f.Name(), err)
	}
	return filepath.Clean(f.Name()), nil
}

// fileName keeps of an object's id what can be part of a file's name.
func fileName(object string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-':
			return r
		}
		return '_'
	}, object)
	return name[:min(len(name), 40)]
}
