package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
)

type lagFlags struct {
	connection
	maxAge              string
	maxPending, maxDead int64

	age time.Duration // of maxAge
}

func (a *app) eventsLag() *cobra.Command {
	f := &lagFlags{maxPending: -1, maxDead: -1}
	cmd := &cobra.Command{
		Use:   "lag [service [handler]] [flags]",
		Short: "Show how far handlers of events are behind, or check it",
		Long: `Shows how far the handlers are behind: all, those of a service, or one. What the
columns say, "rpcdo events handlers --help" tells; redelivered are the running
events that it was given more than once, last is when it was given one last.

With --max-age, --max-pending or --max-dead it is a check: the exit status is 1,
and the reason on stderr, when a handler has

  an event that is not done and was stored longer ago than --max-age,
  more than --max-pending events to come, those it is to have again included,
  more than --max-dead dead letters.`,
		Example: `  rpcdo events lag
  rpcdo events lag greeter welcome --json
  rpcdo events lag greeter --max-age 5m --max-pending 1000`,
		Args: atMostOneHandler,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd.Flags().Changed); err != nil {
				return err
			}
			return a.runLag(cmd.Context(), f, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.maxAge, "max-age", "", "fail when an event is not done after this `TIME`, such as 5m or 2d")
	flags.Int64Var(&f.maxPending, "max-pending", -1, "fail when more than `N` events are to come")
	flags.Int64Var(&f.maxDead, "max-dead", -1, "fail when there are more than `N` dead letters")
	for _, name := range []string{"max-pending", "max-dead"} {
		flags.Lookup(name).DefValue = "" // none
	}
	f.register(cmd)
	return cmd
}

func (f *lagFlags) check(given func(string) bool) error {
	if given("max-age") {
		var err error
		if f.age, err = parseAge(f.maxAge); err != nil || f.age <= 0 {
			return usagef("--max-age %.80q: want a time with its unit, such as 5m or 2d", f.maxAge)
		}
	}
	for flag, n := range map[string]int64{"max-pending": f.maxPending, "max-dead": f.maxDead} {
		if given(flag) && n < 0 {
			return usagef("--%s %d: want 0 or more", flag, n)
		}
	}
	return nil
}

func (a *app) runLag(ctx context.Context, f *lagFlags, args []string) error {
	return a.withHandlers(ctx, &f.connection, args, func(_ *pipeline.Pipeline, found []pipeline.HandlerInfo) error {
		if err := a.printLag(found); err != nil {
			return err
		}
		var behind []string
		for _, h := range found {
			behind = append(behind, f.behind(&h)...)
		}
		if len(behind) > 0 {
			return failf(rpc.FailedPrecondition, "%s", strings.Join(behind, "; "))
		}
		return nil
	})
}

// behind says in what a handler is further behind than it may be.
func (f *lagFlags) behind(h *pipeline.HandlerInfo) (reasons []string) {
	add := func(format string, args ...any) {
		reasons = append(reasons, fmt.Sprintf("%s %s ", h.Service, h.Handler)+fmt.Sprintf(format, args...))
	}
	if age := h.Age(); f.age > 0 && age > f.age {
		add("has an event that is %s old, more than %s", shownAge(age), f.maxAge)
	}
	if coming := h.Pending + h.Again; f.maxPending >= 0 && coming > uint64(f.maxPending) {
		add("has %d events to come, more than %d", coming, f.maxPending)
	}
	if f.maxDead >= 0 && h.Dead > uint64(f.maxDead) {
		add("has %d dead letters, more than %d", h.Dead, f.maxDead)
	}
	return reasons
}

func (a *app) printLag(found []pipeline.HandlerInfo) error {
	if a.json {
		return a.printJSON(found)
	}
	if len(found) == 0 {
		return nil
	}
	return a.printTable(func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "SERVICE\tHANDLER\tPENDING\tRUNNING\tREDELIVERED\tAGAIN\tDEAD\tOLDEST\tLAST\tWAITING")
		for _, h := range found {
			last := ""
			if !h.Last.IsZero() {
				last = shownAge(max(time.Since(h.Last), 0)) + " ago"
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", plain(h.Service), plain(h.Handler), h.Pending, h.Running, h.Redelivered,
				h.Again, h.Dead, shownOldest(&h.Lag), cmp.Or(last, "never"), yesNo(h.Waiting))
		}
	})
}
