package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/schedule"
)

type scheduleTriggerFlags struct {
	connection
	payload string
}

func (a *app) schedulesTrigger() *cobra.Command {
	f := &scheduleTriggerFlags{}
	cmd := &cobra.Command{
		Use:   "trigger <name> [flags]",
		Short: "Have a schedule fire now",
		Long: `Has a schedule fire now, apart from its calendar, also when it is paused. The
overlap policy holds: with "skip" nothing fires while a run goes on, and the
exit status is 1; with a buffer it waits.`,
		Example: "  rpcdo schedules trigger nightly\n  rpcdo schedules trigger nightly --payload '{\"dry\":true}'",
		Args:    oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			var payload json.RawMessage
			if cmd.Flags().Changed("payload") {
				var err error
				if payload, err = a.readJSON(cmd.Context(), "--payload", []string{f.payload}); err != nil {
					return err
				}
			}
			return a.runTrigger(cmd.Context(), f, args[0], payload)
		},
	}
	cmd.Flags().StringVar(&f.payload, "payload", "", "`JSON` in place of the schedule's payload, or - for stdin")
	f.register(cmd)
	return cmd
}

func (a *app) runTrigger(ctx context.Context, f *scheduleTriggerFlags, name string, payload json.RawMessage) error {
	return a.withSchedules(ctx, &f.connection, func(all *schedule.Schedules) error {
		began := time.Now().Add(-time.Millisecond)
		info, err := all.Trigger(ctx, name, payload)
		if err != nil {
			return asUsage(err)
		}
		outcomes, err := all.History(ctx, name)
		if err != nil {
			return err
		}
		for _, o := range outcomes {
			if o.Kind != schedule.KindTrigger || o.Nominal.Before(began) {
				continue
			}
			if o.State == schedule.Skipped {
				return failf(rpc.FailedPrecondition, "%s has not fired: %s: a run goes on; `rpcdo schedules get %[1]s` shows it", name, shownReason(&o))
			}
			return a.printTriggered(&info, "triggered "+name+", "+plain(o.ID))
		}
		return a.printTriggered(&info, fmt.Sprintf("triggered %s: it waits for the run before, with %s", name, ticks(info.Waiting)))
	})
}

func (a *app) printTriggered(info *schedule.Info, text string) error {
	if a.json {
		return a.printJSON(info)
	}
	_, err := fmt.Fprintln(a.env.Out, text)
	return err
}

func (a *app) schedulesBackfill() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "backfill <name> <from> <until> [flags]",
		Short: "Have a schedule fire for times that have passed",
		Long: `Has the ticks fire that the calendar has from one time to another, both
included, whether they have fired before or not. They come one after the other
if runs of the schedule may not overlap, and wait while it is paused. More than
1000 are refused.

A time is one like 2026-11-29T15:04:05Z or "2026-11-29 15:04", which is that of
this machine's clock, or says how long ago: 90m, 7d; 0s is now.`,
		Example: `  rpcdo schedules backfill nightly 7d 0s
  rpcdo schedules backfill nightly 2025-11-01T00:00:00Z 2025-11-07T23:59:59Z`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return errors.New("want a name and two times, such as nightly 7d 0s; put a time with a space in quotes")
			}
			return checkSchedule(args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.runBackfill(cmd.Context(), f, args) },
	}
	f.register(cmd)
	return cmd
}

// backfilled is what was filled in, for programs.
type backfilled struct {
	Name  string    `json:"name"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	Ticks int       `json:"ticks"`
}

func (a *app) runBackfill(ctx context.Context, f *connection, args []string) error {
	now := time.Now()
	done := backfilled{Name: args[0]}
	for i, t := range []*time.Time{&done.From, &done.Until} {
		age, err := parseAge(args[i+1])
		ok := err == nil && age >= 0
		if *t = now.Add(-age); !ok {
			*t, ok = clockTime(args[i+1], time.Local)
		}
		if !ok {
			return usagef("%.80q: want a time, such as 2026-11-29T15:04:05Z or \"2026-11-29 15:04\", or how long ago, such as 90m or 7d", args[i+1])
		}
	}
	switch {
	case done.Until.Before(done.From):
		return usagef("%s is before %s: want the earlier time first", args[2], args[1])
	case done.Until.After(now):
		return usagef("%s is yet to come: what is filled in has passed", args[2])
	}
	return a.withSchedules(ctx, f, func(all *schedule.Schedules) error {
		var err error
		if done.Ticks, err = all.Backfill(ctx, done.Name, done.From, done.Until); err != nil {
			return asUsage(err)
		}
		if a.json {
			return a.printJSON(done)
		}
		if done.Ticks == 0 {
			a.note("rpcdo: %s has no ticks from %s to %s", done.Name, shownTime(done.From), shownTime(done.Until))
			return nil
		}
		_, err = fmt.Fprintf(a.env.Out, "filled in %s of %s from %s to %s\n", ticks(done.Ticks), done.Name, shownTime(done.From), shownTime(done.Until))
		return err
	})
}
