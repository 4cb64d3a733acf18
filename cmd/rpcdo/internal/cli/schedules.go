package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/schedule"
)

func (a *app) schedules() *cobra.Command {
	return group(&cobra.Command{
		Use:   "schedules",
		Short: "Have things done at set times, and look at what becomes of them",
		Long: `Makes schedules, shows when they tick and what became of that, and has them fire
by hand. A schedule has a name and a cron line, an interval or a time; its ticks
go to a handler in some service, or send an event.

A tick waits on the bus and fires there. Somebody has to take it: a service that
has schedules, or the pipeline service, which "rpcdo dev" runs.

A time is one like 2026-11-29T15:04:05Z or "2026-11-29 15:04", or says how far
ahead it is, or for backfill how long ago: 90m, 12h, 7d.`,
		Example: `  rpcdo schedules create nightly '0 3 * * *' --timezone Europe/Berlin
  rpcdo schedules next nightly
  rpcdo schedules ls`,
		GroupID: groupCall,
	}, a.schedulesCreate(), a.schedulesList(), a.schedulesGet(), a.schedulesNext(), a.schedulesHistory(), a.schedulesPause(), a.schedulesResume(),
		a.schedulesTrigger(), a.schedulesBackfill(), a.schedulesRemove())
}

// withSchedules opens the schedules of a bus for as long as do runs.
func (a *app) withSchedules(ctx context.Context, f *connection, do func(*schedule.Schedules) error) (err error) {
	b, err := f.open(ctx, a, nil, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return f.noSchedule(do(schedule.Open(b)))
}

// noSchedule says where to look when there is no such schedule.
func (f *connection) noSchedule(err error) error {
	if e, ok := errors.AsType[*rpc.Error](err); ok && e.Code == rpc.NotFound {
		return failf(rpc.NotFound, "%s on %s: `rpcdo schedules ls` lists them", e.Message, f.where())
	}
	return err
}

// checkSchedule checks a schedule's name.
func checkSchedule(name string) error {
	if err := rpc.ValidateService(name); err != nil {
		return errors.New(strings.Replace(err.Error(), "service name", "schedule", 1))
	}
	return nil
}

// oneSchedule wants the name of a schedule.
func oneSchedule(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return errors.New("which schedule? want its name, such as nightly")
	case len(args) > 1:
		return fmt.Errorf("%d arguments: want the name of one schedule", len(args))
	}
	return checkSchedule(args[0])
}

// zoneOf returns the name of the zone whose clock counts for a schedule.
func zoneOf(s *schedule.Spec) string {
	if zone := zoneIn(s.Cron); zone != "" {
		return zone
	}
	if s.Zone == "" {
		return "UTC"
	}
	return s.Zone
}

// zoneIn returns the zone that a cron line begins with.
func zoneIn(cron string) string {
	word, _, _ := strings.Cut(strings.TrimSpace(cron), " ")
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		if zone, ok := strings.CutPrefix(word, prefix); ok {
			return zone
		}
	}
	return ""
}

// inZone returns a time in the zone of a schedule.
func inZone(t time.Time, s *schedule.Spec) time.Time {
	zone, err := time.LoadLocation(zoneOf(s))
	if err != nil { // one that this machine does not know
		return t.UTC()
	}
	return t.In(zone)
}

// scheduleTime is how a tick's time is written for people.
const scheduleTime = "Mon 2006-01-02 15:04:05 -07:00"

// shownTick writes a time of a schedule for people.
func shownTick(t time.Time, s *schedule.Spec) string {
	if t.IsZero() {
		return "-"
	}
	return inZone(t, s).Format(scheduleTime)
}

// shownWhen writes for people when a schedule ticks.
func shownWhen(s *schedule.Spec) string {
	if s.Cron == "" {
		return "at " + shownTick(s.At, s)
	}
	return plain(s.Cron)
}
