package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
)

type replayFlags struct {
	connection
	period
	patterns []string
	dryRun   bool
	wait     bool
}

func (a *app) eventsReplay() *cobra.Command {
	f := &replayFlags{}
	cmd := &cobra.Command{
		Use:   "replay <service> <handler> [flags]",
		Short: "Have a handler have events again",
		Long: `Has a handler have events again that are stored: all that its patterns match,
or those within the bounds that are given. Other handlers notice nothing, and
where the handler is in the stream stays as it is: new events come meanwhile.
With --dry-run it only counts them.

It ends when the events are queued for the handler; with --wait, when the
handler has had them: they are done, or dead letters. On a terminal it shows
how far it has come.

A replay that is interrupted says how to go on.`,
		Example: `  rpcdo events replay greeter welcome --since 7d --dry-run
  rpcdo events replay greeter welcome --pattern User.registered --wait
  rpcdo events replay greeter welcome --after 100 --before 200 --json`,
		Args: oneHandler,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runReplay(cmd.Context(), f, args[0], args[1]) },
	}
	f.period.register(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.patterns, "pattern", nil, "only events that this `PATTERN` matches; may be repeated")
	flags.BoolVar(&f.dryRun, "dry-run", false, "count the events, and do nothing")
	flags.BoolVar(&f.wait, "wait", false, "wait until the handler has had them")
	f.connection.register(cmd)
	return cmd
}

// replayed is what a replay came to, for programs.
type replayed struct {
	Service string `json:"service"`
	Handler string `json:"handler"`
	pipeline.Replayed
	DryRun bool `json:"dryRun,omitempty"`
	Done   bool `json:"done,omitempty"` // the handler has had them
}

func (a *app) runReplay(ctx context.Context, f *replayFlags, service, handler string) error {
	since, until, err := f.times(time.Now())
	if err != nil {
		return err
	}
	if err := checkPatterns(f.patterns...); err != nil {
		return usagef("--%w", err)
	}
	if f.dryRun && f.wait {
		return usagef("--dry-run does nothing that --wait could wait for")
	}
	r := pipeline.Replay{Since: since, Until: until, After: f.after, Before: f.before, Patterns: f.patterns}
	return a.withHandlers(ctx, &f.connection, []string{service, handler}, func(p *pipeline.Pipeline, found []pipeline.HandlerInfo) error {
		shown := &progress{app: a}
		counted := 0
		if f.dryRun {
			r.Filter = func(pipeline.RawEvent) bool { counted++; return false }
		}
		r.Progress = func(done pipeline.Replayed) {
			shown.show("replaying %s %s: %d events queued, at %d of %d", service, handler, max(done.Events, counted), done.Sequence, done.Last)
		}
		done, err := p.Replay(ctx, service, handler, r)
		shown.end()
		if err != nil {
			return replayError(ctx, done, f.dryRun, asUsage(err))
		}
		result := replayed{Service: service, Handler: handler, Replayed: done, DryRun: f.dryRun}
		if f.dryRun {
			result.Events = counted
		}
		if f.wait {
			if err := a.waitForLane(ctx, p, result); err != nil {
				return err
			}
			result.Done = true
		}
		return a.printReplayed(result, found[0])
	})
}

// replayError says how to go on with a replay that has ended early.
func replayError(ctx context.Context, done pipeline.Replayed, dryRun bool, err error) error {
	if dryRun || done.Events == 0 {
		return err
	}
	what := err.Error()
	if ctx.Err() != nil {
		what = "interrupted"
	}
	return failf(codeOf(err), "%s: %d events are queued; go on with --after %d", what, done.Events, done.Sequence)
}

func (a *app) printReplayed(r replayed, h pipeline.HandlerInfo) error {
	if a.json {
		return a.printJSON(r)
	}
	text := fmt.Sprintf("%s %s is to have %s again", r.Service, r.Handler, counted(r.Events, "event"))
	switch {
	case r.DryRun:
		text = fmt.Sprintf("%s %s would have %s again", r.Service, r.Handler, counted(r.Events, "event"))
	case r.Done:
		text = fmt.Sprintf("%s %s has had %s again", r.Service, r.Handler, counted(r.Events, "event"))
	}
	if _, err := fmt.Fprintln(a.env.Out, text); err != nil {
		return err
	}
	switch {
	case r.Events == 0:
		a.note("rpcdo: the handler has events of %s: of these none is stored within the bounds", plain(strings.Join(h.Patterns, ", ")))
	case !r.DryRun && !r.Done && !h.Waiting && h.Running == 0:
		a.note("rpcdo: no instance waits for events now: they wait until one does")
	}
	return nil
}

// lookEvery is how often it is looked how far a handler has come.
const lookEvery = 250 * time.Millisecond

// waitForLane waits until a handler has had all that it is to have again.
func (a *app) waitForLane(ctx context.Context, p *pipeline.Pipeline, r replayed) error {
	shown := &progress{app: a}
	defer shown.end()
	again, told := uint64(0), false
	for {
		h, err := p.Handler(ctx, r.Service, r.Handler)
		switch {
		case ctx.Err() != nil:
			return failf(rpc.Canceled, "interrupted: %d events are still to come; the handler has them all the same", again)
		case err != nil:
			return err
		case h.Again == 0:
			return nil
		}
		if stands := h.Again == again && !h.Waiting && h.Running == 0; stands && !told {
			told = true
			shown.end()
			a.note("rpcdo: no instance of %s waits for events: they come when one does", r.Service)
		}
		again = h.Again
		shown.show("%s %s: %d events are still to come", r.Service, r.Handler, again)
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
		}
	}
}
