package calendar

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

// madeUp is a zone in the format of RFC 9636: two hours ahead of UTC, one hour from
// a change on, and ten minutes later the same under another name.
func madeUp(t *testing.T, change int64) *time.Location {
	t.Helper()
	data := append([]byte("TZif"), make([]byte, 16)...)
	word := func(n int64) { data = binary.BigEndian.AppendUint32(data, uint32(n)) }
	for _, count := range []int64{0, 0, 0, 3, 3, 6} { // changes, offsets, bytes of names
		word(count)
	}
	word(0)
	word(change)
	word(change + 10*60)
	data = append(data, 0, 1, 2)
	for i, offset := range []int64{2 * 60 * 60, 60 * 60, 60 * 60} {
		word(offset)
		data = append(data, 0, byte(2*i))
	}
	zone, err := time.LoadLocationFromTZData("made up", append(data, "A\x00B\x00C\x00"...))
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// A name that changes amid a repeated hour does not end it.
func TestNameChangesInRepetition(t *testing.T) {
	t.Parallel()
	change := utc("2026-10-25 01:00:00").Unix()
	zone := madeUp(t, change)
	want := span{start: change, end: limit + lookBack, before: 2 * 60 * 60, offset: 60 * 60}
	for _, at := range []int64{change, change + 5*60, change + 30*60} {
		if got := spanAt(zone, at); got != want {
			t.Errorf("%d seconds after the change: %+v, want %+v", at-change, got, want)
		}
	}
	l, err := parseLine("*/15 2 * * *")
	if err != nil {
		t.Fatal(err)
	}
	c := Calendar{rule: cronRule{line: l, zone: zone, once: true}, zone: zone}
	var got []string
	for tick, ok := c.Next(utc("2026-10-25 00:10:00")); ok && len(got) < 4; tick, ok = c.Next(tick.Nominal) {
		got = append(got, tick.Nominal.Format("02 15:04"))
	}
	if !slices.Equal(got, []string{"25 00:15", "25 00:30", "25 00:45", "26 01:00"}) {
		t.Error(got)
	}
	n := 0
	for range c.Skipped(time.Unix(change, 0).Add(-1), time.Unix(change, 0).Add(time.Hour)) {
		n++
	}
	if n != 4 {
		t.Errorf("skips %d times", n)
	}
}

// Spans join without a gap, wherever one asks, also at the ends of years.
func TestSpansJoin(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Africa/Casablanca", "Australia/Lord_Howe", "Asia/Tokyo", "UTC"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for s := spanAt(zone, firstSecond); s.end < limit; n++ {
			next := spanAt(zone, s.end)
			if next.start != s.end || next.before != s.offset || next.offset == s.offset || next.end <= next.start {
				t.Fatalf("%s: %+v follows %+v", name, next, s)
			}
			if last := spanAt(zone, next.start-1); last.end != s.end || last.offset != s.offset {
				t.Fatalf("%s: %+v just before %+v", name, last, next)
			}
			s = next
		}
		if n > 4*130 {
			t.Errorf("%s: %d changes", name, n)
		}
	}
}
