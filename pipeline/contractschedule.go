package pipeline

import (
	"encoding/json"
	"time"

	"rpc.do"
)

// The methods for schedules. Trigger and backfill run handlers each time they are
// called, and the second delete finds nothing: these are not declared
// idempotent.
var (
	ScheduleCreate = rpc.NewMethod[ScheduleCreateParams, ScheduleCreateResult]("pipeline.schedule.create", rpc.Idempotent(),
		rpc.Description("Has a handler called, or an event sent, at set times."))
	ScheduleList = rpc.NewMethod[ScheduleListParams, ScheduleListResult]("pipeline.schedule.list", rpc.Idempotent(),
		rpc.Description("Lists schedules."))
	ScheduleGet = rpc.NewMethod[ScheduleName, ScheduleInfo]("pipeline.schedule.get", rpc.Idempotent(),
		rpc.Description("Returns a schedule."))
	SchedulePause = rpc.NewMethod[SchedulePauseParams, ScheduleInfo]("pipeline.schedule.pause", rpc.Idempotent(),
		rpc.Description("Has the ticks of a schedule skipped."))
	ScheduleResume = rpc.NewMethod[ScheduleName, ScheduleInfo]("pipeline.schedule.resume", rpc.Idempotent(),
		rpc.Description("Ends the pause of a schedule."))
	ScheduleTrigger = rpc.NewMethod[ScheduleTriggerParams, ScheduleInfo]("pipeline.schedule.trigger",
		rpc.Description("Has a schedule fire now."))
	ScheduleBackfill = rpc.NewMethod[ScheduleBackfillParams, ScheduleBackfillResult]("pipeline.schedule.backfill", rpc.Timeout(30*time.Second),
		rpc.Description("Has a schedule fire for times that have passed."))
	ScheduleDelete = rpc.NewMethod[ScheduleName, rpc.None]("pipeline.schedule.delete",
		rpc.Description("Deletes a schedule."))
	ScheduleHistory = rpc.NewMethod[ScheduleHistoryParams, ScheduleHistoryResult]("pipeline.schedule.history", rpc.Idempotent(),
		rpc.Description("Tells what became of the last ticks of a schedule."))
	ScheduleNext = rpc.NewMethod[ScheduleNextParams, ScheduleNextResult]("pipeline.schedule.next", rpc.Idempotent(),
		rpc.Description("Lists the ticks of a schedule that come next."))
)

// Duration is a time.Duration that is written as text in JSON, such as "1h30m".
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return rpc.InvalidArgument.Errorf("duration %.40q: want one such as 90s or 1h30m", text)
	}
	*d = Duration(parsed)
	return nil
}

// ScheduleSpec is the definition of a schedule. It has a Cron or an At. What the
// fields mean and may be is said at schedule.Spec.
type ScheduleSpec struct {
	// Name defaults to Handler, which defaults to Name.
	Name    string `json:"name,omitempty"`
	Handler string `json:"handler,omitempty"`
	// Event is sent in place of that which a handler of ticks waits for.
	Event   string          `json:"event,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`

	// Cron is a line such as "0 3 * * 1-5", @daily, or @every and a duration.
	Cron string    `json:"cron,omitempty"`
	At   time.Time `json:"at,omitzero"`
	// Zone is as in "Europe/Berlin". Defaults to UTC.
	Zone   string `json:"timezone,omitempty"`
	Gap    string `json:"gap,omitempty"`    // run-after or skip
	Repeat string `json:"repeat,omitempty"` // once or twice

	Jitter Duration  `json:"jitter,omitempty"`
	Start  time.Time `json:"start,omitzero"`
	End    time.Time `json:"end,omitzero"`
	Runs   int       `json:"runs,omitempty"`

	Overlap       string   `json:"overlap,omitempty"` // skip, buffer-one, buffer-all, allow or cancel
	Catchup       string   `json:"catchup,omitempty"` // latest, all or none
	CatchupWindow Duration `json:"catchupWindow,omitempty"`
	RunTimeout    Duration `json:"runTimeout,omitempty"`
	// Paused has the schedule begin paused, with this note.
	Paused         string `json:"paused,omitempty"`
	PauseOnFailure bool   `json:"pauseOnFailure,omitempty"`
}

// Validate checks what it is called and that it says when; the service checks the
// rest.
func (s ScheduleSpec) Validate() error {
	name := s.Name
	if name == "" {
		name = s.Handler
	}
	switch {
	case name == "" && s.Event != "":
		return notOf("name", "a name: it has no handler to be called after", "none")
	case name == "":
		return notOf("handler", "the name of what handles its ticks", "none")
	case s.Handler != "" && s.Event != "":
		return rpc.InvalidArgument.Errorf("schedule %.80q: it says both event and handler: want one of them", name)
	case s.Cron == "" && s.At.IsZero():
		return rpc.InvalidArgument.Errorf("schedule %.80q: it says neither cron nor at", name)
	case s.Cron != "" && !s.At.IsZero():
		return rpc.InvalidArgument.Errorf("schedule %.80q: it says both cron and at: want one of them", name)
	}
	if err := tokens("name", s.Name, "handler", s.Handler); err != nil {
		return err
	}
	if err := rpc.ValidateEvent(s.Event); s.Event != "" && err != nil {
		return inField("event", err)
	}
	return inOrder("start", s.Start, "end", s.End)
}

// ScheduleCreateParams are the params of ScheduleCreate. Made again with the same
// definition a schedule is as it was; with another it is AlreadyExists, unless
// Replace says to change it.
type ScheduleCreateParams struct {
	ScheduleSpec
	Replace bool `json:"replace,omitempty"`
}

// ScheduleCreateResult says when the schedule ticks first.
type ScheduleCreateResult struct {
	Name string    `json:"name"`
	Next time.Time `json:"next,omitzero"`
}

// ScheduleName says which schedule.
type ScheduleName struct {
	Name string `json:"name"`
}

// Validate checks the name.
func (p ScheduleName) Validate() error { return nameIn("name", p.Name) }

// ScheduleListParams are the params of ScheduleList: all schedules, or those whose
// names begin with Prefix, and whose ticks Handler handles.
type ScheduleListParams struct {
	Prefix  string `json:"prefix,omitempty"`
	Handler string `json:"handler,omitempty"`
	// After is the Next of the page before.
	After string `json:"after,omitempty"`
	// Limit is at most MaxListed. Defaults to 100.
	Limit int `json:"limit,omitempty"`
}

// Validate checks all.
func (p ScheduleListParams) Validate() error {
	if err := tokens("prefix", p.Prefix, "handler", p.Handler, "after", p.After); err != nil {
		return err
	}
	return inRange("limit", p.Limit)
}

// ScheduleListResult is one page, by name. Next is empty when it is the last.
type ScheduleListResult struct {
	Schedules []ScheduleInfo `json:"schedules"`
	Next      string         `json:"next,omitempty"`
}

// ScheduleInfo is what there is to know of a schedule.
type ScheduleInfo struct {
	Spec    ScheduleSpec `json:"spec"`
	Created time.Time    `json:"created"`
	Updated time.Time    `json:"updated"`
	// Next is the nominal time of the next tick, zero when there is none.
	Next   time.Time       `json:"next,omitzero"`
	Paused *SchedulePaused `json:"paused,omitempty"`
	// Left is how many more times it fires, when Spec.Runs bounds that.
	Left    int           `json:"left,omitempty"`
	Running []ScheduleRun `json:"running,omitempty"`
	// Waiting counts the ticks that wait for the run before them.
	Waiting int            `json:"waiting,omitempty"`
	Last    *ScheduleRun   `json:"last,omitempty"`
	Counts  ScheduleCounts `json:"counts"`
}

// SchedulePaused says that the ticks of a schedule are skipped.
type SchedulePaused struct {
	Note  string    `json:"note,omitempty"`
	Since time.Time `json:"since"`
}

// ScheduleRun is one run of the handler of a schedule.
type ScheduleRun struct {
	ID      string    `json:"id"`
	Nominal time.Time `json:"nominal"`
	Fired   time.Time `json:"fired"`
	// Until is when it counts as failed that nothing was heard of.
	Until time.Time `json:"until,omitzero"`
	// Ended is zero while it runs. State then says how: finished or failed.
	Ended time.Time `json:"ended,omitzero"`
	State string    `json:"state,omitempty"`
}

// ScheduleCounts are how many ticks there have been of each state.
type ScheduleCounts struct {
	Fired    uint64            `json:"fired"`
	Finished uint64            `json:"finished"`
	Failed   uint64            `json:"failed"`
	Skipped  map[string]uint64 `json:"skipped,omitempty"` // by reason
}

// SchedulePauseParams are the params of SchedulePause. Note says why, in at most
// 1,000 bytes.
type SchedulePauseParams struct {
	Name string `json:"name"`
	Note string `json:"note,omitempty"`
}

// Validate checks the name.
func (p SchedulePauseParams) Validate() error { return nameIn("name", p.Name) }

// ScheduleTriggerParams are the params of ScheduleTrigger. Payload takes the place
// of the schedule's. Null is none.
type ScheduleTriggerParams struct {
	Name    string          `json:"name"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Validate checks the name.
func (p ScheduleTriggerParams) Validate() error { return nameIn("name", p.Name) }

// ScheduleBackfillParams are the params of ScheduleBackfill: the ticks that the
// calendar has from one time until another, both included.
type ScheduleBackfillParams struct {
	Name  string    `json:"name"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// Validate checks the name, and that there are times.
func (p ScheduleBackfillParams) Validate() error {
	if err := nameIn("name", p.Name); err != nil {
		return err
	}
	switch {
	case p.From.IsZero():
		return notOf("from", "a time", "none")
	case p.Until.IsZero():
		return notOf("until", "a time", "none")
	}
	return nil
}

// ScheduleBackfillResult says how many ticks fire.
type ScheduleBackfillResult struct {
	Ticks int `json:"ticks"`
}

// ScheduleHistoryParams are the params of ScheduleHistory.
type ScheduleHistoryParams struct {
	Name string `json:"name"`
	// Limit is at most MaxListed. Defaults to all there are, which are 100 at most.
	Limit int `json:"limit,omitempty"`
}

// Validate checks all.
func (p ScheduleHistoryParams) Validate() error {
	if err := nameIn("name", p.Name); err != nil {
		return err
	}
	return inRange("limit", p.Limit)
}

// ScheduleHistoryResult has what became of ticks, the newest first.
type ScheduleHistoryResult struct {
	Outcomes []ScheduleOutcome `json:"outcomes"`
}

// ScheduleOutcome is what became of a tick: it has fired, finished, failed, or was
// skipped, and why.
type ScheduleOutcome struct {
	ID      string    `json:"id,omitempty"`
	Nominal time.Time `json:"nominal"`
	At      time.Time `json:"at"`
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	// Kind is trigger, backfill, or empty for a tick of the calendar.
	Kind string `json:"kind,omitempty"`
	// Count is how many ticks in a row it stands for, when there are more than one;
	// Nominal is that of the last of them.
	Count int `json:"count,omitempty"`
}

// ScheduleNextParams are the params of ScheduleNext.
type ScheduleNextParams struct {
	Name string `json:"name"`
	// Limit is at most MaxListed. Defaults to 10.
	Limit int `json:"limit,omitempty"`
}

// Validate checks all.
func (p ScheduleNextParams) Validate() error {
	if err := nameIn("name", p.Name); err != nil {
		return err
	}
	return inRange("limit", p.Limit)
}

// ScheduleNextResult has the ticks, in their order.
type ScheduleNextResult struct {
	Ticks []ScheduleTick `json:"ticks"`
}

// ScheduleTick is a tick that comes: at Nominal the calendar has it, at Fires it
// fires, with jitter.
type ScheduleTick struct {
	Nominal time.Time `json:"nominal"`
	Fires   time.Time `json:"fires"`
	// Wall is what the clock in the schedule's zone shows, and Note what is unusual
	// about it.
	Wall string `json:"wall"`
	Note string `json:"note,omitempty"`
}
