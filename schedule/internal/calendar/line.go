package calendar

import (
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"rpc.do"
)

// line is a parsed cron line: which times on the wall fit. It knows no zone: its
// times are the seconds that the clock on the wall has counted since it showed
// 1970, which are Unix seconds in UTC.
type line struct {
	second, minute, hour uint64 // bit n is set if n fits
	dom, month, dow      uint64
	eitherDay            bool // dom or dow will do
}

// descriptors is what an error lists.
const descriptors = "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, @every 90s, @at 2026-03-29T02:30:00Z"

// parseLine reads a cron line or a descriptor of one.
func parseLine(text string) (line, *rpc.Error) {
	if strings.HasPrefix(text, "@") {
		short := text
		if text = described(short); text == "" {
			return line{}, rpc.InvalidArgument.Errorf("%.40q is unknown: there are %s", short, descriptors)
		}
	}
	words := strings.Split(text, " ")
	if len(words) == 5 {
		words = append([]string{"0"}, words...)
	}
	if len(words) != 6 {
		return line{}, rpc.InvalidArgument.Errorf("it has the wrong number of fields, %d: "+
			"a line has 5 (minute, hour, day of month, month, day of week), or 6 with seconds in front", len(words))
	}
	for i, word := range words {
		if err := fieldAt(i).check(word); err != nil {
			return line{}, err
		}
	}
	parser := cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	parsed, err := parser.Parse(strings.Join(words, " "))
	spec, ok := parsed.(*cron.SpecSchedule)
	if err != nil || !ok {
		return line{}, rpc.InvalidArgument.Errorf("it is no cron line: %v", err)
	}
	const star = 1 << 63 // what robfig/cron sets for a plain *
	l := line{
		second: spec.Second &^ star, minute: spec.Minute &^ star, hour: spec.Hour &^ star,
		dom: spec.Dom &^ star, month: spec.Month &^ star, dow: spec.Dow &^ star,
		eitherDay: spec.Dom&star == 0 && spec.Dow&star == 0,
	}
	if _, ok := l.next(firstSecond); !ok {
		return line{}, rpc.InvalidArgument.Errorf("it never ticks: no month of it has such a day (day of month %.40q, month %.40q)", words[3], words[4])
	}
	return l, nil
}

// described returns the line that a descriptor stands for, or nothing.
func described(descriptor string) string {
	switch descriptor {
	case "@yearly", "@annually":
		return "0 0 1 1 *"
	case "@monthly":
		return "0 0 1 * *"
	case "@weekly":
		return "0 0 * * 0"
	case "@daily", "@midnight":
		return "0 0 * * *"
	case "@hourly":
		return "0 * * * *"
	}
	return ""
}

// field is one column of a line.
type field struct {
	name     string
	allowed  string
	size     int // how many values there are
	interval string
	place    cron.ParseOption
}

func fieldAt(i int) field {
	switch i {
	case 0:
		return field{"second", "0-59", 60, "s", cron.Second}
	case 1:
		return field{"minute", "0-59", 60, "m", cron.Minute}
	case 2:
		return field{"hour", "0-23", 24, "h", cron.Hour}
	case 3:
		return field{"day of month", "1-31", 31, "", cron.Dom}
	case 4:
		return field{"month", "1-12 or JAN-DEC", 12, "", cron.Month}
	default:
		return field{"day of week", "0-6 or SUN-SAT, Sunday is 0", 7, "", cron.Dow}
	}
}

// check returns what is wrong with a field's text. It refuses what the parser would
// take for something else: a * with more behind it, an empty item, a step past the
// end of the field.
func (f field) check(text string) *rpc.Error {
	wrong := func(why string) *rpc.Error {
		return rpc.InvalidArgument.Errorf("%s %.40q: %s; allowed are %s, *, lists (1,3), ranges (1-5) and steps (*/2)", f.name, text, why, f.allowed)
	}
	for item := range strings.SplitSeq(text, ",") {
		base, step, stepped := strings.Cut(item, "/")
		switch {
		case item == "":
			return wrong("an item is missing")
		case strings.ContainsFunc(item, notOfField):
			return wrong("it has a character that no field has")
		case len(base) > 1 && strings.ContainsAny(base, "*?"):
			return wrong("a * or ? stands alone or before a step")
		}
		if n, err := strconv.Atoi(step); stepped && err == nil && n > f.size {
			if f.interval != "" {
				return wrong("the step is more than the field has; for a longer interval use @every " + step + f.interval)
			}
			return wrong("the step is more than the field has")
		}
		if _, err := cron.NewParser(f.place).Parse(item); err != nil {
			why := err.Error()
			if strings.HasPrefix(why, "failed to parse") {
				why = "a number or a name is wrong or missing"
			}
			return wrong(why)
		}
	}
	return nil
}

func notOfField(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || r > '9') && !strings.ContainsRune("*?-/", r)
}

// everyHour reports whether the line ticks in each hour of a day that fits.
func (l line) everyHour() bool { return l.hour == 1<<24-1 }

const (
	secondsPerDay = 24 * 60 * 60

	// lastDay is a day after which no time on any wall is before the limit.
	lastDay = limit/secondsPerDay + 1
)

// next returns the first time from wall on, itself included, that fits. It looks at
// each day until the limit at most once, at months that do not fit as a whole.
func (l line) next(wall int64) (int64, bool) {
	day := floorDiv(wall, secondsPerDay)
	from := int(wall - day*secondsPerDay)
	year, month, dom := time.Unix(wall, 0).UTC().Date()
	for day <= lastDay {
		days := daysIn(month, year)
		ahead := 1
		if l.month>>month&1 == 0 {
			ahead = days - dom + 1
		} else if l.fits(dom, day) {
			if s, ok := l.timeOfDay(from); ok {
				return day*secondsPerDay + int64(s), true
			}
		}
		from = 0
		day += int64(ahead)
		if dom += ahead; dom > days {
			dom = 1
			if month++; month > time.December {
				month = time.January
				year++
			}
		}
	}
	return 0, false
}

// fits reports whether a day, the number of days since 1970, fits; its month does.
func (l line) fits(dom int, day int64) bool {
	weekday := (day + 4) % 7 // 1970 began on a Thursday
	if weekday < 0 {
		weekday += 7
	}
	byDate, byWeekday := l.dom>>dom&1 == 1, l.dow>>weekday&1 == 1
	if l.eitherDay {
		return byDate || byWeekday
	}
	return byDate && byWeekday
}

// timeOfDay returns the first second of a day from one on that fits.
func (l line) timeOfDay(from int) (int, bool) {
	const none = 64 // of bit, and past every field
	h, m, s := from/3600, from/60%60, bit(l.second, from%60)
	if s == none {
		s = bit(l.second, 0)
		m++
	}
	if n := bit(l.minute, m); n != m {
		s = bit(l.second, 0)
		if m = n; n == none {
			m = bit(l.minute, 0)
			h++
		}
	}
	if n := bit(l.hour, h); n != h {
		if n == none {
			return 0, false
		}
		h, m, s = n, bit(l.minute, 0), bit(l.second, 0)
	}
	return h*3600 + m*60 + s, true
}

// bit returns the first bit from one on that is set, 64 if there is none.
func bit(set uint64, from int) int {
	return bits.TrailingZeros64(set >> from << from)
}

func daysIn(month time.Month, year int) int {
	switch month {
	case time.February:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case time.April, time.June, time.September, time.November:
		return 30
	}
	return 31
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
