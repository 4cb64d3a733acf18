package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/schedule"
)

// calendarFlags are those that say when a schedule ticks.
type calendarFlags struct {
	zone, gap, repeat, start, end string
	runs                          int
	said                          func(flag string) bool
}

func (f *calendarFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.zone, "timezone", "", "IANA `ZONE` whose clock counts, such as Europe/Berlin (default UTC)")
	flags.StringVar(&f.gap, "gap", "", "what to do at a time that the clocks skip: run-after or skip (default run-after)")
	flags.StringVar(&f.repeat, "repeat", "", "how often to tick at a time that the clocks show twice: once or twice (default once)")
	flags.StringVar(&f.start, "start", "", "no ticks before this `TIME`; what @every counts from")
	flags.StringVar(&f.end, "end", "", "no ticks after this `TIME`")
	flags.IntVar(&f.runs, "runs", 0, "how often it fires, triggers and backfills not counted")
	flags.Lookup("runs").DefValue = "" // without end
	complete(cmd, "gap", schedule.GapRunAfter, schedule.GapSkip)
	complete(cmd, "repeat", schedule.RepeatOnce, schedule.RepeatTwice)
}

// fill has a definition say what the flags do.
func (f *calendarFlags) fill(s *schedule.Spec, now time.Time) error {
	if f.said("runs") && f.runs < 1 {
		return usagef("--runs %d: want 1 or more", f.runs)
	}
	s.Zone, s.Gap, s.Repeat, s.Runs = f.zone, f.gap, f.repeat, f.runs
	var err error
	if s.Start, err = f.time("start", f.start, now); err != nil {
		return err
	}
	s.End, err = f.time("end", f.end, now)
	return err
}

// time reads a flag that is a point in time, in the schedule's zone when there is
// one, and in that of this machine else.
func (f *calendarFlags) time(flag, text string, now time.Time) (time.Time, error) {
	if !f.said(flag) {
		return time.Time{}, nil
	}
	zone := time.Local
	if f.zone != "" {
		if named, err := time.LoadLocation(f.zone); err == nil { // a wrong one is told of elsewhere
			zone = named
		}
	}
	return ahead(flag, text, now, zone)
}

// definitionFlags are all that define a schedule.
type definitionFlags struct {
	calendarFlags
	at, handler, event, payload, overlap, catchup string
	jitter, window, runTimeout                    string
	paused                                        string
	pauseOnFailure                                bool
}

func (f *definitionFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.at, "at", "", "the one `TIME` at which it ticks, in place of a cron line")
	flags.StringVar(&f.handler, "handler", "", "`NAME` of the handler of its ticks (default the schedule's)")
	flags.StringVar(&f.event, "event", "", "`TYPE` of an event to send, in place of having a handler")
	flags.StringVar(&f.payload, "payload", "", "`JSON` that goes with every tick, or - for stdin; the data of an event")
	flags.StringVar(&f.jitter, "jitter", "", "delay each tick by up to this `TIME`, such as 30s")
	flags.StringVar(&f.overlap, "overlap", "", "when the last run has not finished: skip, buffer-one, buffer-all, allow or cancel (default skip)")
	flags.StringVar(&f.catchup, "catchup", "", "which ticks to make up for that were missed: latest, all or none (default latest)")
	flags.StringVar(&f.window, "catchup-window", "", "`TIME` that a tick may be late and is made up for (default 1h)")
	flags.StringVar(&f.runTimeout, "run-timeout", "", "`TIME` after which a run has failed that nothing was heard of (default 1h)")
	flags.StringVar(&f.paused, "paused", "", "begin paused, with this `NOTE`, until it is resumed")
	flags.BoolVar(&f.pauseOnFailure, "pause-on-failure", false, "pause the schedule when a run fails")
	complete(cmd, "overlap", schedule.OverlapSkip, schedule.OverlapBufferOne, schedule.OverlapBufferAll, schedule.OverlapAllow, schedule.OverlapCancel)
	complete(cmd, "catchup", schedule.CatchupLatest, schedule.CatchupAll, schedule.CatchupNone)
	f.calendarFlags.register(cmd)
}

// spec returns the definition that a command line has, and says what is wrong with
// it.
func (f *definitionFlags) spec(ctx context.Context, a *app, args []string) (schedule.Spec, error) {
	s := schedule.Spec{Name: args[0], Handler: f.handler, Event: f.event, Overlap: f.overlap, Catchup: f.catchup, Paused: f.paused, PauseOnFailure: f.pauseOnFailure}
	if len(args) > 1 {
		s.Cron = args[1]
	}
	now := time.Now()
	if err := f.fill(&s, now); err != nil {
		return s, err
	}
	var err error
	if s.At, err = f.time("at", f.at, now); err != nil {
		return s, err
	}
	for _, d := range []struct {
		flag, text string
		value      *schedule.Duration
	}{{"jitter", f.jitter, &s.Jitter}, {"catchup-window", f.window, &s.CatchupWindow}, {"run-timeout", f.runTimeout, &s.RunTimeout}} {
		if !f.said(d.flag) {
			continue
		}
		value, err := parseAge(d.text)
		if err != nil || value <= 0 {
			return s, usagef("--%s %.80q: want a time with its unit, such as 30s, 5m or 2d", d.flag, d.text)
		}
		*d.value = schedule.Duration(value)
	}
	if f.event != "" && (f.said("overlap") || f.said("run-timeout") || f.pauseOnFailure) {
		return s, usagef("--overlap, --run-timeout and --pause-on-failure are for handlers: nobody says how what an --event leads to ends")
	}
	if f.said("payload") {
		if s.Payload, err = a.readJSON(ctx, "--payload", []string{f.payload}); err != nil {
			return s, err
		}
	}
	_, err = schedule.Preview(s, 1)
	return s, asDefinition(err)
}

// asDefinition makes what the library says of a definition a wrong command line, in
// terms of flags.
func asDefinition(err error) error {
	e, ok := errors.AsType[*rpc.Error](err)
	if !ok || e.Code != rpc.InvalidArgument || e.Remote() {
		return err
	}
	text := e.Message
	if rest, ok := strings.CutPrefix(text, "schedule "); ok { // its name, which the user knows
		if _, rest, ok := strings.Cut(rest, `": `); ok {
			text = rest
		}
	}
	for _, word := range []struct{ library, here string }{
		{"schedule ", "cron line "}, {"@at ", "--at "}, {"gap ", "--gap "}, {"repeat ", "--repeat "}, {"runs ", "--runs "}, {"overlap ", "--overlap "},
		{"catchup ", "--catchup "}, {"catchupWindow ", "--catchup-window "}, {"runTimeout ", "--run-timeout "}, {"jitter ", "--jitter "},
		{"event name ", "--event "}, {"the handler: service name ", "--handler "}, {"the payload ", "--payload: it "}, {"its end ", "--end "},
		{"it says both event and handler", "--event and --handler"},
	} {
		if rest, ok := strings.CutPrefix(text, word.library); ok {
			return usagef("%s%s", word.here, rest)
		}
	}
	return usagef("%s", text)
}
