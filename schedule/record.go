package schedule

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"
)

// record is all that the bus has of a schedule: one value, which changes by
// compare-and-set. What has been decided is in it before anything of it happens.
type record struct {
	Spec    Spec      `json:"spec"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	Paused  *Pause    `json:"paused,omitempty"`

	// Next is the nominal time of the tick that comes next, zero when there is none.
	Next time.Time `json:"next,omitzero"`
	// Decided is that of the last tick of the calendar that was decided on. No later
	// definition has it, or one before it, again.
	Decided time.Time `json:"decided,omitzero"`
	// Listed is up to when what clock changes leave out has been listed.
	Listed time.Time `json:"listed,omitzero"`
	// Resumed is the end of a pause of which ticks were not decided on yet.
	Resumed time.Time `json:"resumed,omitzero"`
	// Wake is when the schedule is to be looked at again, and Arm the number of the
	// message that says so: others are from before.
	Wake time.Time `json:"wake,omitzero"`
	Arm  uint64    `json:"arm"`

	// Left is how many more times it fires, when Spec.Runs bounds that.
	Left    int        `json:"left,omitempty"`
	Running []Run      `json:"running,omitempty"`
	Waiting []waiting  `json:"waiting,omitempty"`
	Last    *Run       `json:"last,omitempty"` // that has ended
	Pending []emission `json:"pending,omitempty"`
	Counts  Counts     `json:"counts"`
	History []Outcome  `json:"history,omitempty"` // the newest last
	// Serial makes the identities of triggers and backfills differ, also from those
	// of a schedule of the same name that was deleted.
	Serial uint64 `json:"serial,omitempty"`

	// sent says that what was pending in the record as it was read has been done.
	sent bool
	// noted are the outcomes since it was read.
	noted []Outcome
}

// Pause says that a schedule is paused: its ticks are skipped.
type Pause struct {
	Note  string    `json:"note,omitempty"`
	Since time.Time `json:"since"`
}

// Run is one run of the handler of a schedule.
type Run struct {
	// ID is that of the event: "<name>@<nominal time>", with more behind it for
	// triggers and backfills.
	ID      string    `json:"id"`
	Nominal time.Time `json:"nominal"`
	Fired   time.Time `json:"fired"`
	Kind    Kind      `json:"kind,omitempty"`
	// Until is when it counts as failed that nothing was heard of.
	Until time.Time `json:"until,omitzero"`
	// Ended is zero while it runs, State then says how it ended: finished or
	// failed.
	Ended time.Time `json:"ended,omitzero"`
	State State     `json:"state,omitempty"`
}

// waiting is a tick that waits for the run before it.
type waiting struct {
	ID      string          `json:"id"`
	Nominal time.Time       `json:"nominal"`
	Kind    Kind            `json:"kind,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// emission is an event that has been decided, and may not have been sent yet.
type emission struct {
	ID    string          `json:"id"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	Time  time.Time       `json:"time"`

	Nominal time.Time `json:"nominal"`
	Kind    Kind      `json:"kind,omitempty"`
	// Cancel has what runs of the schedule cancelled first.
	Cancel []string `json:"cancel,omitempty"`
}

// Kind says why there is a tick.
type Kind string

// The kinds. The zero Kind is a tick of the calendar.
const (
	KindTrigger  Kind = "trigger"
	KindBackfill Kind = "backfill"
)

// State says what became of a tick.
type State string

// The states.
const (
	Fired    State = "fired"
	Finished State = "finished"
	Failed   State = "failed"
	Skipped  State = "skipped"
)

// Reasons of ticks that were skipped, or failed.
const (
	ReasonOverlap = "overlap"            // the run before has not finished
	ReasonCatchup = "catch-up"           // it was missed, and Catchup leaves it out
	ReasonWindow  = "catch-up window"    // it is later than may be made up for
	ReasonPaused  = "paused"             // the schedule was
	ReasonDST     = "clock change"       // see Gap and Repeat
	ReasonFull    = "buffer full"        // too many wait
	ReasonReplace = "definition changed" // it waited, or was late, when that happened
	ReasonTimeout = "run timeout"        // nothing was heard of the run in time
	ReasonCancel  = "cancelled"          // the next tick has cancelled the run
	ReasonUnsent  = "interrupted"        // who fired it died, and perhaps nobody has heard of it
)

// Outcome is one entry of a schedule's history.
type Outcome struct {
	ID      string    `json:"id,omitempty"`
	Nominal time.Time `json:"nominal"`
	At      time.Time `json:"at"`
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Kind    Kind      `json:"kind,omitempty"`
	// Count is how many ticks in a row it stands for, when there are more than
	// one; Nominal is that of the last of them.
	Count int `json:"count,omitempty"`
}

// Counts are how many ticks there have been of each state.
type Counts struct {
	Fired    uint64            `json:"fired"`
	Finished uint64            `json:"finished"`
	Failed   uint64            `json:"failed"`
	Skipped  map[string]uint64 `json:"skipped,omitempty"` // by reason
}

// maxHistory is how many outcomes a schedule keeps.
const maxHistory = 100

// note adds an outcome.
func (r *record) note(o Outcome) {
	n := uint64(max(o.Count, 1))
	switch o.State {
	case Fired:
		r.Counts.Fired += n
	case Finished:
		r.Counts.Finished += n
	case Failed:
		r.Counts.Failed += n
	case Skipped:
		if r.Counts.Skipped == nil {
			r.Counts.Skipped = map[string]uint64{}
		}
		r.Counts.Skipped[o.Reason] += n
	}
	r.noted = append(r.noted, o)
	r.History = append(r.History, o)
	if over := len(r.History) - maxHistory; over > 0 {
		r.History = append([]Outcome(nil), r.History[over:]...)
	}
}

// dropOld gives up events that were decided on so long ago that nobody can tell
// any more whether they were sent.
func (r *record) dropOld(now time.Time) {
	r.Pending = slices.DeleteFunc(r.Pending, func(p emission) bool {
		if now.Sub(p.Time) < resendFor {
			return false
		}
		tracked := slices.ContainsFunc(r.Running, func(run Run) bool { return run.ID == p.ID })
		r.Running = slices.DeleteFunc(r.Running, func(run Run) bool { return run.ID == p.ID })
		if tracked || r.Spec.Event != "" {
			r.note(Outcome{ID: p.ID, Nominal: p.Nominal, At: now, State: Failed, Reason: ReasonUnsent, Kind: p.Kind})
		}
		return true
	})
}

// encode writes a value as it is stored.
func encode(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // payloads must not grow
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
