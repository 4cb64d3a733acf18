package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"rpc.do/schedule"
)

type schedulePauseFlags struct {
	connection
	note string
}

func (a *app) schedulesPause() *cobra.Command {
	f := &schedulePauseFlags{}
	cmd := &cobra.Command{
		Use:   "pause <name> [flags]",
		Short: "Have the ticks of a schedule skipped",
		Long: `Has the ticks of a schedule skipped until "rpcdo schedules resume"; its history
lists them. Runs that have begun go on. Ticks that wait for them go on waiting.
It can be triggered all the same.`,
		Example: "  rpcdo schedules pause nightly --note 'the printer is broken'",
		Args:    oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeSchedule(cmd.Context(), &f.connection, "paused", func(all *schedule.Schedules) (schedule.Info, error) {
				return all.Pause(cmd.Context(), args[0], f.note)
			})
		},
	}
	cmd.Flags().StringVar(&f.note, "note", "", "`TEXT` that says why, up to 1000 bytes")
	f.register(cmd)
	return cmd
}

func (a *app) schedulesResume() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "resume <name> [flags]",
		Short: "End the pause of a schedule",
		Long: `Ends the pause of a schedule. Ticks that were skipped meanwhile stay so; have
them made up for with "rpcdo schedules backfill". It is no error when it was not
paused.`,
		Example: "  rpcdo schedules resume nightly",
		Args:    oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeSchedule(cmd.Context(), f, "resumed", func(all *schedule.Schedules) (schedule.Info, error) {
				return all.Resume(cmd.Context(), args[0])
			})
		},
	}
	f.register(cmd)
	return cmd
}

// changeSchedule changes a schedule and says what it is like then.
func (a *app) changeSchedule(ctx context.Context, f *connection, did string, change func(*schedule.Schedules) (schedule.Info, error)) error {
	return a.withSchedules(ctx, f, func(all *schedule.Schedules) error {
		info, err := change(all)
		if err != nil {
			return asUsage(err)
		}
		if a.json {
			return a.printJSON(info)
		}
		next := ""
		if info.Paused == nil {
			next = ", " + shownNext(&info)
		}
		_, err = fmt.Fprintf(a.env.Out, "%s %s%s\n", did, info.Spec.Name, next)
		return err
	})
}

type scheduleRemoveFlags struct {
	connection
	yes bool
}

func (a *app) schedulesRemove() *cobra.Command {
	f := &scheduleRemoveFlags{}
	cmd := &cobra.Command{
		Use:     "rm <name> [flags]",
		Aliases: []string{"delete"},
		Short:   "Delete a schedule with its history",
		Long: `Deletes a schedule. When it is done no tick fires that has not fired yet, and no
run begins; what has begun goes on. A service that defines the schedule in code
makes it again when it starts.

It asks before it does that. Without a terminal it does nothing unless --yes
says that it is meant.`,
		Example: "  rpcdo schedules rm nightly --yes",
		Args:    oneSchedule,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runScheduleRemove(cmd.Context(), f, args[0]) },
	}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	f.register(cmd)
	return cmd
}

// removedSchedule is what was deleted, for programs.
type removedSchedule struct {
	Name    string `json:"name"`
	Deleted bool   `json:"deleted"`
}

func (a *app) runScheduleRemove(ctx context.Context, f *scheduleRemoveFlags, name string) error {
	if err := a.mayAsk(f.yes, "rm"); err != nil {
		return err
	}
	return a.withSchedules(ctx, &f.connection, func(all *schedule.Schedules) error {
		info, err := all.Get(ctx, name)
		if err != nil {
			return err
		}
		question := fmt.Sprintf("Delete the schedule %s, %s, with its history?", name, shownWhen(&info.Spec))
		if err := a.surely(ctx, f.yes, question, "nothing was deleted"); err != nil {
			return err
		}
		if err := all.Delete(ctx, name); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(removedSchedule{name, true})
		}
		_, err = fmt.Fprintln(a.env.Out, "deleted", name)
		return err
	})
}
