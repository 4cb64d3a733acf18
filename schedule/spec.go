package schedule

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rpc.do"
	"rpc.do/schedule/internal/calendar"
)

// Spec is the definition of a schedule. It has a Cron or an At.
type Spec struct {
	// Name is one token of letters, digits, _ and -, at most 64 bytes.
	Name string `json:"name"`

	// Cron says when: a cron line of five fields, or of six with seconds first, a
	// descriptor such as @daily, or @every and a duration. CRON_TZ=<zone> before
	// it does what Zone does.
	Cron string `json:"cron,omitempty"`
	// At is the one time at which a schedule without a Cron ticks.
	At time.Time `json:"at,omitzero"`
	// Zone is the time zone of the cron line, as the IANA database names it.
	// Defaults to that in the cron line, or to UTC.
	Zone string `json:"timezone,omitempty"`
	// Gap says what becomes of a tick at a time that the clocks skip: "run-after",
	// the default, or "skip".
	Gap string `json:"gap,omitempty"`
	// Repeat says how often a tick runs at a time that the clocks show twice:
	// "once", the default, or "twice".
	Repeat string `json:"repeat,omitempty"`

	// Handler is the name of the function that handles the ticks, see Handle: like
	// Name, but at most 55 bytes. Defaults to Name.
	Handler string `json:"handler,omitempty"`
	// Event is sent in place of that which Handle waits for. Nobody says how it
	// ends then: ticks have fired, and Overlap and RunTimeout mean nothing.
	Event string `json:"event,omitempty"`
	// Payload goes with every tick, as JSON; with Event it is the event's data.
	Payload json.RawMessage `json:"payload,omitempty"`

	// Jitter delays each tick by up to that much, always the same for the same
	// tick.
	Jitter Duration `json:"jitter,omitempty"`
	// Start and End bound the nominal times: not before Start, not after End.
	Start time.Time `json:"start,omitzero"`
	End   time.Time `json:"end,omitzero"`
	// Runs is how often it fires, triggers and backfills not counted; 0 is without
	// end.
	Runs int `json:"runs,omitempty"`

	// Overlap says what to do when the last run has not finished: "skip", the
	// default, "buffer-one", "buffer-all" (at most 1,000), "allow" or "cancel"
	// (the one that runs).
	Overlap string `json:"overlap,omitempty"`
	// Catchup says which ticks to make up for that were missed because nobody was
	// there: "latest", the default, "all" or "none".
	Catchup string `json:"catchup,omitempty"`
	// CatchupWindow is how late a tick may be made up for. Defaults to 1 hour.
	CatchupWindow Duration `json:"catchupWindow,omitempty"`
	// RunTimeout is when a run counts as failed that nothing is heard of. Defaults
	// to 1 hour.
	RunTimeout Duration `json:"runTimeout,omitempty"`
	// Paused has the schedule begin paused, with this as the note: see Pause. Once it
	// is there, a pause is what Pause and Resume have made of it.
	Paused string `json:"paused,omitempty"`
	// PauseOnFailure pauses the schedule when a run fails.
	PauseOnFailure bool `json:"pauseOnFailure,omitempty"`
}

// Duration is a time.Duration that is written as text in JSON, such as "1h30m".
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %.40q: want one such as 90s or 1h30m", text)
	}
	*d = Duration(parsed)
	return nil
}

// Policies, as they are written in a Spec.
const (
	GapRunAfter = "run-after"
	GapSkip     = "skip"

	RepeatOnce  = "once"
	RepeatTwice = "twice"

	OverlapSkip      = "skip"
	OverlapBufferOne = "buffer-one"
	OverlapBufferAll = "buffer-all"
	OverlapAllow     = "allow"
	OverlapCancel    = "cancel"

	CatchupLatest = "latest"
	CatchupAll    = "all"
	CatchupNone   = "none"
)

const (
	defaultWindow     = Duration(time.Hour)
	defaultRunTimeout = Duration(time.Hour)
	maxDuration       = Duration(366 * 24 * time.Hour)
	maxPayload        = 256 << 10
	maxRuns           = 1 << 30
	maxNote           = 1000
)

// withDefaults fills in what is not said.
func (s Spec) withDefaults() Spec {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	if s.Event == "" {
		set(&s.Handler, s.Name)
	}
	if !strings.Contains(s.Cron, "TZ=") { // the zone is said there
		set(&s.Zone, "UTC")
	}
	set(&s.Gap, GapRunAfter)
	set(&s.Repeat, RepeatOnce)
	set(&s.Overlap, OverlapSkip)
	set(&s.Catchup, CatchupLatest)
	if s.CatchupWindow == 0 {
		s.CatchupWindow = defaultWindow
	}
	if s.RunTimeout == 0 {
		s.RunTimeout = defaultRunTimeout
	}
	for _, t := range []*time.Time{&s.At, &s.Start, &s.End} {
		if !t.IsZero() {
			*t = t.UTC().Round(0)
		}
	}
	return s
}

// check says what is wrong with a definition, defaults filled in. Created is what
// intervals are counted from when there is no Start.
func (s *Spec) check(created time.Time) (calendar.Calendar, error) {
	var none calendar.Calendar
	wrong := func(format string, args ...any) (calendar.Calendar, error) {
		return none, rpc.InvalidArgument.Errorf("schedule %.80q: %w", s.Name, fmt.Errorf(format, args...))
	}
	if err := validName(s.Name); err != nil {
		return none, err
	}
	switch {
	case s.Cron == "" && s.At.IsZero():
		return wrong("it says neither cron nor at")
	case s.Cron != "" && !s.At.IsZero():
		return wrong("it says both cron and at: want one of them")
	case s.Event != "" && s.Handler != "":
		return wrong("it says both event and handler: want one of them")
	case len(s.Payload) > maxPayload:
		return wrong("the payload has %d bytes, at most %d are allowed", len(s.Payload), maxPayload)
	case len(s.Payload) > 0 && !json.Valid(s.Payload):
		return wrong("the payload is not JSON")
	case !s.Start.IsZero() && !s.End.IsZero() && !s.Start.Before(s.End):
		return wrong("its end %v is not after its start %v", s.End, s.Start)
	case len(s.Paused) > maxNote:
		return wrong("the note of its pause has %d bytes, at most %d are allowed", len(s.Paused), maxNote)
	case s.Runs < 0 || s.Runs > maxRuns:
		return wrong("runs %d: want 1 or more, or 0 for no end", s.Runs)
	}
	if s.Event != "" {
		if err := rpc.ValidateEvent(s.Event); err != nil {
			return wrong("%w", err)
		}
	} else if err := validHandler(s.Handler); err != nil {
		return wrong("the handler: %w", err)
	}
	for _, f := range []struct {
		name, value string
		allowed     []string
	}{
		{"gap", s.Gap, []string{GapRunAfter, GapSkip}},
		{"repeat", s.Repeat, []string{RepeatOnce, RepeatTwice}},
		{"overlap", s.Overlap, []string{OverlapSkip, OverlapBufferOne, OverlapBufferAll, OverlapAllow, OverlapCancel}},
		{"catchup", s.Catchup, []string{CatchupLatest, CatchupAll, CatchupNone}},
	} {
		if !slices.Contains(f.allowed, f.value) {
			return wrong("%s %.40q: want %s", f.name, f.value, strings.Join(f.allowed, ", "))
		}
	}
	for _, d := range []struct {
		name  string
		value Duration
		least Duration
	}{{"jitter", s.Jitter, 0}, {"catchupWindow", s.CatchupWindow, Duration(time.Second)}, {"runTimeout", s.RunTimeout, Duration(time.Second)}} {
		if d.value < d.least || d.value > maxDuration {
			return wrong("%s %v: want %v to %v", d.name, time.Duration(d.value), time.Duration(d.least), time.Duration(maxDuration))
		}
	}
	cal, err := s.calendar(created)
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return wrong("%s", e.Message) // it has the code already
	} else if err != nil {
		return wrong("%w", err)
	}
	return cal, nil
}

// calendar says when the schedule ticks, Start, End and Runs apart.
func (s *Spec) calendar(created time.Time) (calendar.Calendar, error) {
	anchor := created
	if !s.Start.IsZero() {
		anchor = s.Start
	}
	o := calendar.Options{Zone: s.Zone, Gap: calendar.GapPolicy(s.Gap), Repeat: calendar.RepeatPolicy(s.Repeat), Anchor: anchor}
	if s.Cron == "" {
		return calendar.At(s.At, o)
	}
	return calendar.Parse(s.Cron, o)
}

func validName(name string) error {
	if err := rpc.ValidateService(name); err != nil {
		return rpc.InvalidArgument.Errorf("%s", strings.Replace(err.Error(), "service name", "schedule", 1))
	}
	return nil
}

// handlerPrefix is what the event handler of a handler is called, with its name
// behind.
const handlerPrefix = "schedule-"

// validHandler checks the name of a handler, which leaves room for handlerPrefix.
func validHandler(name string) error {
	if err := rpc.ValidateService(name); err != nil {
		return err
	}
	if most := rpc.MaxServiceName - len(handlerPrefix); len(name) > most {
		return fmt.Errorf("service name %.80q: %d bytes are too long, at most %d are allowed for what handles ticks", name, len(name), most)
	}
	return nil
}

// tracked reports whether somebody says how its runs end.
func (s *Spec) tracked() bool { return s.Event == "" }

// EventPrefix is what the event of a schedule with a handler begins with.
const EventPrefix = "Schedule.fired."

// event is the name of what a tick sends.
func (s *Spec) event() string {
	if s.Event != "" {
		return s.Event
	}
	return EventPrefix + s.Handler
}
