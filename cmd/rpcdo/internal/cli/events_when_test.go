package cli

import (
	"testing"
	"time"
)

func TestParseAge(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "7d": 7 * day, "1w": 7 * day, "1w2d": 9 * day, "1d12h": 36 * time.Hour, "0s": 0, "1h30m": 90 * time.Minute, "-5m": -5 * time.Minute,
	} {
		if got, err := parseAge(text); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "d", "1.5d", "-1d", "1d-5h", "1d2w", "x", "20000w", "106751d24h", "4294967295w", "1d 2h", "7days"} {
		if got, err := parseAge(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestWhen(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"90m": now.Add(-90 * time.Minute), "1d": now.AddDate(0, 0, -1),
		"2026-11-29T15:04:05Z": time.Date(2026, 11, 29, 15, 4, 5, 0, time.UTC), "2026-11-29T15:04:05.5+02:00": time.Date(2026, 11, 29, 13, 4, 5, 5e8, time.UTC),
		"2026-11-29 15:04": time.Date(2026, 11, 29, 15, 4, 0, 0, time.Local), "2026-11-29T15:04:05": time.Date(2026, 11, 29, 15, 4, 5, 0, time.Local),
		"2026-11-29": time.Date(2026, 11, 29, 0, 0, 0, 0, time.Local), "2026-11-29 15:04:05.25": time.Date(2026, 11, 29, 15, 4, 5, 25e7, time.Local),
		shownTime(now): now,
	} {
		if got, err := when("since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-5m", "yesterday", "2026-13-01", "5", "15:04"} {
		if got, err := when("since", text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestAhead(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	east := time.FixedZone("", 3600)
	for text, want := range map[string]time.Time{
		"90m": now.Add(90 * time.Minute), "1d": now.AddDate(0, 0, 1), "2026-12-01T15:04:05Z": time.Date(2026, 12, 1, 15, 4, 5, 0, time.UTC),
		"2026-12-01 15:04": time.Date(2026, 12, 1, 14, 4, 0, 0, time.UTC), "2026-12-01": time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC),
	} {
		if got, err := ahead("at", text, now, east); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-5m", "tomorrow", "2026-13-01", "5"} {
		if got, err := ahead("at", text, now, east); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestShownAge(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0ms", 999 * time.Millisecond: "999ms", 5*time.Second + 400*time.Millisecond: "5s", 90 * time.Minute: "1h30m", 2 * time.Hour: "2h",
		3 * time.Minute: "3m", 24 * time.Hour: "1d", 49*time.Hour + 10*time.Minute: "2d1h", 30 * 24 * time.Hour: "30d", 62*time.Minute + time.Second: "1h2m1s",
	} {
		if got := shownAge(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
