package cli

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"rpc.do/schedule"
)

type scheduleHistoryFlags struct {
	connection
	limit int
}

func (a *app) schedulesHistory() *cobra.Command {
	f := &scheduleHistoryFlags{}
	cmd := &cobra.Command{
		Use:   "history <name> [flags]",
		Short: "Show what became of the last ticks of a schedule",
		Long: `Shows what became of the last ticks, the newest first: each has fired, its run
has finished or failed, or it was skipped, with the reason. The time of the tick
is in the schedule's zone. Ticks in a row that were skipped for one reason are
one line, with their number; the time is that of the last of them.

A schedule keeps its last 100 outcomes.`,
		Example: "  rpcdo schedules history nightly\n  rpcdo schedules history nightly --limit 5 --json",
		Args:    oneSchedule,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runScheduleHistory(cmd.Context(), f, args[0]) },
	}
	cmd.Flags().IntVar(&f.limit, "limit", 100, "how many outcomes to show")
	f.register(cmd)
	return cmd
}

func (a *app) runScheduleHistory(ctx context.Context, f *scheduleHistoryFlags, name string) error {
	if f.limit < 1 {
		return usagef("--limit %d: want 1 or more", f.limit)
	}
	return a.withSchedules(ctx, &f.connection, func(all *schedule.Schedules) error {
		outcomes, err := all.History(ctx, name)
		if err != nil {
			return err
		}
		outcomes = outcomes[:min(len(outcomes), f.limit)]
		if a.json {
			return a.printJSON(outcomes)
		}
		if len(outcomes) == 0 {
			a.note("rpcdo: no tick of %s has been due yet", name)
			return nil
		}
		info, err := all.Get(ctx, name)
		if err != nil {
			return err
		}
		return a.printTable(func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "TICK\tSTATE\tAT\tKIND\tREASON")
			for _, o := range outcomes {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", shownTick(o.Nominal, &info.Spec), plain(string(o.State)), shownTime(o.At), shownKind(&o), shownReason(&o))
			}
		})
	})
}

// shownKind writes for people why there was a tick.
func shownKind(o *schedule.Outcome) string {
	if o.Kind == "" {
		return "-"
	}
	return plain(string(o.Kind))
}

// shownReason writes for people why a tick was skipped, or a run failed.
func shownReason(o *schedule.Outcome) string {
	text := oneLine(o.Reason)
	if text == "" {
		text = "-"
	}
	if o.Count > 1 {
		text += fmt.Sprintf(" (%d ticks)", o.Count)
	}
	return text
}
