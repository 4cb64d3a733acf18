package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
)

// traceTime bounds a trace, which reads as many events as there are.
const traceTime = 24 * time.Hour

type traceFlags struct {
	connection
	since string
	limit int
}

func (a *app) eventsTrace() *cobra.Command {
	f := &traceFlags{}
	cmd := &cobra.Command{
		Use:   "trace <event id | sequence> [flags]",
		Short: "Show what led to an event, and what it led to",
		Long: `Shows the tree of the events that began with the same one as this event, each
below the one whose handler has sent it: its type, sequence, id, the time when
it happened, and its source. The event that was asked for has a > before it.
What is not stored any more is shown as removed, with its id.

There is no index, so the events since the first one of the tree are looked at:
for ids that do not begin with a time, as those that rpc.do makes do, these are
all, or those since --since.`,
		Example: `  rpcdo events trace 1
  rpcdo events trace 0197d3a8-7c1e-7cc3-9c0b-6e51a1b2c3d4 --json
  rpcdo events trace order-17/paid --since 7d`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 || args[0] == "":
				return errors.New("which event? want its id or its sequence")
			case len(args) > 1:
				return fmt.Errorf("%d arguments: want the id or the sequence of one event", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.runTrace(cmd.Context(), f, args[0]) },
	}
	cmd.Flags().StringVar(&f.since, "since", "", "`TIME` when the first event of the tree was stored, or earlier, or how long ago")
	cmd.Flags().IntVar(&f.limit, "limit", pipeline.DefaultTraceLimit, "how many events to show")
	f.register(cmd)
	return cmd
}

func (a *app) runTrace(ctx context.Context, f *traceFlags, id string) error {
	if f.limit < 1 {
		return usagef("--limit %d: want 1 or more", f.limit)
	}
	shown := &progress{app: a}
	opts := pipeline.TraceOptions{Limit: f.limit, Progress: func(scanned, total uint64) {
		shown.show("looked at %d of %d events", scanned, total)
	}}
	if f.since != "" {
		var err error
		if opts.Since, err = when("since", f.since, time.Now()); err != nil {
			return err
		}
	}
	return a.withEvents(ctx, &f.connection, func(p *pipeline.Pipeline) error {
		ctx, cancel := context.WithTimeout(ctx, traceTime)
		defer cancel()
		id, err := eventID(ctx, p, id)
		if err != nil {
			return err
		}
		trace, err := p.Trace(ctx, id, opts)
		shown.end()
		if err != nil {
			return asUsage(err)
		}
		if a.json {
			return a.printJSON(trace)
		}
		if err := a.printNode(trace.Root, trace.ID, 0); err != nil {
			return err
		}
		if trace.Truncated {
			a.note("rpcdo: there are more events than these %d: see them with --limit", trace.Events)
		}
		return nil
	})
}

// eventID returns the id of the event that is named by its id or its sequence.
func eventID(ctx context.Context, p *pipeline.Pipeline, text string) (string, error) {
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil || seq == 0 {
		return text, nil
	}
	e, err := p.Event(ctx, seq)
	if rpc.CodeOf(err) == rpc.NotFound {
		return text, nil // an id may be a number too
	}
	return e.ID, err
}

func (a *app) printNode(n *pipeline.Node, asked string, depth int) error {
	mark := "  "
	if n.ID == asked {
		mark = "> "
	}
	text := "(removed)  " + plain(n.ID)
	if !n.Absent {
		text = fmt.Sprintf("%s  %d  %s  %s  %s", plain(n.Type), n.Sequence, plain(n.ID), n.Time.Local().Format("2006-01-02 15:04:05.000"), plain(n.Source))
	}
	if _, err := fmt.Fprintln(a.env.Out, mark+strings.Repeat("  ", depth)+text); err != nil {
		return err
	}
	for _, child := range n.Children {
		if err := a.printNode(child, asked, depth+1); err != nil {
			return err
		}
	}
	return nil
}
