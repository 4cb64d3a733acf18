package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/pipeline"
)

type historyFlags struct {
	connection
	period
	cursor  string
	limit   int
	reverse bool
}

func (a *app) eventsHistory() *cobra.Command {
	f := &historyFlags{}
	cmd := &cobra.Command{
		Use:   "history [pattern…] [flags]",
		Short: "List the events that are stored",
		Long: `Lists the stored events that one of the patterns matches, or all, from the
oldest or, with --reverse, from the newest. A line is as that of "rpcdo events
tail".

When there are more, it says how to go on: with --cursor added to the same
command line. With --json it prints {"events": […], "next": "<cursor>"}.`,
		Example: `  rpcdo events history
  rpcdo events history 'User.*' --since 7d --reverse --limit 20
  rpcdo events history --after 100 --before 200 --json`,
		Args: onlyPatterns,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runHistory(cmd.Context(), f, args) },
	}
	flags := cmd.Flags()
	f.period.register(cmd)
	flags.IntVar(&f.limit, "limit", pipeline.DefaultPage, "how many events to list")
	flags.BoolVar(&f.reverse, "reverse", false, "list the newest first")
	flags.StringVar(&f.cursor, "cursor", "", "go on at the `CURSOR` that was told before")
	f.connection.register(cmd)
	return cmd
}

// register registers the flags that bound the time and the sequence.
func (p *period) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&p.since, "since", "", "events stored at this `TIME`, or so long ago, and later")
	flags.StringVar(&p.until, "until", "", "events stored before this `TIME`, or longer ago")
	flags.Uint64Var(&p.after, "after", 0, "events after this `SEQUENCE`")
	flags.Uint64Var(&p.before, "before", 0, "events before this `SEQUENCE`")
}

// historyPage is what history lists, for programs.
type historyPage struct {
	Events []shownEvent `json:"events"`
	Next   string       `json:"next,omitempty"`
}

func (a *app) runHistory(ctx context.Context, f *historyFlags, patterns []string) error {
	if f.limit < 1 || f.limit > pipeline.MaxPage {
		return usagef("--limit %d: want 1 to %d", f.limit, pipeline.MaxPage)
	}
	since, until, err := f.times(time.Now())
	if err != nil {
		return err
	}
	q := pipeline.Query{
		Patterns: patterns, Since: since, Until: until, After: f.after, Before: f.before,
		Cursor: f.cursor, Limit: f.limit, Reverse: f.reverse,
	}
	return a.withEvents(ctx, &f.connection, func(p *pipeline.Pipeline) error {
		found := historyPage{Events: []shownEvent{}}
		for listed := 0; ; { // a page may have fewer events than asked for, and others behind it
			page, err := p.History(ctx, q)
			if err != nil {
				return asUsage(err)
			}
			for _, e := range page.Events {
				if a.json {
					found.Events = append(found.Events, newShownEvent(e))
				} else if err := a.printEvent(e); err != nil {
					return err
				}
			}
			listed += len(page.Events)
			found.Next = page.Next
			if page.Next == "" || listed == f.limit {
				return a.endHistory(found, listed)
			}
			q.Cursor, q.Limit = page.Next, f.limit-listed
		}
	})
}

// endHistory says what comes after the events that were listed.
func (a *app) endHistory(found historyPage, listed int) error {
	switch {
	case a.json:
		return a.printJSON(found)
	case found.Next != "":
		a.note("rpcdo: there are more: go on with --cursor %s", found.Next)
	case listed == 0:
		a.note("rpcdo: there are no such events")
	}
	return nil
}
