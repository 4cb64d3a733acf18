package calendar

import "time"

// span is a time in which a zone's offset stays the same, in Unix seconds: from
// start until end, which is exclusive. Before it clocks were at another offset; if
// the last change is longer ago than lookBack, start is not that of the change and
// before is the offset itself.
type span struct {
	start, end     int64
	before, offset int64
}

// lookBack is longer than any change of a zone's offset: a day at most, where a
// country changes sides of the date line.
const lookBack = 26 * 60 * 60

// spanAt returns the span that has an instant.
func spanAt(zone *time.Location, at int64) span {
	offset, end := steady(zone, at-lookBack)
	s := span{at - lookBack, end, offset, offset}
	for s.end <= at {
		s = s.next(zone)
	}
	return s.extend(zone)
}

// next returns a span that follows; its end may be too early.
func (s span) next(zone *time.Location) span {
	offset, end := steady(zone, s.end)
	if offset == s.offset {
		s.end = end
		return s
	}
	return span{s.end, end, s.offset, offset}
}

// extend returns the span with its true end, or one past the limit.
func (s span) extend(zone *time.Location) span {
	for s.end < limit {
		n := s.next(zone)
		if n.start != s.start {
			break
		}
		s = n
	}
	return s
}

// steady returns the offset at an instant, and until when it is known to stay.
// Package time ends the bounds of a zone at the end of a year, too, and in leap
// years a day before that, for which the end of the day in UTC stands in.
func steady(zone *time.Location, at int64) (offset, end int64) {
	t := time.Unix(at, 0).In(zone)
	_, seconds := t.Zone()
	_, bound := t.ZoneBounds()
	switch {
	case bound.IsZero():
		end = limit + lookBack
	case bound.Unix() > at:
		end = bound.Unix()
	default:
		end = (floorDiv(at, secondsPerDay) + 1) * secondsPerDay
	}
	return int64(seconds), end
}

// hole is how many seconds clocks went forward when the span began.
func (s span) hole() int64 { return max(0, s.offset-s.before) }

// repeat is how many seconds clocks went back when the span began, which is how
// long the span shows times that have been before.
func (s span) repeat() int64 { return max(0, s.before-s.offset) }
