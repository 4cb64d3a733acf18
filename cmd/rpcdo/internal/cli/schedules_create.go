package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
	"rpc.do/schedule"
)

type scheduleCreateFlags struct {
	connection
	definitionFlags
	replace bool
}

func (a *app) schedulesCreate() *cobra.Command {
	f := &scheduleCreateFlags{}
	cmd := &cobra.Command{
		Use:     "create <name> <cron line> [flags] | <name> --at <time> [flags]",
		Aliases: []string{"add"},
		Short:   "Make a schedule, or change its definition",
		Long: `Makes a schedule. The cron line is one argument, so put it in quotes: minute,
hour, day of month, month and day of week, with seconds in front when there are
six; @hourly, @daily, @weekly, @monthly or @yearly; or @every and a duration,
such as '@every 90s'. With --at it ticks once.

Its ticks go to the handler of that name, see schedule.Handle, or with --event
send an event. Made again with the same definition it stays as it is; another
definition is refused unless --replace is given: then its history stays, and
ticks of the old definition that have not fired do not fire any more.

Times without an offset are in the zone of --timezone, or else of this machine.`,
		Example: `  rpcdo schedules create nightly '0 3 * * *' --timezone Europe/Berlin
  rpcdo schedules create report '0 6 * * MON-FRI' --handler daily-report --payload '{"to":"ada"}'
  rpcdo schedules create heartbeat '@every 30s' --event Heart.beat
  rpcdo schedules create launch --at '2096-12-24 18:00' --event Campaign.begins
  rpcdo schedules create nightly '0 4 * * *' --replace --overlap buffer-one --run-timeout 2h`,
		Args: func(cmd *cobra.Command, args []string) error { return createArgs(args, cmd.Flags().Changed("at")) },
		RunE: func(cmd *cobra.Command, args []string) error {
			f.said = cmd.Flags().Changed
			return a.runScheduleCreate(cmd.Context(), f, args)
		},
	}
	f.definitionFlags.register(cmd)
	cmd.Flags().BoolVar(&f.replace, "replace", false, "take the place of another definition")
	f.connection.register(cmd)
	return cmd
}

func createArgs(args []string, at bool) error {
	switch {
	case len(args) == 0:
		return errors.New("which schedule? want a name and a cron line, such as nightly '0 3 * * *'")
	case len(args) == 1 && !at:
		return errors.New("when does it tick? want a cron line, such as '0 3 * * *' or '@every 90s', or --at and a time")
	case len(args) > 1 && at:
		return errors.New("a cron line and --at both say when it ticks: give one of them")
	case len(args) > 2:
		return fmt.Errorf("%d arguments after the name: want one; put the cron line in quotes", len(args)-1)
	}
	return checkSchedule(args[0])
}

func (a *app) runScheduleCreate(ctx context.Context, f *scheduleCreateFlags, args []string) error {
	spec, err := f.spec(ctx, a, args)
	if err != nil {
		return err
	}
	return a.withSchedules(ctx, &f.connection, func(all *schedule.Schedules) error {
		began := time.Now()
		info, err := all.Create(ctx, spec, f.replace)
		if rpc.CodeOf(err) == rpc.AlreadyExists {
			return failf(rpc.AlreadyExists, "there is a schedule %s with another definition: `rpcdo schedules get %[1]s` shows it, and --replace changes it", spec.Name)
		}
		if err != nil {
			return asDefinition(err)
		}
		if a.json {
			return a.printJSON(info)
		}
		did := "created"
		switch {
		case info.Updated.Before(began):
			did = "there is such a schedule already:"
		case info.Created.Before(began):
			did = "replaced"
		}
		if _, err := fmt.Fprintf(a.env.Out, "%s %s, %s\n", did, info.Spec.Name, shownNext(&info)); err != nil {
			return err
		}
		a.noteUnhandled(ctx, &f.connection, &info.Spec)
		return nil
	})
}

// shownNext writes for people when a schedule ticks next.
func shownNext(i *schedule.Info) string {
	switch {
	case i.Next.IsZero():
		return "which does not tick any more"
	case i.Paused != nil:
		return "paused; its next tick would be " + shownTick(i.Next, &i.Spec)
	}
	return "next tick " + shownTick(i.Next, &i.Spec)
}

// noteUnhandled says so when there has never been a handler of a schedule's ticks.
func (a *app) noteUnhandled(ctx context.Context, f *connection, s *schedule.Spec) {
	if s.Handler == "" {
		return
	}
	// Whether it can be found out or not, the schedule is made.
	_ = a.withEvents(ctx, f, func(p *pipeline.Pipeline) error {
		handlers, err := p.Handlers(ctx)
		event := schedule.EventPrefix + s.Handler
		if err == nil && !slices.ContainsFunc(handlers, func(h pipeline.HandlerInfo) bool { return slices.Contains(h.Patterns, event) }) {
			a.note("rpcdo: no service has a handler %s yet: a run that nobody begins has failed after its run timeout", s.Handler)
		}
		return nil
	})
}
