package calendar_test

import (
	"fmt"
	"time"

	"rpc.do/schedule/internal/calendar"
)

// A line at half past two in Berlin, where clocks go forward from two to three on
// 29 March 2026.
func ExampleParse() {
	c, err := calendar.Parse("30 2 * * *", calendar.Options{Zone: "Europe/Berlin"})
	if err != nil {
		fmt.Println(err)
		return
	}
	at := time.Date(2026, time.March, 27, 12, 0, 0, 0, time.UTC)
	for range 3 {
		tick, _ := c.Next(at)
		fmt.Printf("%s is %s %q\n", tick.Nominal.Format(time.RFC3339), tick.Wall, tick.Note)
		at = tick.Nominal
	}
	// Output:
	// 2026-03-28T01:30:00Z is 2026-03-28 02:30:00 ""
	// 2026-03-29T01:00:00Z is 2026-03-29 02:30:00 "after the hole"
	// 2026-03-30T00:30:00Z is 2026-03-30 02:30:00 ""
}

// What the policies leave out in a year.
func ExampleCalendar_Skipped() {
	c, err := calendar.Parse("0,30 2 * * *", calendar.Options{Zone: "Europe/Berlin"})
	if err != nil {
		fmt.Println(err)
		return
	}
	begin := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	for o := range c.Skipped(begin, begin.AddDate(1, 0, 0)) {
		fmt.Println(o.Wall, o.Note)
	}
	// Output:
	// 2026-03-29 02:30:00 merged into the tick after the hole
	// 2026-10-25 02:00:00 second time left out
	// 2026-10-25 02:30:00 second time left out
}

// An error says what is wrong, and what is allowed.
func ExampleParse_refused() {
	_, err := calendar.Parse("*/90 * * * *", calendar.Options{})
	fmt.Println(err)
	// Output:
	// invalid_argument: schedule "*/90 * * * *": minute "*/90": the step is more than the field has; for a longer interval use @every 90m; allowed are 0-59, *, lists (1,3), ranges (1-5) and steps (*/2)
}
