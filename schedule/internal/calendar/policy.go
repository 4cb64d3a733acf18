package calendar

import (
	"time"

	"rpc.do"
)

// GapPolicy is what happens to a time at a fixed hour that does not exist because
// clocks go forward over it.
type GapPolicy string

// The policies for times that do not exist.
const (
	RunAfter GapPolicy = "run-after" // ticks once, at the end of the hole; the default
	Skip     GapPolicy = "skip"      // does not tick
)

// RepeatPolicy is what happens to a time at a fixed hour that comes twice because
// clocks go back over it.
type RepeatPolicy string

// The policies for times that come twice.
const (
	Once  RepeatPolicy = "once"  // ticks at the first occurrence; the default
	Twice RepeatPolicy = "twice" // ticks at both
)

// check returns an error for what no spec can have.
func (o Options) check() *rpc.Error {
	switch o.Gap {
	case "", RunAfter, Skip:
	default:
		return rpc.InvalidArgument.Errorf("gap policy %.40q is unknown: it is %q or %q", o.Gap, RunAfter, Skip)
	}
	switch o.Repeat {
	case "", Once, Twice:
	default:
		return rpc.InvalidArgument.Errorf("repeat policy %.40q is unknown: it is %q or %q", o.Repeat, Once, Twice)
	}
	if !o.Anchor.IsZero() && !inBounds(o.Anchor) {
		return outOfBounds("anchor", o.Anchor)
	}
	return nil
}

// suffix is how the policies are part of String.
func (o Options) suffix() (text string) {
	if o.Gap == Skip {
		text += " gap=" + string(Skip)
	}
	if o.Repeat == Twice {
		text += " repeat=" + string(Twice)
	}
	return text
}

// secondAfter returns the first whole second after a time, as far as there is one
// that can tick; the limit if there is none.
func secondAfter(t time.Time) int64 {
	return min(max(t.Unix(), firstSecond-1), limit-1) + 1
}

func inBounds(t time.Time) bool {
	return t.Unix() >= firstSecond && t.Unix() < limit
}

func outOfBounds(what string, t time.Time) *rpc.Error {
	return rpc.InvalidArgument.Errorf("%s %s is out of bounds: years 1970 to %d (UTC) are allowed", what, t.UTC().Format(time.RFC3339), lastYear)
}
