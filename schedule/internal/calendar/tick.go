package calendar

import "time"

// Tick is one time at which a schedule is to run.
type Tick struct {
	// Nominal is the instant of the tick, in UTC. It identifies the tick: no two of
	// a calendar have the same, and everyone computes the same.
	Nominal time.Time

	// Wall is what the clock on the wall shows in the calendar's zone, to the
	// second, as "2006-01-02 15:04:05". It is the time that the line asks for, so
	// after a hole it is one that does not exist.
	Wall string

	// Note says what is unusual about the tick; mostly it is empty.
	Note Note
}

// Note is why a tick comes when it does, or does not come.
type Note string

// Notes of ticks.
const (
	// AfterHole is a tick at the end of a hole, in place of a time in it.
	AfterHole Note = "after the hole"

	// SecondTime is a tick whose time on the wall has come before, an hour ago or
	// by how much else clocks went back.
	SecondTime Note = "second time"
)

// Notes of omissions.
const (
	// InHole is a time that does not exist, and is skipped.
	InHole Note = "in the hole"

	// Merged is a time that does not exist, and for which another tick runs after
	// the hole.
	Merged Note = "merged into the tick after the hole"

	// Repeated is the second occurrence of a time that has ticked at the first.
	Repeated Note = "second time left out"
)

// Omission is a time that fits a line but does not tick because clocks change.
// Its Nominal is when it would have run: at the end of the hole, or at the second
// occurrence. Other than that of a tick, it can be shared by many.
type Omission Tick

const wallLayout = "2006-01-02 15:04:05"

// newTick makes the tick of an instant and a time on the wall, both in seconds.
func newTick(at, wall int64, note Note) Tick {
	return Tick{
		Nominal: time.Unix(at, 0).UTC(),
		Wall:    time.Unix(wall, 0).UTC().Format(wallLayout),
		Note:    note,
	}
}
