package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/schedule"
)

type scheduleListFlags struct {
	connection
	handler string
}

func (a *app) schedulesList() *cobra.Command {
	f := &scheduleListFlags{}
	cmd := &cobra.Command{
		Use:     "ls [prefix] [flags]",
		Aliases: []string{"list"},
		Short:   "List schedules",
		Long: `Lists the schedules, all or those whose names begin with the prefix: when they
tick, in which zone, when next, in which state they are, and how the last run
has ended. Of those that send events nobody knows that: it says how often they
have fired.`,
		Example: "  rpcdo schedules ls\n  rpcdo schedules ls report- --json",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return fmt.Errorf("%d arguments: want one at most, what the names begin with", len(args))
			case len(args) == 1 && strings.ContainsAny(args[0], "*>?"):
				return errors.New("want what the names begin with, without wildcards")
			case len(args) == 1 && args[0] != "":
				return checkSchedule(args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.runScheduleList(cmd.Context(), f, args) },
	}
	cmd.Flags().StringVar(&f.handler, "handler", "", "list those whose ticks go to the handler of this `NAME`")
	f.register(cmd)
	return cmd
}

func (a *app) runScheduleList(ctx context.Context, f *scheduleListFlags, args []string) error {
	l := schedule.List{Prefix: strings.Join(args, ""), Handler: f.handler}
	return a.withSchedules(ctx, &f.connection, func(all *schedule.Schedules) error {
		found, err := all.List(ctx, l)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(append([]schedule.Info{}, found...))
		}
		if len(found) == 0 {
			what := "schedules"
			if l != (schedule.List{}) {
				what = "such schedules"
			}
			a.note("rpcdo: there are no %s on %s", what, f.where())
			return nil
		}
		now := time.Now()
		return a.printTable(func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "NAME\tWHEN\tZONE\tNEXT\tSTATE\tLAST")
			for i := range found {
				s := &found[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", plain(s.Spec.Name), shownWhen(&s.Spec), plain(zoneOf(&s.Spec)),
					shownTick(s.Next, &s.Spec), shownState(s), shownLast(s, now))
			}
		})
	})
}

// shownState writes for people what a schedule is about.
func shownState(i *schedule.Info) string {
	var is []string
	if i.Paused != nil {
		is = append(is, "paused")
	}
	if len(i.Running) > 0 {
		is = append(is, fmt.Sprintf("%d running", len(i.Running)))
	}
	if i.Waiting > 0 {
		is = append(is, fmt.Sprintf("%d waiting", i.Waiting))
	}
	switch {
	case len(is) > 0:
		return strings.Join(is, ", ")
	case i.Next.IsZero():
		return "over"
	}
	return "active"
}

// shownLast writes for people how the last run of a schedule has ended.
func shownLast(i *schedule.Info, now time.Time) string {
	switch {
	case i.Last != nil:
		return fmt.Sprintf("%s %s ago", plain(string(i.Last.State)), shownAge(max(now.Sub(i.Last.Ended), 0)))
	case i.Counts.Fired == 1:
		return "fired once"
	case i.Counts.Fired > 0:
		return fmt.Sprintf("fired %d times", i.Counts.Fired)
	}
	return "-"
}
