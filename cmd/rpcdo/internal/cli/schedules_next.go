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

type scheduleNextFlags struct {
	connection
	calendarFlags
	cron  string
	count int
}

// maxNext is how many ticks next shows at most: what the library does.
const maxNext = 1000

func (a *app) schedulesNext() *cobra.Command {
	f := &scheduleNextFlags{}
	cmd := &cobra.Command{
		Use:   "next <name> [flags] | --cron <cron line> [flags]",
		Short: "Show when a schedule, or a cron line, ticks next",
		Long: `Shows the ticks that come next, in the schedule's zone and in UTC, and how long
it is until then. A note says when clocks that change have to do with it. With
--jitter in the definition there is when each fires, too.

With --cron it needs neither a schedule nor a bus: it shows the ticks of the
line as they would be from now on.`,
		Example: `  rpcdo schedules next nightly
  rpcdo schedules next --cron '30 2 * * *' --timezone Europe/Berlin -n 120
  rpcdo schedules next --cron '@every 90s' -n 3 --json`,
		Args: func(cmd *cobra.Command, args []string) error { return nextArgs(args, cmd.Flags().Changed) },
		RunE: func(cmd *cobra.Command, args []string) error {
			f.said = cmd.Flags().Changed
			return a.runScheduleNext(cmd.Context(), f, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.cron, "cron", "", "cron `LINE` to show the ticks of")
	flags.IntVarP(&f.count, "count", "n", 10, "how many ticks to show")
	f.calendarFlags.register(cmd)
	f.connection.register(cmd)
	return cmd
}

func nextArgs(args []string, given func(string) bool) error {
	cron := given("cron")
	if !cron {
		for _, flag := range []string{"timezone", "gap", "repeat", "start", "end", "runs"} {
			if given(flag) {
				return fmt.Errorf("--%s goes with --cron: a schedule says that itself", flag)
			}
		}
	}
	switch {
	case cron && len(args) > 0:
		return errors.New("a name and --cron both say what ticks: give one of them, and put the cron line in quotes")
	case !cron && len(args) == 0:
		return errors.New("which schedule? want its name, such as nightly, or --cron and a cron line")
	case cron:
		return nil
	}
	return oneSchedule(nil, args)
}

func (a *app) runScheduleNext(ctx context.Context, f *scheduleNextFlags, args []string) error {
	if f.count < 1 || f.count > maxNext {
		return usagef("--count %d: want 1 to %d", f.count, maxNext)
	}
	if len(args) == 0 {
		spec := schedule.Spec{Cron: f.cron}
		if f.cron == "" {
			return usagef("--cron: the line is empty: want one such as '0 3 * * *'")
		}
		if err := f.fill(&spec, time.Now()); err != nil {
			return err
		}
		coming, err := schedule.Preview(spec, f.count)
		if err != nil {
			return asDefinition(err)
		}
		return a.printComing(&spec, coming)
	}
	return a.withSchedules(ctx, &f.connection, func(all *schedule.Schedules) error {
		info, err := all.Get(ctx, args[0])
		if err != nil {
			return err
		}
		coming, err := all.Next(ctx, args[0], f.count)
		if err != nil {
			return err
		}
		if info.Paused != nil {
			a.note("rpcdo: %s is paused: these ticks are skipped until it is resumed", info.Spec.Name)
		}
		return a.printComing(&info.Spec, coming)
	})
}

// printComing prints ticks that come.
func (a *app) printComing(s *schedule.Spec, coming []schedule.Coming) error {
	if a.json {
		return a.printJSON(append([]schedule.Coming{}, coming...))
	}
	if len(coming) == 0 {
		a.note("rpcdo: it does not tick any more")
		return nil
	}
	jitter := s.Jitter > 0
	now := time.Now()
	return a.printTable(func(w *tabwriter.Writer) {
		head := "UTC\tIN\t"
		if zoneOf(s) != "UTC" {
			head = plain(zoneOf(s)) + "\t" + head
		}
		if jitter {
			head += "FIRES\t"
		}
		fmt.Fprintln(w, head+"NOTE")
		for _, c := range coming {
			line := c.Nominal.UTC().Format("Mon 2006-01-02 15:04:05") + "\t" + shownAge(max(c.Nominal.Sub(now), 0)) + "\t"
			if zoneOf(s) != "UTC" {
				line = shownTick(c.Nominal, s) + "\t" + line
			}
			if jitter {
				line += "+" + shownAge(c.Fires.Sub(c.Nominal)) + "\t"
			}
			fmt.Fprintln(w, line+shownNote(&c))
		}
	})
}

// shownNote writes for people what is unusual about a tick.
func shownNote(c *schedule.Coming) string {
	_, clock, _ := strings.Cut(c.Wall, " ")
	switch c.Note {
	case "after the hole":
		return "clocks skip " + plain(clock) + " that day: right after"
	case "second time":
		return "clocks show " + plain(clock) + " twice that day: the second time"
	}
	return plain(c.Note)
}
