package calendar

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// examples are lines at the hours in which clocks change, and at others.
func examples() []example {
	return []example{
		{"30 2 * * *", false, func(c *clock) bool { return c.hour == 2 && c.minute == 30 }},
		{"0 0 * * *", false, func(c *clock) bool { return c.hour == 0 && c.minute == 0 }},
		{"@hourly", true, func(c *clock) bool { return c.minute == 0 }},
		{"*/15 * * * *", true, func(c *clock) bool { return c.minute%15 == 0 }},
		{"17 0-23 * * SUN", true, func(c *clock) bool { return c.minute == 17 && c.day == time.Sunday }},
		{"0 2,3 * * *", false, func(c *clock) bool { return c.minute == 0 && (c.hour == 2 || c.hour == 3) }},
		{"0 */2 * * *", false, func(c *clock) bool { return c.minute == 0 && c.hour%2 == 0 }},
		{"*/10 1-3 * * *", false, func(c *clock) bool { return c.minute%10 == 0 && c.hour >= 1 && c.hour <= 3 }},
		{"45 1-23 * * *", false, func(c *clock) bool { return c.minute == 45 && c.hour >= 1 }},
		{"*/20 0-22 * * *", false, func(c *clock) bool { return c.minute%20 == 0 && c.hour <= 22 }},
		{"30 1 1-7 * 0", false, func(c *clock) bool {
			return c.hour == 1 && c.minute == 30 && (c.date <= 7 || c.day == time.Sunday)
		}},
		{"5 0,12 * 3,10 *", false, func(c *clock) bool {
			return c.hour%12 == 0 && c.minute == 5 && (c.month == time.March || c.month == time.October)
		}},
		{"59 23 31 12 *", false, func(c *clock) bool {
			return c.hour == 23 && c.minute == 59 && c.date == 31 && c.month == time.December
		}},
		{"1 0 1 * *", false, func(c *clock) bool { return c.hour == 0 && c.minute == 1 && c.date == 1 }},
	}
}

// change is when the offset of a zone changes.
type change struct{ at, before, after int64 }

func (c change) length() int64 { return max(c.before-c.after, c.after-c.before) }

// changes finds them by looking once a day and halving the days that differ.
func changes(zone *time.Location, from, to time.Time) (all []change) {
	offset := func(at int64) int64 {
		_, seconds := time.Unix(at, 0).In(zone).Zone()
		return int64(seconds)
	}
	const day = 24 * 60 * 60
	before := offset(from.Unix())
	for at := from.Unix(); at < to.Unix(); at += day {
		after := offset(at + day)
		if after == before {
			continue
		}
		lo, hi := at, at+day
		for hi-lo > 1 {
			if middle := (lo + hi) / 2; offset(middle) == before {
				lo = middle
			} else {
				hi = middle
			}
		}
		all = append(all, change{hi, before, after})
		before = after
	}
	return all
}

// Around every change of every zone there is no tick too few, too many, twice or
// out of order, and what is left out is told. Zones that always change alike are
// looked at once.
func TestEveryChangeOfEveryZone(t *testing.T) {
	t.Parallel()
	const hour = 60 * 60
	begun := time.Now()
	from, to := time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC)
	var done sync.Map // lists of changes that were looked at under another name
	var zones, found, ticks atomic.Int64
	t.Run("zones", func(t *testing.T) {
		for name := range strings.FieldsSeq(zoneNames) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				zone, err := time.LoadLocation(name)
				if err != nil {
					t.Fatal(err)
				}
				all := changes(zone, from, to)
				if _, twin := done.LoadOrStore(fmt.Sprint(all), name); twin {
					return
				}
				lines := prepare(t, name, examples())
				for i, c := range all {
					if c.at%60 != 0 || i > 0 && c.at-all[i-1].at < 2*lookBack {
						t.Fatalf("the oracle can't tell about %v in %v", c, all)
					}
					margin := 2*hour + c.length()
					moments := window(zone, c.at-margin, c.at+margin, 60)
					for _, line := range lines {
						ticks.Add(int64(line.check(t, moments)))
					}
				}
				zones.Add(1)
				found.Add(int64(len(all)))
			})
		}
	})
	t.Logf("%d zones that differ, %d changes, %d ticks in %v", zones.Load(), found.Load(), ticks.Load(), time.Since(begun).Round(time.Millisecond))
	if zones.Load() < 150 || found.Load() < 8_000 {
		t.Errorf("only %d zones and %d changes were found", zones.Load(), found.Load())
	}
}

// The same for longer times, in which package time splits zones at odd places: the
// end of a year, the last day of a leap year, the last change that is listed.
func TestLongerTimes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		zone     string
		from, to string
	}{
		{"Europe/Berlin", "2023-12-25", "2025-01-10"},
		{"Africa/Casablanca", "2087-01-01", "2087-12-25"},
		{"Pacific/Apia", "2011-12-20", "2012-01-10"},
		{"America/New_York", "2060-12-25", "2061-01-10"},
		{"America/Sao_Paulo", "2018-10-25", "2019-02-25"},
		{"Australia/Lord_Howe", "2036-09-25", "2037-04-15"},
		{"Europe/Dublin", "2096-12-25", "2097-01-10"},
		{"Antarctica/Troll", "2031-12-25", "2032-04-10"},
		{"UTC", "2096-02-20", "2096-03-10"},
	} {
		t.Run(test.zone, func(t *testing.T) {
			t.Parallel()
			zone, err := time.LoadLocation(test.zone)
			if err != nil {
				t.Fatal(err)
			}
			lo, errLo := time.Parse(time.DateOnly, test.from)
			hi, errHi := time.Parse(time.DateOnly, test.to)
			if errLo != nil || errHi != nil {
				t.Fatal(errLo, errHi)
			}
			moments := window(zone, lo.Unix(), hi.Unix(), 60)
			for _, line := range prepare(t, test.zone, examples()) {
				line.check(t, moments)
			}
		})
	}
}

// Lines with seconds, second by second.
func TestSecondsAroundChanges(t *testing.T) {
	t.Parallel()
	lines := []example{
		{"*/20 59 1,2 * * *", false, func(c *clock) bool { return c.second%20 == 0 && c.minute == 59 && (c.hour == 1 || c.hour == 2) }},
		{"*/7 * * * * *", true, func(c *clock) bool { return c.second%7 == 0 }},
		{"1 0 0-3 * * *", false, func(c *clock) bool { return c.second == 1 && c.minute == 0 && c.hour <= 3 }},
		{"* 0,30 2 * * *", false, func(c *clock) bool { return c.minute%30 == 0 && c.hour == 2 }},
	}
	for _, name := range []string{"Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "America/Havana"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			zone, err := time.LoadLocation(name)
			if err != nil {
				t.Fatal(err)
			}
			all := changes(zone, time.Date(2009, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2013, 1, 1, 0, 0, 0, 0, time.UTC))
			for _, c := range all {
				margin := 30*60 + c.length()
				moments := window(zone, c.at-margin, c.at+margin, 1)
				for _, line := range prepare(t, name, lines) {
					line.check(t, moments)
				}
			}
			if len(all) != 8 {
				t.Errorf("%d changes in four years", len(all))
			}
		})
	}
}
