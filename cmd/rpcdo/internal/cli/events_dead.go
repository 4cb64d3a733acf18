package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
)

func (a *app) eventsDead() *cobra.Command {
	return group(&cobra.Command{
		Use:   "dead",
		Short: "Look at the events that handlers could not handle, and decide on them",
		Long: `Shows dead letters: events that a handler could not handle, with their data and
the error. They stay until somebody has the handler have them again, with the
data that they had or with others, or discards them.`,
		Example: "  rpcdo events dead ls\n  rpcdo events dead show 7\n  rpcdo events dead retry 7",
	}, a.deadList(), a.deadShow(), a.deadRetry(), a.deadEdit(), a.deadDiscard())
}

// shownDead is a dead letter for programs.
type shownDead struct {
	pipeline.DeadLetter
	Event  shownEvent `json:"event"`
	Header rpc.Header `json:"header,omitempty"`
}

func newShownDead(d pipeline.DeadLetter) shownDead {
	return shownDead{DeadLetter: d, Event: newShownEvent(d.Event)}
}

type deadListFlags struct {
	connection
	limit int
	after uint64
}

// deadPage is how many dead letters are listed at most: what the library does.
const deadPage = 1000

func (a *app) deadList() *cobra.Command {
	f := &deadListFlags{}
	cmd := &cobra.Command{
		Use:     "ls [service [handler]] [flags]",
		Aliases: []string{"list"},
		Short:   "List dead letters",
		Long: `Lists the dead letters of all handlers, those of a service, or of one handler,
the oldest first: the number that names it, whose it is, the event's type, why
it is here, how often it was tried, when it was given up, and the error.`,
		Example: "  rpcdo events dead ls\n  rpcdo events dead ls greeter welcome --limit 10 --json",
		Args:    atMostOneHandler,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runDeadList(cmd.Context(), f, args) },
	}
	cmd.Flags().IntVar(&f.limit, "limit", 100, "how many to list")
	cmd.Flags().Uint64Var(&f.after, "after", 0, "list those after this `NUMBER`")
	f.register(cmd)
	return cmd
}

func (a *app) runDeadList(ctx context.Context, f *deadListFlags, args []string) error {
	if f.limit < 1 || f.limit > deadPage {
		return usagef("--limit %d: want 1 to %d", f.limit, deadPage)
	}
	q := pipeline.DeadQuery{After: f.after, Limit: f.limit}
	if len(args) > 0 {
		q.Service = args[0]
	}
	if len(args) > 1 {
		q.Handler = args[1]
	}
	return a.withEvents(ctx, &f.connection, func(p *pipeline.Pipeline) error {
		letters, err := p.DeadLetters(ctx, q)
		if err != nil {
			return asUsage(err)
		}
		if a.json {
			shown := make([]shownDead, 0, len(letters))
			for _, d := range letters {
				shown = append(shown, newShownDead(d))
			}
			return a.printJSON(shown)
		}
		if len(letters) == 0 {
			a.note("rpcdo: there are no dead letters")
			return nil
		}
		if err := a.printTable(func(w *tabwriter.Writer) { printDead(w, letters) }); err != nil {
			return err
		}
		if len(letters) == f.limit {
			a.note("rpcdo: there may be more: go on with --after %d", letters[len(letters)-1].ID)
		}
		return nil
	})
}

// printDead writes a table whose columns are separated by tabs.
func printDead(w *tabwriter.Writer, letters []pipeline.DeadLetter) {
	fmt.Fprintln(w, "NUMBER\tSERVICE\tHANDLER\tEVENT\tREASON\tATTEMPTS\tTIME\tERROR")
	for _, d := range letters {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, plain(d.Service), plain(d.Handler), plain(d.Event.Type), plain(string(d.Reason)),
			d.Attempts, d.Time.Local().Format("2006-01-02 15:04:05"), oneLine(d.Error))
	}
}

func (a *app) deadShow() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:     "show <number> [flags]",
		Short:   "Show a dead letter with its data, headers and error",
		Long:    "Shows all that is known of a dead letter. \"rpcdo events dead ls\" has its number.",
		Example: "  rpcdo events dead show 7\n  rpcdo events dead show 7 --json",
		Args:    oneDead,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDead(cmd.Context(), f, args[0], func(_ *pipeline.Pipeline, d pipeline.DeadLetter) error { return a.printDeadLetter(d) })
		},
	}
	f.register(cmd)
	return cmd
}

// withDead looks up a dead letter, with its data when EVENTS has them alone.
func (a *app) withDead(ctx context.Context, f *connection, arg string, do func(*pipeline.Pipeline, pipeline.DeadLetter) error) error {
	id, err := deadID(arg)
	if err != nil {
		return usageError{err}
	}
	return a.withEvents(ctx, f, func(p *pipeline.Pipeline) error {
		d, err := p.DeadLetter(ctx, id)
		if err != nil {
			return err
		}
		if d.Missing == "data" {
			if e, err := p.Event(ctx, d.Event.Sequence); err == nil {
				d.Event.Data, d.Event.Raw, d.Missing = e.Data, e.Raw, "headers"
			}
		}
		return do(p, d)
	})
}

func (a *app) printDeadLetter(d pipeline.DeadLetter) error {
	if a.json {
		shown := newShownDead(d)
		shown.Header = d.Event.Header
		return a.printJSON(shown)
	}
	return a.printTable(func(w *tabwriter.Writer) {
		e := &d.Event
		fmt.Fprintf(w, "dead letter %d of %s %s\n", d.ID, plain(d.Service), plain(d.Handler))
		row := func(name, format string, args ...any) {
			fmt.Fprintf(w, "  %s\t%s\n", name, plain(fmt.Sprintf(format, args...)))
		}
		row("error", "%s", oneLine(d.Error))
		row("reason", "%s, after %d attempts, by version %s", d.Reason, d.Attempts, d.Version)
		row("given up", "%s", shownTime(d.Time))
		row("event", "%s, id %s, from %s", e.Type, e.ID, e.Source)
		row("subject", "%s", shownSubject(e))
		row("stored", "%s, sequence %d", shownTime(e.Stored), e.Sequence)
		row("due to", "%s", shownCause(e))
		if d.Missing == "data" {
			row("data", "too large to be kept here, and not in EVENTS any more")
		} else {
			row("data", "%s", shownData(e))
		}
		for _, name := range slices.Sorted(maps.Keys(e.Header)) {
			for _, value := range e.Header[name] {
				row("header", "%s: %s", name, value)
			}
		}
	})
}

// shownCause says what an event is due to.
func shownCause(e *pipeline.RawEvent) string {
	if e.CausationID == "" {
		return "no other event"
	}
	return fmt.Sprintf("%s, in %d steps from %s", e.CausationID, e.Hops, e.CorrelationID)
}

// deadID reads the number of a dead letter.
func deadID(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("dead letter %.80q: want its number, as `rpcdo events dead ls` lists it", text)
	}
	return n, nil
}

func oneDead(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return errors.New("which dead letter? want its number, as `rpcdo events dead ls` lists it")
	case 1:
	default:
		return fmt.Errorf("%d arguments: want the number of one dead letter", len(args))
	}
	_, err := deadID(args[0])
	return err
}

// editable returns the data of a dead letter as text to edit.
func editable(d *pipeline.DeadLetter) string {
	if d.Event.Data == nil {
		return string(d.Event.Raw)
	}
	indented, err := json.MarshalIndent(d.Event.Data, "", "  ")
	if err != nil {
		return string(d.Event.Data)
	}
	return strings.TrimSpace(string(indented)) + "\n"
}
