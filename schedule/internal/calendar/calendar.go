package calendar

import (
	"iter"
	"strings"
	"time"

	"rpc.do"
)

// Calendar says when a schedule ticks. It does not change, and any number of
// goroutines may use it. The zero Calendar never ticks.
type Calendar struct {
	text string
	rule rule
	zone *time.Location
}

// rule is one way of ticking. All rules are immutable.
type rule interface {
	// next returns the first tick after a time.
	next(after time.Time) (Tick, bool)

	// omitted yields what Calendar.Skipped does.
	omitted(after, until time.Time, yield func(Omission) bool)
}

// Options say how a spec is to be read. The zero Options are those of a line in UTC
// with the default policies.
type Options struct {
	// Zone is the IANA name of the zone whose clock on the wall counts, such as
	// Europe/Berlin. A zone in front of the spec means the same; if there are
	// both, they have to be equal. Defaults to UTC.
	Zone string

	// Gap is what happens to a time that does not exist. Defaults to RunAfter.
	Gap GapPolicy

	// Repeat is what happens to a time that comes twice. Defaults to Once.
	Repeat RepeatPolicy

	// Anchor is what @every counts from: it ticks at Anchor, at Anchor plus the
	// interval and so on, and never earlier, so that all who know the anchor agree
	// on the times. Fractions of a second are dropped. Defaults to the beginning
	// of 1970 (UTC), from which @every 1h ticks on the hour.
	Anchor time.Time
}

// Times that can tick: 1970-01-01 to the end of 2099, as Unix seconds.
const (
	firstSecond = 0
	limit       = 4102444800 // 2100-01-01T00:00:00Z, exclusive
	lastYear    = 2099
)

// maxSpec bounds the bytes of a spec: a line that spells out every field has
// fewer.
const maxSpec = 1000

// Parse reads a spec: a cron line, a descriptor or a single time, as the package
// comment has them. An error is an InvalidArgument that says what is wrong, where,
// and what is allowed. A line that can never tick is an error.
func Parse(spec string, o Options) (Calendar, error) {
	if len(spec) > maxSpec {
		return Calendar{}, rpc.InvalidArgument.Errorf("a schedule of %d bytes is too long: at most %d are allowed", len(spec), maxSpec)
	}
	text := strings.Join(strings.Fields(spec), " ")
	c, err := parse(text, o)
	if err != nil {
		return Calendar{}, rpc.InvalidArgument.Errorf("schedule %.80q: %s", text, err.Message)
	}
	return c, nil
}

// At returns the calendar of a single time, as "@at" does. A time before 1970 or
// after 2099 is an InvalidArgument. Of the options only the zone matters, for
// Tick.Wall.
func At(t time.Time, o Options) (Calendar, error) {
	if !inBounds(t) {
		return Calendar{}, outOfBounds("@at", t)
	}
	return Parse("@at "+t.UTC().Format(time.RFC3339Nano), o)
}

func parse(text string, o Options) (Calendar, *rpc.Error) {
	if err := o.check(); err != nil {
		return Calendar{}, err
	}
	text, zoneName, err := cutZone(text, o.Zone)
	if err != nil {
		return Calendar{}, err
	}
	zone, err := loadZone(zoneName)
	if err != nil {
		return Calendar{}, err
	}
	c := Calendar{zone: zone}
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "":
		return Calendar{}, rpc.InvalidArgument.Errorf("it is empty: write a cron line such as \"0 3 * * *\", or one of %s", descriptors)
	case "@every":
		c.rule, text, err = parseEvery(rest, o.Anchor, zone)
	case "@at":
		c.rule, text, err = parseOnce(rest, zone)
	default:
		c.rule, err = parseCron(text, zone, o)
		text += o.suffix()
	}
	if err != nil {
		return Calendar{}, err
	}
	c.text = text
	if zone != time.UTC {
		c.text = "CRON_TZ=" + zoneName + " " + text
	}
	return c, nil
}

// Next returns the first tick strictly after a time; ok is false when there is
// none any more. Following it from tick to tick, nominal times increase strictly.
func (c Calendar) Next(after time.Time) (t Tick, ok bool) {
	if c.rule == nil {
		return Tick{}, false
	}
	return c.rule.next(after)
}

// Skipped yields the times that do not tick because clocks change, after one time
// and up to another, that one included, in their order. A line of every second can
// have thousands in one night: stop when there are enough.
func (c Calendar) Skipped(after, until time.Time) iter.Seq[Omission] {
	return func(yield func(Omission) bool) {
		if c.rule != nil {
			c.rule.omitted(after, until, yield)
		}
	}
}

// Zone returns the name of the calendar's zone.
func (c Calendar) Zone() string {
	if c.zone == nil {
		return time.UTC.String()
	}
	return c.zone.String()
}

// String returns the calendar with all that decides on its ticks: the spec in single
// spaces, and the policies and the anchor where they are not the defaults.
// Calendars of the same String tick alike, if they know the same rules of the zone.
// Parse reads it only as far as it is a spec.
func (c Calendar) String() string { return c.text }
