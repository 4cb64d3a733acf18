package linear

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Defaults of Config.
const (
	DefaultTimeout   = 30 * time.Second
	DefaultMaxMemory = 1 << 30
)

// Config bounds a check. Its zero value works.
type Config struct {
	// Timeout is how long the check may take, the search for a short excerpt of
	// a violation not included, which is bounded by the same again. Defaults to
	// 30 seconds.
	Timeout time.Duration

	// MaxMemory is about how many bytes the check of one object may use.
	// Defaults to 1 GiB.
	MaxMemory int

	// Dir is where violations are drawn, as HTML files. Defaults to nowhere.
	Dir string
}

// Verdict is what came of a check. Its zero value is none.
type Verdict int

const (
	// Pass: there is a legal order for every object.
	Pass Verdict = iota + 1

	// Violation: there is none for at least one.
	Violation

	// GaveUp: none was found to be in violation, but a bound was reached before
	// all was checked. It says nothing.
	GaveUp
)

// String returns "pass", "violation" or "gave up".
func (v Verdict) String() string {
	switch v {
	case Pass:
		return "pass"
	case Violation:
		return "violation"
	case GaveUp:
		return "gave up"
	default:
		return fmt.Sprintf("verdict(%d)", int(v))
	}
}

// order puts first what one has to look at.
func (v Verdict) order() int {
	switch v {
	case Violation:
		return 0
	case GaveUp:
		return 1
	default:
		return 2
	}
}

// Report is the outcome of a check.
type Report struct {
	Verdict Verdict
	Objects []ObjectReport // those in violation first, then those given up
	Took    time.Duration
}

// ObjectReport is the outcome for one object.
type ObjectReport struct {
	Object  string
	Verdict Verdict
	Known   int    // operations with a result
	Open    int    // mutations with an unknown outcome
	Reason  string // if it was given up, why; of a violation, an excerpt for people
	File    string // if a violation was drawn, where
}

// Err returns nil for Pass alone.
func (r Report) Err() error {
	if r.Verdict == Pass {
		return nil
	}
	return errors.New("linear: " + r.String())
}

// String is the verdict and, unless it is Pass, what led to it.
func (r Report) String() string {
	var b strings.Builder
	var known, open int
	count := map[Verdict]int{}
	for _, o := range r.Objects {
		known, open = known+o.Known, open+o.Open
		count[o.Verdict]++
	}
	fmt.Fprintf(&b, "%v: %d operations on %d objects, and %d of unknown outcome; checked in %v",
		r.Verdict, known, len(r.Objects), open, r.Took.Round(time.Millisecond))
	if r.Verdict == Pass {
		return b.String()
	}
	fmt.Fprintf(&b, "; %d in violation, %d given up", count[Violation], count[GaveUp])
	const most = 3
	for i, o := range r.Objects {
		if o.Verdict == Pass {
			break
		}
		if i == most {
			fmt.Fprintf(&b, "\nand more")
			break
		}
		fmt.Fprintf(&b, "\n%v: object %q: %s", o.Verdict, o.Object, o.Reason)
		if o.File != "" {
			fmt.Fprintf(&b, "\ndrawn in %s", o.File)
		}
	}
	return b.String()
}

// Check checks the history of any number of objects. Its error says that the
// history is not well-formed or proves nothing, as it has no operation with a
// result, or that a drawing could not be written.
func Check(ops []Op, cfg Config) (Report, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxMemory == 0 {
		cfg.MaxMemory = DefaultMaxMemory
	}
	if err := checkAll(ops); err != nil {
		return Report{}, err
	}
	begin := time.Now()
	deadline := begin.Add(cfg.Timeout)
	objects := byObject(ops)
	clients := numberClients(ops)
	epoch := firstCall(ops)
	var report Report
	var known int
	var violations []*history
	for i, object := range slices.Sorted(maps.Keys(objects)) {
		h := newHistory(object, objects[object])
		known += len(h.known)
		limit := deadline // no object may use up the time of all that follow
		if i < len(objects)-1 {
			limit = time.Now().Add(time.Until(deadline) / 2)
		}
		verdict, reason := h.check(cfg.MaxMemory, limit)
		if verdict == Violation {
			violations = append(violations, h)
		}
		report.Objects = append(report.Objects, ObjectReport{
			Object: object, Verdict: verdict, Known: len(h.known), Open: len(h.open), Reason: reason,
		})
	}
	slices.SortStableFunc(report.Objects, func(a, b ObjectReport) int {
		return cmp.Compare(a.Verdict.order(), b.Verdict.order())
	})
	if len(report.Objects) > 0 {
		report.Verdict = report.Objects[0].Verdict
	}
	report.Took = time.Since(begin)
	if known == 0 {
		return report, errors.New("linear: no operation has a result: nothing was checked")
	}

	deadline = time.Now().Add(cfg.Timeout)
	const most = 3 // more of them tell no more
	for i, h := range violations[:min(most, len(violations))] {
		x := h.excerpt(cfg.MaxMemory, deadline)
		report.Objects[i].Reason = x.text(epoch)
		if cfg.Dir == "" {
			continue
		}
		file, err := x.draw(cfg.Dir, clients, deadline)
		if err != nil {
			return report, err
		}
		report.Objects[i].File = file
	}
	return report, nil
}

func byObject(ops []Op) map[string][]*Op {
	objects := map[string][]*Op{}
	for i := range ops {
		objects[ops[i].Object] = append(objects[ops[i].Object], &ops[i])
	}
	return objects
}

func numberClients(ops []Op) map[string]int {
	names := map[string]int{}
	for i := range ops {
		names[ops[i].Client] = 0
	}
	for n, name := range slices.Sorted(maps.Keys(names)) {
		names[name] = n
	}
	return names
}

func firstCall(ops []Op) int64 {
	if len(ops) == 0 {
		return 0
	}
	return slices.MinFunc(ops, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) }).Call
}

// newModel bounds the memory that porcupine's cache of states takes.
func (h *history) newModel(memory int) *model {
	perState := 512 + len(h.known)/8 + 2*h.classes
	return &model{h: h, maxStates: max(int64(memory/perState), 1000)}
}

// check looks for a legal order. The reason says why it gave up.
func (h *history) check(memory int, deadline time.Time) (v Verdict, reason string) {
	left := time.Until(deadline)
	if left <= 0 {
		return GaveUp, "no time was left for it"
	}
	m := h.newModel(memory)
	pm, ops := m.porcupine(nil)
	switch porcupine.CheckOperationsTimeout(pm, ops, left) {
	case porcupine.Ok:
		return Pass, ""
	case porcupine.Illegal:
		if !m.exhausted.Load() && !m.truncated.Load() {
			return Violation, ""
		}
	}
	reason = fmt.Sprintf("it was given %v", left.Round(time.Millisecond))
	switch {
	case m.exhausted.Load():
		reason = fmt.Sprintf("more than %d states", m.maxStates)
	case m.truncated.Load():
		reason = "too many ways to explain what was seen by operations of unknown outcome"
	}
	return GaveUp, fmt.Sprintf("%s, with %d operations and %d of unknown outcome; values only rise: %v, traces: %v",
		reason, len(h.known), len(h.open), h.rises, h.traced)
}
