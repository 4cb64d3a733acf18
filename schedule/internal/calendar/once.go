package calendar

import (
	"time"

	"rpc.do"
)

// once ticks a single time, to the nanosecond.
type once struct {
	at   time.Time
	zone *time.Location
}

func parseOnce(text string, zone *time.Location) (rule, string, *rpc.Error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, "", rpc.InvalidArgument.Errorf("@at %.40q is no time: write it as in RFC 3339, such as 2026-03-29T02:30:00Z or 2026-03-29T04:30:00+02:00", text)
	}
	if !inBounds(at) {
		return nil, "", outOfBounds("@at", at)
	}
	at = at.UTC()
	return once{at, zone}, "@at " + at.Format(time.RFC3339Nano), nil
}

func (o once) next(after time.Time) (Tick, bool) {
	if !o.at.After(after) {
		return Tick{}, false
	}
	return Tick{Nominal: o.at, Wall: o.at.In(o.zone).Format(wallLayout)}, true
}

func (once) omitted(_, _ time.Time, _ func(Omission) bool) {}
