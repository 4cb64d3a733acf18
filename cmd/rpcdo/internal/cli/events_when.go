package cli

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// when reads the value of a flag that is a point in time, or how long before now.
func when(flag, text string, now time.Time) (time.Time, error) {
	if age, err := parseAge(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	if t, ok := clockTime(text, time.Local); ok {
		return t, nil
	}
	return time.Time{}, usagef("--%s %.80q: want a time, such as 2026-11-29T15:04:05Z or \"2026-11-29 15:04\", or how long ago, such as 90m or 7d", flag, text)
}

// ahead reads the value of a flag that is a point in time, or how long after now.
func ahead(flag, text string, now time.Time, zone *time.Location) (time.Time, error) {
	if wait, err := parseAge(text); err == nil && wait >= 0 {
		return now.Add(wait), nil
	}
	if t, ok := clockTime(text, zone); ok {
		return t, nil
	}
	return time.Time{}, usagef("--%s %.80q: want a time, such as 2026-11-29T15:04:05Z or \"2026-11-29 15:04\", or how far ahead, such as 90m or 7d", flag, text)
}

// clockTime reads a point in time, in a zone unless it says its offset.
func clockTime(text string, zone *time.Location) (time.Time, bool) {
	for _, layout := range []string{
		time.RFC3339, "2006-01-02 15:04:05 -07:00", time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly,
	} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// period is the flags that bound a time and the sequence.
type period struct {
	since, until  string
	after, before uint64
}

// times returns what since and until say, zero for no bound.
func (p *period) times(now time.Time) (since, until time.Time, err error) {
	if p.since != "" {
		since, err = when("since", p.since, now)
	}
	if p.until != "" && err == nil {
		until, err = when("until", p.until, now)
	}
	switch {
	case err != nil:
	case !since.IsZero() && !until.IsZero() && !since.Before(until):
		err = usagef("--since %s is not before --until %s", p.since, p.until)
	case p.before > 0 && p.after >= p.before:
		err = usagef("--after %d is not below --before %d", p.after, p.before)
	}
	return since, until, err
}

// errAge is what parseAge says of a text that is none.
var errAge = errors.New("not a time with its unit")

// parseAge reads a duration that may have weeks and days, such as 7d or 1d12h.
func parseAge(text string) (time.Duration, error) {
	var total time.Duration
	rest := text
	for _, unit := range []struct {
		letter string
		each   time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		count, after, ok := strings.Cut(rest, unit.letter)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(count, 10, 32)
		if err != nil || float64(n) > (math.MaxInt64-float64(total))/float64(unit.each) {
			return 0, errAge
		}
		total += time.Duration(n) * unit.each
		rest = after
	}
	if rest == "" && text != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || total > 0 && (d < 0 || d > math.MaxInt64-total) {
		return 0, errAge
	}
	return total + d, nil
}

// shownAge writes a duration for people, with days when there are some.
func shownAge(d time.Duration) string {
	switch days := d / (24 * time.Hour); {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case days == 0:
		return trimmed(d.Round(time.Second).String())
	case d%(24*time.Hour) < time.Hour:
		return strconv.FormatInt(int64(days), 10) + "d"
	default:
		return strconv.FormatInt(int64(days), 10) + "d" + trimmed((d % (24 * time.Hour)).Truncate(time.Hour).String())
	}
}

// trimmed leaves out the units of a duration that are nothing.
func trimmed(text string) string {
	for _, nothing := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, nothing) {
			text = text[:len(text)-2]
		}
	}
	return text
}
