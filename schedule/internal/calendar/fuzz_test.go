package calendar

import (
	"errors"
	"testing"
	"time"

	"rpc.do"
)

// Whatever is read, ticks go on strictly, to the end, and reading is all that can
// fail.
func FuzzCalendar(f *testing.F) {
	for _, spec := range []string{
		"30 2 * * *", "15 30 2 * * *", "*/15 * * * *", "0 0 29 2 *", "0 0 13 * 5", "59 23 31 12 *", "* * * * * *",
		"@daily", "@every 90s", "@at 2026-03-29T02:30:00Z", "CRON_TZ=Europe/Berlin 0,30 2 * * *", "TZ=Pacific/Apia 0 */2 * * *",
		"TZ=", "CRON_TZ=x", "0 0 30 2 *", "1-2/3,4 ? * JAN-MAR sun", "@every 1ns", "TZ=Antarctica/Troll * 0-4 * * *",
	} {
		f.Add(spec, "", int64(1774742400), false, false)
		f.Add(spec, "America/New_York", int64(-1), true, true)
		f.Add(spec, "Australia/Lord_Howe", int64(4102444000), true, false)
	}
	f.Fuzz(func(t *testing.T, spec, zone string, after int64, skip, twice bool) {
		o := Options{Zone: zone}
		if skip {
			o.Gap = Skip
		}
		if twice {
			o.Repeat = Twice
		}
		c, err := Parse(spec, o)
		if err != nil {
			if !errors.Is(err, rpc.InvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		if again, err := Parse(spec, o); err != nil || again.String() != c.String() {
			t.Fatalf("%q, then %q, %v", c, again, err)
		}
		begin := time.Unix(after, 0)
		at, end := begin, begin
		for range 50 {
			tick, ok := c.Next(at)
			if !ok {
				break
			}
			if !tick.Nominal.After(at) || !inBounds(tick.Nominal) || tick.Nominal.Location() != time.UTC {
				t.Fatalf("%s after %s: %v", c, at, tick)
			}
			if same, ok := c.Next(tick.Nominal.Add(-1)); !ok || same != tick {
				t.Fatalf("%s just before %s: %v", c, tick.Nominal, same)
			}
			if wall, err := time.Parse(wallLayout, tick.Wall); err != nil || wall.Format(wallLayout) != tick.Wall {
				t.Fatalf("%s: wall %q", c, tick.Wall)
			}
			at = tick.Nominal
			end = at
		}
		n := 0
		last := begin
		for o := range c.Skipped(begin, end) {
			if !o.Nominal.After(begin) || o.Nominal.After(end) || o.Nominal.Before(last) || o.Note == "" {
				t.Fatalf("%s skips %v between %s and %s", c, o, begin, end)
			}
			last = o.Nominal
			if n++; n > 1_000 {
				break
			}
		}
	})
}
