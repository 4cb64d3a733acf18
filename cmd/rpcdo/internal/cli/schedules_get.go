package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/schedule"
)

func (a *app) schedulesGet() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "get <name> [flags]",
		Short: "Show a schedule: its definition, its state and its runs",
		Long: `Shows all that there is to know of a schedule: its definition, when it ticks
next, whether it is paused, which runs go on and how many ticks wait for them,
how the last run has ended, and how many ticks have fired, finished, failed and
been skipped.`,
		Example: "  rpcdo schedules get nightly\n  rpcdo schedules get nightly --json",
		Args:    oneSchedule,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runScheduleGet(cmd.Context(), f, args[0]) },
	}
	f.register(cmd)
	return cmd
}

func (a *app) runScheduleGet(ctx context.Context, f *connection, name string) error {
	return a.withSchedules(ctx, f, func(all *schedule.Schedules) error {
		info, err := all.Get(ctx, name)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(info)
		}
		outcomes, err := all.History(ctx, name)
		if err != nil {
			return err
		}
		return a.printTable(func(w *tabwriter.Writer) { printSchedule(w, &info, outcomes, time.Now()) })
	})
}

// printSchedule writes a schedule for people. Columns are separated by tabs.
func printSchedule(w *tabwriter.Writer, i *schedule.Info, outcomes []schedule.Outcome, now time.Time) {
	s := &i.Spec
	fmt.Fprintln(w, plain(s.Name))
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %s\t%s\n", name, plain(fmt.Sprintf(format, args...)))
	}
	every := strings.Contains(s.Cron, "@every")
	switch {
	case s.Cron == "":
		row("when", "once, %s", shownWhen(s))
	case every && s.Start.IsZero():
		row("when", "%s, counted from %s", s.Cron, shownTick(i.Created, s))
	default:
		row("when", "%s in %s", s.Cron, zoneOf(s))
	}
	if s.Cron != "" && !every && zoneOf(s) != "UTC" {
		row("clocks", "a time that they skip: %s; that they show twice: %s", s.Gap, s.Repeat)
	}
	printBounds(row, s)
	switch {
	case i.Next.IsZero():
		row("next", "none")
	case i.Next.Before(now):
		row("next", "%s, %s ago", shownTick(i.Next, s), shownAge(now.Sub(i.Next)))
	default:
		row("next", "%s, in %s", shownTick(i.Next, s), shownAge(i.Next.Sub(now)))
	}
	if s.Event != "" {
		row("sends", "the event %s", s.Event)
	} else {
		row("handler", "%s", s.Handler)
		row("overlap", "%s; a run has failed after %s", s.Overlap, shownAge(time.Duration(s.RunTimeout)))
	}
	if s.Catchup == schedule.CatchupNone {
		row("catch-up", "%s", s.Catchup)
	} else {
		row("catch-up", "%s, at most %s late", s.Catchup, shownAge(time.Duration(s.CatchupWindow)))
	}
	if len(s.Payload) > 0 {
		row("payload", "%s", compactJSON(s.Payload))
	}
	if i.Paused != nil {
		note := ""
		if i.Paused.Note != "" {
			note = ": " + oneLine(i.Paused.Note)
		}
		row("paused", "since %s%s", shownTime(i.Paused.Since), note)
	}
	for _, r := range i.Running {
		row("running", "%s, since %s, until %s at most", r.ID, shownTime(r.Fired), shownTime(r.Until))
	}
	if i.Waiting > 0 {
		row("waiting", "%s for the run before", ticks(i.Waiting))
	}
	if i.Last != nil {
		row("last", "%s, %s %s%s", i.Last.ID, i.Last.State, shownTime(i.Last.Ended), reasonOf(i.Last, outcomes))
	}
	row("ticks", "%s", shownCounts(&i.Counts))
	row("created", "%s", shownTime(i.Created))
}

// printBounds writes what bounds the ticks of a definition.
func printBounds(row func(name, format string, args ...any), s *schedule.Spec) {
	if s.Jitter > 0 {
		row("jitter", "up to %s", shownAge(time.Duration(s.Jitter)))
	}
	if !s.Start.IsZero() {
		row("start", "%s", shownTick(s.Start, s))
	}
	if !s.End.IsZero() {
		row("end", "%s", shownTick(s.End, s))
	}
	if s.Runs > 0 {
		row("runs", "%d at most", s.Runs)
	}
	if s.PauseOnFailure {
		row("failure", "pauses it")
	}
}

// reasonOf returns why a run has failed, as far as that is still known.
func reasonOf(r *schedule.Run, outcomes []schedule.Outcome) string {
	for _, o := range outcomes {
		if o.ID == r.ID && o.State == r.State && o.Reason != "" {
			return ": " + oneLine(o.Reason)
		}
	}
	return ""
}

func shownCounts(c *schedule.Counts) string {
	text := fmt.Sprintf("%d fired, %d finished, %d failed", c.Fired, c.Finished, c.Failed)
	total := uint64(0)
	var why []string
	for _, reason := range slices.Sorted(maps.Keys(c.Skipped)) {
		total += c.Skipped[reason]
		why = append(why, fmt.Sprintf("%s %d", reason, c.Skipped[reason]))
	}
	text += fmt.Sprintf(", %d skipped", total)
	if len(why) > 0 {
		text += " (" + strings.Join(why, ", ") + ")"
	}
	return text
}

// ticks writes a number of them.
func ticks(n int) string {
	if n == 1 {
		return "1 tick"
	}
	return fmt.Sprintf("%d ticks", n)
}
