package calendar

import (
	"time"

	"rpc.do"
)

// cronRule ticks when the clock on the wall of a zone fits a line, and as its
// policies say while clocks change.
type cronRule struct {
	line line
	zone *time.Location
	skip bool // skips times in a hole
	once bool // leaves out second occurrences
	// interval says that the line ticks in every hour, so that there is nothing to
	// make up for in a hole and nothing twice in a repetition.
	interval bool
}

func parseCron(text string, zone *time.Location, o Options) (rule, *rpc.Error) {
	l, err := parseLine(text)
	if err != nil {
		return nil, err
	}
	return cronRule{line: l, zone: zone, skip: o.Gap == Skip, once: o.Repeat != Twice, interval: l.everyHour()}, nil
}

// next goes from span to span, of which there are at most a few a year, up to the
// one that has the tick.
func (c cronRule) next(after time.Time) (Tick, bool) {
	from := secondAfter(after)
	for s := spanAt(c.zone, from); s.start < limit; {
		if from == s.start {
			if wall, ok := c.afterHole(s); ok {
				return newTick(s.start, wall, AfterHole), true
			}
		}
		wall, ok := c.line.next(c.first(s, from) + s.offset)
		if !ok {
			break
		}
		if at := wall - s.offset; at < min(s.end, limit) {
			return newTick(at, wall, secondTime(s, at)), true
		}
		if s.end >= limit {
			break
		}
		from = s.end
		s = s.next(c.zone).extend(c.zone)
	}
	return Tick{}, false
}

// first returns the first instant of a span, from one on, that may tick.
func (c cronRule) first(s span, from int64) int64 {
	if c.once && !c.interval {
		return max(from, s.start+s.repeat())
	}
	return from
}

// afterHole returns the time in the hole before a span for which the beginning of
// the span ticks. It does not if the line ticks there anyway.
func (c cronRule) afterHole(s span) (wall int64, ok bool) {
	if c.interval || c.skip || s.hole() == 0 {
		return 0, false
	}
	end := s.start + s.offset
	wall, ok = c.line.next(s.start + s.before)
	if !ok || wall >= end {
		return 0, false
	}
	if regular, ok := c.line.next(end); ok && regular == end {
		return 0, false
	}
	return wall, true
}

func secondTime(s span, at int64) Note {
	if at < s.start+s.repeat() {
		return SecondTime
	}
	return ""
}

// omitted goes through the spans that a range touches.
func (c cronRule) omitted(after, until time.Time, yield func(Omission) bool) {
	from, to := secondAfter(after), secondAfter(until)-1
	if c.interval || from > to {
		return
	}
	for s := spanAt(c.zone, from); s.start <= to; s = s.next(c.zone).extend(c.zone) {
		if s.start >= from && !c.inHole(s, yield) || c.once && !c.repeated(s, from, to, yield) {
			return
		}
		if s.end >= limit {
			return
		}
	}
}

// inHole yields the times in the hole before a span that do not tick after it.
func (c cronRule) inHole(s span, yield func(Omission) bool) bool {
	ticks, made := c.afterHole(s)
	note := Merged
	if c.skip {
		note = InHole
	}
	end := s.start + s.offset
	for wall, ok := c.line.next(s.start + s.before); ok && wall < end; wall, ok = c.line.next(wall + 1) {
		if made && wall == ticks {
			continue
		}
		if !yield(Omission(newTick(s.start, wall, note))) {
			return false
		}
	}
	return true
}

// repeated yields the second occurrences in a span, those of a range.
func (c cronRule) repeated(s span, from, to int64, yield func(Omission) bool) bool {
	end := min(s.start+s.repeat(), s.end, to+1)
	wall, ok := c.line.next(max(from, s.start) + s.offset)
	for ; ok && wall-s.offset < end; wall, ok = c.line.next(wall + 1) {
		if !yield(Omission(newTick(wall-s.offset, wall, Repeated))) {
			return false
		}
	}
	return true
}
