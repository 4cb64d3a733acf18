package calendar

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/robfig/cron/v3"

	"rpc.do"
)

func utc(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		return time.Time{}
	}
	return t
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		spec        string
		options     Options
		after, want string // UTC; no want is none
	}{
		{"30 2 * * *", Options{}, "2026-03-01 00:00:00", "2026-03-01 02:30:00"},
		{"30 2 * * *", Options{}, "2026-03-01 02:30:00", "2026-03-02 02:30:00"},
		{"30 2 * * *", Options{}, "2026-03-01 02:29:59", "2026-03-01 02:30:00"},
		{"15 30 2 * * *", Options{}, "2026-03-01 02:30:00", "2026-03-01 02:30:15"},
		{"*/20 * * * * *", Options{}, "2026-03-01 23:59:41", "2026-03-02 00:00:00"},
		{"  30\t2 * *  * ", Options{}, "2026-03-01 00:00:00", "2026-03-01 02:30:00"},
		{"? ? ? ? ?", Options{}, "2026-03-01 00:00:00", "2026-03-01 00:01:00"},
		{"5/15 * * * *", Options{}, "2026-03-01 00:50:00", "2026-03-01 01:05:00"},
		{"0 9-17/4 * * *", Options{}, "2026-03-01 09:00:00", "2026-03-01 13:00:00"},
		{"*/60 * * * *", Options{}, "2026-03-01 00:30:00", "2026-03-01 01:00:00"},
		{"0 0 1 jan,JUL *", Options{}, "2026-03-01 00:00:00", "2026-07-01 00:00:00"},
		{"0 0 29 2 *", Options{}, "2026-03-01 00:00:00", "2028-02-29 00:00:00"},
		{"0 0 31 * *", Options{}, "2026-03-31 00:00:00", "2026-05-31 00:00:00"},
		{"0 0 * * mon-fri", Options{}, "2026-03-06 00:00:00", "2026-03-09 00:00:00"},

		// Either day will do, unless one is a plain *.
		{"0 0 13 * 5", Options{}, "2026-03-01 00:00:00", "2026-03-06 00:00:00"},
		{"0 0 13 * 5", Options{}, "2026-04-11 00:00:00", "2026-04-13 00:00:00"},
		{"0 0 * * 5", Options{}, "2026-04-11 00:00:00", "2026-04-17 00:00:00"},
		{"0 0 */2 * 1", Options{}, "2026-03-01 00:00:00", "2026-03-02 00:00:00"},
		{"0 0 30 2 1", Options{}, "2026-02-03 00:00:00", "2026-02-09 00:00:00"},

		{"@yearly", Options{}, "2026-03-01 00:00:00", "2027-01-01 00:00:00"},
		{"@annually", Options{}, "2026-03-01 00:00:00", "2027-01-01 00:00:00"},
		{"@monthly", Options{}, "2026-03-01 00:00:00", "2026-04-01 00:00:00"},
		{"@weekly", Options{}, "2026-03-02 00:00:00", "2026-03-08 00:00:00"},
		{"@daily", Options{}, "2026-03-01 00:00:00", "2026-03-02 00:00:00"},
		{"@midnight", Options{}, "2026-03-01 00:00:00", "2026-03-02 00:00:00"},
		{"@hourly", Options{}, "2026-03-01 00:00:00", "2026-03-01 01:00:00"},

		{"@daily", Options{Zone: "Asia/Kolkata"}, "2026-03-01 00:00:00", "2026-03-01 18:30:00"},
		{"CRON_TZ=Asia/Kolkata @daily", Options{}, "2026-03-01 00:00:00", "2026-03-01 18:30:00"},
		{"TZ=Asia/Kolkata 0 0 * * *", Options{Zone: "Asia/Kolkata"}, "2026-03-01 00:00:00", "2026-03-01 18:30:00"},
		{"@daily", Options{Zone: "Etc/GMT-2"}, "2026-03-01 00:00:00", "2026-03-01 22:00:00"},

		{"@every 1h", Options{}, "2026-03-01 00:30:00", "2026-03-01 01:00:00"},
		{"@every 90s", Options{}, "2026-03-01 00:00:00", "2026-03-01 00:01:30"},
		{"@every 90s", Options{Anchor: utc("2026-03-01 00:00:10")}, "2026-03-01 00:00:10", "2026-03-01 00:01:40"},
		{"@every 90s", Options{Anchor: utc("2026-03-01 00:00:10")}, "2026-03-01 00:01:39", "2026-03-01 00:01:40"},
		{"@every 90s", Options{Anchor: utc("2026-03-01 00:00:10")}, "2026-03-01 00:01:40", "2026-03-01 00:03:10"},
		{"@every 90s", Options{Anchor: utc("2026-03-01 00:00:10")}, "2020-01-01 00:00:00", "2026-03-01 00:00:10"},
		{"@every 24h", Options{Zone: "Europe/Berlin"}, "2026-03-28 12:00:00", "2026-03-29 00:00:00"},
		{"TZ=Europe/Berlin @every 1s", Options{}, "2026-03-28 12:00:00", "2026-03-28 12:00:01"},

		{"@at 2026-03-29T02:30:00+02:00", Options{}, "2026-01-01 00:00:00", "2026-03-29 00:30:00"},
		{"@at 2026-03-29T00:30:00Z", Options{}, "2026-03-29 00:29:59", "2026-03-29 00:30:00"},
		{"@at 2026-03-29T00:30:00Z", Options{}, "2026-03-29 00:30:00", ""},

		// The bounds.
		{"@daily", Options{}, "0001-01-01 00:00:00", "1970-01-01 00:00:00"},
		{"@daily", Options{Zone: "America/New_York"}, "1969-12-31 12:00:00", "1970-01-01 05:00:00"},
		{"@daily", Options{}, "2099-12-30 12:00:00", "2099-12-31 00:00:00"},
		{"@daily", Options{}, "2099-12-31 00:00:00", ""},
		{"@daily", Options{Zone: "America/New_York"}, "2099-12-31 05:00:00", ""},
		{"@daily", Options{Zone: "Asia/Tokyo"}, "2099-12-31 00:00:00", "2099-12-31 15:00:00"},
		{"@daily", Options{}, "2100-01-01 00:00:00", ""},
		{"@daily", Options{}, "9999-01-01 00:00:00", ""},
		{"0 0 29 2 *", Options{}, "2096-02-29 00:00:00", ""},
		{"@every 1s", Options{}, "2099-12-31 23:59:58", "2099-12-31 23:59:59"},
		{"@every 1s", Options{}, "2099-12-31 23:59:59", ""},
		{"@every 1s", Options{}, "0001-01-01 00:00:00", "1970-01-01 00:00:00"},
	} {
		c, err := Parse(test.spec, test.options)
		if err != nil {
			t.Errorf("%s: %v", test.spec, err)
			continue
		}
		got, ok := c.Next(utc(test.after))
		if ok != (test.want != "") || ok && !got.Nominal.Equal(utc(test.want)) {
			t.Errorf("%s after %s: %v, %v; want %s", c, test.after, got, ok, test.want)
		}
		if got.Note != "" {
			t.Errorf("%s after %s: note %q", c, test.after, got.Note)
		}
	}
}

// What happens while clocks change, in plain words. All the rest is in
// transition_test.go.
func TestWhenClocksChange(t *testing.T) {
	t.Parallel()
	const (
		forward = "2026-03-29 00:00:00" // in Berlin from 02:00 to 03:00 at 01:00 UTC
		back    = "2026-10-24 23:59:59" // from 03:00 to 02:00 at 01:00 UTC
	)
	for _, test := range []struct {
		what, spec string
		options    Options
		after      string
		want       string // the following ticks, those of the next three hours
		omitted    string
	}{
		{"a time in the hole", "30 2 * * *", Options{}, forward, "01:00 for 02:30 after the hole", ""},
		{"skipped", "30 2 * * *", Options{Gap: Skip}, forward, "", "01:00 for 02:30 in the hole"},
		{"two times in the hole", "0,30 2 * * *", Options{}, forward, "01:00 for 02:00 after the hole",
			"01:00 for 02:30 merged into the tick after the hole"},
		{"a time in the hole and one at its end", "0 2,3 * * *", Options{}, forward, "01:00 for 03:00",
			"01:00 for 02:00 merged into the tick after the hole"},
		{"an interval and the hole", "*/30 * * * *", Options{}, forward,
			"00:30 for 01:30, 01:00 for 03:00, 01:30 for 03:30, 02:00 for 04:00, 02:30 for 04:30, 03:00 for 05:00", ""},
		{"a step of hours and the hole", "0 */2 * * *", Options{}, forward, "01:00 for 02:00 after the hole, 02:00 for 04:00", ""},

		{"a time that comes twice", "30 2 * * *", Options{}, back, "00:30 for 02:30", "01:30 for 02:30 second time left out"},
		{"twice", "30 2 * * *", Options{Repeat: Twice}, back, "00:30 for 02:30, 01:30 for 02:30 second time", ""},
		{"an interval and the repetition", "*/30 * * * *", Options{}, back,
			"00:00 for 02:00, 00:30 for 02:30, 01:00 for 02:00 second time, 01:30 for 02:30 second time, 02:00 for 03:00, 02:30 for 03:30", ""},
		{"quarters of one hour", "*/15 2 * * *", Options{}, back, "00:00 for 02:00, 00:15 for 02:15, 00:30 for 02:30, 00:45 for 02:45",
			"01:00 for 02:00 second time left out, 01:15 for 02:15 second time left out, 01:30 for 02:30 second time left out, 01:45 for 02:45 second time left out"},
		{"a step of hours and the repetition", "0 */2 * * *", Options{}, back, "00:00 for 02:00", "01:00 for 02:00 second time left out"},
	} {
		test.options.Zone = "Europe/Berlin"
		c, err := Parse(test.spec, test.options)
		if err != nil {
			t.Fatal(err)
		}
		say := func(tick Tick) string {
			return strings.TrimSpace(tick.Nominal.Format("15:04") + " for " + tick.Wall[11:16] + " " + string(tick.Note))
		}
		begin := utc(test.after)
		end := begin.Add(3 * time.Hour)
		var got, omitted []string
		for tick, ok := c.Next(begin); ok && !tick.Nominal.After(end); tick, ok = c.Next(tick.Nominal) {
			got = append(got, say(tick))
		}
		for o := range c.Skipped(begin, end) {
			omitted = append(omitted, say(Tick(o)))
		}
		if s := strings.Join(got, ", "); s != test.want {
			t.Errorf("%s: ticks %s\nwant %s", test.what, s, test.want)
		}
		if s := strings.Join(omitted, ", "); s != test.omitted {
			t.Errorf("%s: skips %s\nwant %s", test.what, s, test.omitted)
		}
	}
}

// Samoa left out a day: what was to run on it runs when it would have ended.
func TestDayThatDoesNotExist(t *testing.T) {
	t.Parallel()
	c, err := Parse("0 9 * * *", Options{Zone: "Pacific/Apia"})
	if err != nil {
		t.Fatal(err)
	}
	var got []Tick
	at := utc("2011-12-29 12:00:00")
	for range 3 {
		tick, _ := c.Next(at)
		got = append(got, tick)
		at = tick.Nominal
	}
	want := []Tick{
		{utc("2011-12-29 19:00:00"), "2011-12-29 09:00:00", ""},
		{utc("2011-12-30 10:00:00"), "2011-12-30 09:00:00", AfterHole},
		{utc("2011-12-30 19:00:00"), "2011-12-31 09:00:00", ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestSkippedBounds(t *testing.T) {
	t.Parallel()
	c, err := Parse("30 2 * * *", Options{Zone: "Europe/Berlin", Gap: Skip})
	if err != nil {
		t.Fatal(err)
	}
	count := func(after, until time.Time) (n int) {
		for range c.Skipped(after, until) {
			n++
		}
		return n
	}
	hole, second := utc("2026-03-29 01:00:00"), utc("2026-10-25 01:30:00")
	for _, test := range []struct {
		after, until time.Time
		want         int
	}{
		{hole.Add(-1), hole, 1},
		{hole, hole.Add(time.Hour), 0},
		{hole.Add(-time.Hour), hole.Add(-1), 0},
		{second.Add(-1), second, 1},
		{second, second.Add(time.Hour), 0},
		{second.Add(-time.Hour), second.Add(-1), 0},
		{hole.Add(-1), second, 2},
		{second, hole, 0},
		{time.Unix(math.MinInt64, 0), hole.AddDate(-100, 0, 0), 0},
		{utc("2099-11-01 00:00:00"), time.Unix(math.MaxInt64, 0), 0},
	} {
		if n := count(test.after, test.until); n != test.want {
			t.Errorf("%s to %s: %d, want %d", test.after, test.until, n, test.want)
		}
	}
	for range c.Skipped(time.Time{}, utc("2100-01-01 00:00:00")) {
		break // may stop
	}
	if years := count(time.Time{}, utc("2200-01-01 00:00:00")) / 2; years < 115 || years > 130 {
		t.Errorf("skips in %d years", years)
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 3, 29, 3, 30, 0, 123456789, time.FixedZone("x", 3600))
	c, err := At(want, Options{Zone: "Asia/Tokyo"})
	if err != nil {
		t.Fatal(err)
	}
	got, ok := c.Next(want.Add(-1))
	if !ok || got != (Tick{want.UTC(), "2026-03-29 11:30:00", ""}) {
		t.Errorf("%v, %v", got, ok)
	}
	if got, ok := c.Next(want); ok {
		t.Errorf("ticks again: %v", got)
	}
	if s := c.String(); s != "CRON_TZ=Asia/Tokyo @at 2026-03-29T02:30:00.123456789Z" {
		t.Error(s)
	}
	for _, out := range []time.Time{{}, utc("1969-12-31 23:59:59"), utc("2100-01-01 00:00:00"), time.Unix(math.MaxInt64/2, 0)} {
		if _, err := At(out, Options{}); !errors.Is(err, rpc.InvalidArgument) || !strings.Contains(err.Error(), "1970 to 2099") {
			t.Errorf("%s: %v", out, err)
		}
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		spec    string
		options Options
		want    string
	}{
		{" 0  3 * * * ", Options{}, "0 3 * * *"},
		{"0 3 * * *", Options{Zone: "UTC", Gap: RunAfter, Repeat: Once}, "0 3 * * *"},
		{"0 3 * * *", Options{Zone: "Europe/Berlin", Gap: Skip}, "CRON_TZ=Europe/Berlin 0 3 * * * gap=skip"},
		{"TZ=Europe/Berlin @daily", Options{Repeat: Twice}, "CRON_TZ=Europe/Berlin @daily repeat=twice"},
		{"@every 90s", Options{Gap: Skip}, "@every 1m30s"},
		{"@every 90s", Options{Anchor: utc("2026-03-01 00:00:00").Add(time.Millisecond)}, "@every 1m30s from 2026-03-01T00:00:00Z"},
		{"@at 2026-03-29T02:30:00+02:00", Options{}, "@at 2026-03-29T00:30:00Z"},
	} {
		c, err := Parse(test.spec, test.options)
		if err != nil || c.String() != test.want {
			t.Errorf("%q: %v, %v; want %s", test.spec, c, err, test.want)
		}
	}
	var zero Calendar
	if _, ok := zero.Next(time.Time{}); ok || zero.String() != "" || zero.Zone() != "UTC" {
		t.Error("the zero Calendar ticks")
	}
	for range zero.Skipped(time.Time{}, utc("2090-01-01 00:00:00")) {
		t.Error("the zero Calendar skips")
	}
	if c, err := Parse("@daily", Options{Zone: "Europe/Berlin"}); err != nil || c.Zone() != "Europe/Berlin" {
		t.Error(c.Zone(), err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		spec    string
		options Options
		want    []string // in the error
	}{
		{"", Options{}, []string{"empty", `"0 3 * * *"`, "@daily"}},
		{"CRON_TZ=Europe/Berlin", Options{}, []string{"empty"}},
		{"* * * *", Options{}, []string{"4", "5 (minute, hour, day of month, month, day of week)", "6 with seconds"}},
		{"* * * * * * *", Options{}, []string{"7", "6 with seconds"}},
		{"60 * * * *", Options{}, []string{`minute "60"`, "0-59"}},
		{"60 * * * * *", Options{}, []string{`second "60"`, "0-59"}},
		{"0 24 * * *", Options{}, []string{`hour "24"`, "0-23"}},
		{"0 0 0 * *", Options{}, []string{`day of month "0"`, "1-31"}},
		{"0 0 * 13 *", Options{}, []string{`month "13"`, "1-12 or JAN-DEC"}},
		{"0 0 * * 7", Options{}, []string{`day of week "7"`, "Sunday is 0"}},
		{"0 0 * * MO", Options{}, []string{`day of week "MO"`, "SUN-SAT"}},
		{"0 0 L * *", Options{}, []string{`day of month "L"`}},
		{"0 0 * * 5#2", Options{}, []string{`day of week "5#2"`, "character"}},
		{"5-2 * * * *", Options{}, []string{`minute "5-2"`, "beyond"}},
		{"1-2-3 * * * *", Options{}, []string{`minute "1-2-3"`, "hyphens"}},
		{"-1 * * * *", Options{}, []string{`minute "-1"`}},
		{"1, * * * *", Options{}, []string{`minute "1,"`, "missing"}},
		{", * * * *", Options{}, []string{"missing"}},
		{"*-5 * * * *", Options{}, []string{"stands alone"}},
		{"** * * * *", Options{}, []string{"stands alone"}},
		{"*/0 * * * *", Options{}, []string{`minute "*/0"`, "positive"}},
		{"*/x * * * *", Options{}, []string{`minute "*/x"`}},
		{"*/2/3 * * * *", Options{}, []string{"slashes"}},
		{"*/90 * * * *", Options{}, []string{`minute "*/90"`, "@every 90m"}},
		{"0 0 */40 * *", Options{}, []string{`day of month "*/40"`, "step"}},
		{"*/99999999999999999999 * * * *", Options{}, []string{"minute"}},
		{"TZ=UTC TZ=UTC * * * * *", Options{}, []string{"character"}},
		{"\u00bd * * * *", Options{}, []string{"character"}},
		{"\x00 * * * *", Options{}, []string{"character"}},
		{strings.Repeat("1,", 600) + "1 * * * *", Options{}, []string{"too long", "1000"}},

		{"0 0 30 2 *", Options{}, []string{"never ticks", `"30"`, `"2"`}},
		{"0 0 31 4,6,9,11 *", Options{}, []string{"never ticks"}},

		{"@reboot", Options{}, []string{`"@reboot" is unknown`, "@hourly", "@every 90s"}},
		{"@Daily", Options{}, []string{"unknown", "@daily"}},
		{"@daily 1", Options{}, []string{"unknown"}},
		{"@every", Options{}, []string{"no duration", "90s"}},
		{"@every 1d", Options{}, []string{`"1d" is no duration`, "90s"}},
		{"@every 90", Options{}, []string{"no duration"}},
		{"@every -1m", Options{}, []string{"too short", "at least 1s"}},
		{"@every 0s", Options{}, []string{"too short"}},
		{"@every 999ms", Options{}, []string{"too short"}},
		{"@every 1500ms", Options{}, []string{"fraction", "whole seconds"}},
		{"@every 2000000h", Options{}, []string{"too long", "2099"}},
		{"@at", Options{}, []string{"no time", "RFC 3339"}},
		{"@at tomorrow", Options{}, []string{"no time", "RFC 3339"}},
		{"@at 2026-03-29", Options{}, []string{"no time"}},
		{"@at 2100-01-01T00:00:00Z", Options{}, []string{"out of bounds", "1970 to 2099"}},
		{"@at 1969-12-31T23:59:59Z", Options{}, []string{"out of bounds"}},

		{"@daily", Options{Zone: "Berlin"}, []string{`zone "Berlin"`, "did you mean Europe/Berlin?", "IANA", "UTC"}},
		{"CRON_TZ=europe/berlin @daily", Options{}, []string{"did you mean Europe/Berlin?"}},
		{"@daily", Options{Zone: "New York"}, []string{"did you mean America/New_York?"}},
		{"@daily", Options{Zone: "Europe/Brelin"}, []string{"did you mean Europe/Berlin?"}},
		{"@daily", Options{Zone: "utc"}, []string{"did you mean UTC?"}},
		{"@daily", Options{Zone: "CEST"}, []string{`zone "CEST" is unknown; allowed`}},
		{"@daily", Options{Zone: "UTC+2"}, []string{"unknown", "Etc/GMT-2"}},
		{"@daily", Options{Zone: "Local"}, []string{"unknown"}},
		{"@daily", Options{Zone: "right/Europe/Berlin"}, []string{"unknown"}},
		{"@daily", Options{Zone: "../etc/passwd"}, []string{"unknown"}},
		{"@daily", Options{Zone: strings.Repeat("Europe/", 100)}, []string{"unknown"}},
		{"CRON_TZ= @daily", Options{}, []string{"no zone follows CRON_TZ="}},
		{"TZ=Europe/Paris @daily", Options{Zone: "Europe/Berlin"}, []string{"two zones", "Europe/Paris", "Europe/Berlin"}},

		{"@daily", Options{Gap: "later"}, []string{`"later"`, `"run-after"`, `"skip"`}},
		{"@daily", Options{Repeat: "never"}, []string{`"never"`, `"once"`, `"twice"`}},
		{"@every 1m", Options{Anchor: utc("2100-01-01 00:00:00")}, []string{"anchor", "1970 to 2099"}},
		{"@every 1m", Options{Anchor: utc("1969-01-01 00:00:00")}, []string{"anchor"}},
	} {
		c, err := Parse(test.spec, test.options)
		if !errors.Is(err, rpc.InvalidArgument) {
			t.Errorf("%q, %+v: %v, %v", test.spec, test.options, c, err)
			continue
		}
		if c != (Calendar{}) {
			t.Errorf("%q: an error and a calendar, %v", test.spec, c)
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v; want %q in it", test.spec, err, want)
			}
		}
		if len(err.Error()) > 500 {
			t.Errorf("%q: an error of %d bytes", test.spec, len(err.Error()))
		}
	}
}

// In UTC, where no clocks change, robfig/cron is right: ticks are the same as its.
func TestLikeRobfigInUTC(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	number := func(least, most int) string { return strconv.Itoa(least + random.IntN(most-least+1)) }
	column := func(least, most int) string {
		switch random.IntN(6) {
		case 0:
			return number(least, most)
		case 1:
			return number(least, most) + "," + number(least, most)
		case 2:
			return "*/" + number(1, most)
		case 3:
			from := least + random.IntN(most-least+1)
			return strconv.Itoa(from) + "-" + number(from, most)
		}
		return "*"
	}
	parser := cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	for range 3_000 {
		spec := strings.Join([]string{
			column(0, 59), column(0, 59), column(0, 23), column(1, 28), column(1, 12), column(0, 6),
		}, " ")
		reference, err := parser.Parse("TZ=UTC " + spec)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Parse(spec, Options{})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(random.Int64N(limit-20*365*secondsPerDay), random.Int64N(1e9)).UTC()
		for range 20 {
			tick, ok := c.Next(at)
			if want := reference.Next(at); !ok || !tick.Nominal.Equal(want) {
				t.Fatalf("%s after %s: %v, want %s", spec, at, tick, want)
			}
			at = tick.Nominal
		}
	}
}

func TestZoneNames(t *testing.T) {
	t.Parallel()
	names := strings.Fields(zoneNames)
	if len(names) < 590 || !slices.IsSorted(names) {
		t.Errorf("%d names, sorted: %v", len(names), slices.IsSorted(names))
	}
	for _, name := range names {
		if zone, err := loadZone(name); err != nil || zone.String() != name {
			t.Errorf("%s: %v, %v", name, zone, err)
		}
	}
}
