package calendar

import (
	"testing"
	"time"

	"github.com/robfig/cron/v3"
)

// Next beside what it does more than: Next of robfig/cron, which skips holes and
// repeats hours.
func BenchmarkNext(b *testing.B) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		b.Fatal(err)
	}
	for _, test := range []struct {
		name, spec string
		after      time.Time
	}{
		{"minutes", "*/15 * * * *", time.Date(2026, 7, 1, 12, 7, 0, 0, time.UTC)},
		{"day", "30 2 * * *", time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)},
		{"weekday", "0 9 * * MON", time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)},
		{"year", "0 0 1 1 *", time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)},
		{"hole", "30 2 * * *", time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC)},
		{"repeat", "30 2 * * *", time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC)},
		{"leap", "0 0 29 2 *", time.Date(2028, 3, 1, 0, 0, 0, 0, time.UTC)},
		{"none", "0 0 29 2 *", time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC)},
		{"longest", "59 59 23 29 2 *", time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		c, err := Parse(test.spec, Options{Zone: "Europe/Berlin"})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Next(test.after)
			}
		})
		b.Run(test.name+"/robfig", func(b *testing.B) {
			s, err := cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(test.spec)
			if err != nil {
				b.Fatal(err)
			}
			s.(*cron.SpecSchedule).Location = berlin
			for b.Loop() {
				s.Next(test.after)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, test := range []struct{ name, spec string }{
		{"UTC", "30 2 * * *"},
		{"zone", "CRON_TZ=Europe/Berlin 30 2 * * *"},
		{"wrong", "CRON_TZ=Europe/Birlin 30 2 * * *"},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := Parse(test.spec, Options{})
				if (err != nil) != (test.name == "wrong") {
					b.Fatal(err)
				}
			}
		})
	}
}
