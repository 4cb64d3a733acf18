package calendar

import (
	"fmt"
	"testing"
	"time"
)

// The oracle knows when lines tick from the rules in the package comment alone: it
// looks at every minute, or second, of a window, at what the clock on the wall
// shows then, and at what it has shown before. It knows neither bit sets nor spans.

// clock is what a clock on the wall shows.
type clock struct {
	wall                       int64 // in seconds, as if it were UTC
	second, minute, hour, date int
	month                      time.Month
	day                        time.Weekday
}

func show(t time.Time) clock {
	_, offset := t.Zone()
	c := clock{wall: t.Unix() + int64(offset), day: t.Weekday()}
	_, c.month, c.date = t.Date()
	c.hour, c.minute, c.second = t.Clock()
	return c
}

// example is a line, and the same in Go.
type example struct {
	spec     string
	interval bool
	fits     func(c *clock) bool
}

// moment is an instant of a window.
type moment struct {
	at      int64
	clock   clock
	fits    bool    // for a line
	again   bool    // the clock has shown it before
	missing []clock // what it would have shown since the last moment, had it not gone forward
}

// window returns the moments from lo to hi, step seconds apart.
func window(zone *time.Location, lo, hi, step int64) []moment {
	moments := make([]moment, 0, (hi-lo)/step+1)
	seen := make(map[int64]bool, cap(moments))
	for at := lo; at <= hi; at += step {
		m := moment{at: at, clock: show(time.Unix(at, 0).In(zone))}
		m.again = seen[m.clock.wall]
		seen[m.clock.wall] = true
		if n := len(moments); n > 0 {
			for wall := moments[n-1].clock.wall + step; wall < m.clock.wall; wall += step {
				m.missing = append(m.missing, show(time.Unix(wall, 0).UTC()))
			}
		}
		moments = append(moments, m)
	}
	return moments
}

// fitting returns the moments at which a line has something to do, and of what is
// missing there only what fits.
func (e example) fitting(moments []moment) (all []moment) {
	for i := range moments {
		m := &moments[i]
		fits := e.fits(&m.clock)
		if !fits && m.missing == nil {
			continue
		}
		var missing []clock
		for _, c := range m.missing {
			if e.fits(&c) {
				missing = append(missing, c)
			}
		}
		all = append(all, moment{m.at, m.clock, fits, m.again, missing})
	}
	return all
}

// expect returns what is to tick in a window, and what is to be left out.
func (e example) expect(fitting []moment, o Options) (ticks []Tick, omissions []Omission) {
	tick := func(at int64, c clock, note Note) Tick {
		return Tick{time.Unix(at, 0).UTC(), time.Unix(c.wall, 0).UTC().Format("2006-01-02 15:04:05"), note}
	}
	for _, m := range fitting {
		late := false
		for _, c := range m.missing {
			switch {
			case e.interval:
			case o.Gap == Skip:
				omissions = append(omissions, Omission(tick(m.at, c, InHole)))
			case m.fits || late:
				omissions = append(omissions, Omission(tick(m.at, c, Merged)))
			default:
				late = true
				ticks = append(ticks, tick(m.at, c, AfterHole))
			}
		}
		switch {
		case !m.fits:
		case !m.again:
			ticks = append(ticks, tick(m.at, m.clock, ""))
		case e.interval || o.Repeat == Twice:
			ticks = append(ticks, tick(m.at, m.clock, SecondTime))
		default:
			omissions = append(omissions, Omission(tick(m.at, m.clock, Repeated)))
		}
	}
	return ticks, omissions
}

// policies are all there are; to interval lines they do not matter.
func policies(interval bool) []Options {
	if interval {
		return []Options{{}}
	}
	return []Options{{}, {Repeat: Twice}, {Gap: Skip}, {Gap: Skip, Repeat: Twice}}
}

// prepared is a line with its calendars.
type prepared struct {
	example
	options   []Options
	calendars []Calendar
}

func prepare(t *testing.T, zone string, examples []example) (all []prepared) {
	t.Helper()
	for _, e := range examples {
		p := prepared{example: e, options: policies(e.interval)}
		for _, o := range p.options {
			o.Zone = zone
			c, err := Parse(e.spec, o)
			if err != nil {
				t.Fatal(err)
			}
			p.calendars = append(p.calendars, c)
		}
		all = append(all, p)
	}
	return all
}

// check compares the calendars of a line with what the oracle says about a window,
// and returns how many ticks there are.
func (p prepared) check(t *testing.T, moments []moment) (n int) {
	t.Helper()
	before := time.Unix(moments[0].at-1, 0)
	last := time.Unix(moments[len(moments)-1].at, 0)
	fitting := p.fitting(moments)
	for i, c := range p.calendars {
		ticks, omissions := p.expect(fitting, p.options[i])
		if err := compare(c, before, last, ticks, omissions); err != nil {
			t.Errorf("%s: %v", c, err)
		}
		n += len(ticks)
	}
	return n
}

func compare(c Calendar, before, last time.Time, ticks []Tick, omissions []Omission) error {
	at := before
	for _, want := range ticks {
		got, ok := c.Next(at)
		if !ok || got != want {
			return fmt.Errorf("after %s: %v, %v; want %v", at.UTC(), got, ok, want)
		}
		at = got.Nominal
	}
	if got, ok := c.Next(at); ok && !got.Nominal.After(last) {
		return fmt.Errorf("after %s: %v, want none until %s", at.UTC(), got, last.UTC())
	}
	i := 0
	for got := range c.Skipped(before, last) {
		if i == len(omissions) || got != omissions[i] {
			return fmt.Errorf("skips %v as number %d of %v", got, i, omissions)
		}
		i++
	}
	if i < len(omissions) {
		return fmt.Errorf("skips %d of %v", i, omissions)
	}
	return nil
}
