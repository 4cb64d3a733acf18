package calendar

import (
	"time"

	"rpc.do"
)

// every ticks at equal distances. Clocks that change do not matter to it.
type every struct {
	anchor   int64 // Unix seconds
	interval int64 // seconds
	zone     *time.Location
}

func parseEvery(text string, anchor time.Time, zone *time.Location) (rule, string, *rpc.Error) {
	const allowed = "write whole seconds of at least 1s, such as 90s, 15m or 1h30m"
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return nil, "", rpc.InvalidArgument.Errorf("@every %.40q is no duration: %s", text, allowed)
	case d < time.Second:
		return nil, "", rpc.InvalidArgument.Errorf("@every %s is too short: %s", d, allowed)
	case d%time.Second != 0:
		return nil, "", rpc.InvalidArgument.Errorf("@every %s has a fraction of a second: %s", d, allowed)
	}
	e := every{interval: int64(d / time.Second), zone: zone}
	normal := "@every " + d.String()
	if !anchor.IsZero() {
		e.anchor = anchor.Unix()
	}
	if e.anchor != 0 {
		normal += " from " + time.Unix(e.anchor, 0).UTC().Format(time.RFC3339)
	}
	if e.anchor+e.interval >= limit {
		return nil, "", rpc.InvalidArgument.Errorf("@every %s is too long: it has to come again before the end of %d", d, lastYear)
	}
	return e, normal, nil
}

func (e every) next(after time.Time) (Tick, bool) {
	at := e.anchor
	if passed := secondAfter(after) - e.anchor; passed > 0 {
		at += (passed + e.interval - 1) / e.interval * e.interval
	}
	if at >= limit {
		return Tick{}, false
	}
	_, offset := time.Unix(at, 0).In(e.zone).Zone()
	return newTick(at, at+int64(offset), ""), true
}

func (every) omitted(_, _ time.Time, _ func(Omission) bool) {}
