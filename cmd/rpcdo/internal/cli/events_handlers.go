package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
)

func (a *app) eventsHandlers() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "handlers [service] [flags]",
		Short: "List the handlers of events, or those of a service",
		Long: `Lists the handlers that have begun on this bus, whether they run or not: their
patterns, the version that was started last, and how far they are behind.

  pending  events that it has not been given yet
  running  events that it was given and that are not done
  again    events that it is to have again: replays, retried dead letters
  dead     its dead letters
  oldest   how long ago the oldest event was stored that is not done
  waiting  whether an instance waits for events: none does when none runs, or
           all have as much to do as they can`,
		Example: "  rpcdo events handlers\n  rpcdo events handlers greeter --json",
		Args:    atMostOneService,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withHandlers(cmd.Context(), f, args, func(_ *pipeline.Pipeline, found []pipeline.HandlerInfo) error {
				return a.printHandlers(found)
			})
		},
	}
	f.register(cmd)
	cmd.AddCommand(a.eventsHandlersRemove())
	return cmd
}

// withHandlers looks up all handlers, those of a service, or one.
func (a *app) withHandlers(ctx context.Context, f *connection, args []string, do func(*pipeline.Pipeline, []pipeline.HandlerInfo) error) error {
	return a.withEvents(ctx, f, func(p *pipeline.Pipeline) error {
		if len(args) == 2 {
			one, err := p.Handler(ctx, args[0], args[1])
			if err != nil {
				return f.noHandler(args[0], args[1], err)
			}
			return do(p, []pipeline.HandlerInfo{one})
		}
		all, err := p.Handlers(ctx)
		if err != nil {
			return err
		}
		found := []pipeline.HandlerInfo{}
		for _, h := range all {
			if len(args) == 0 || h.Service == args[0] {
				found = append(found, h)
			}
		}
		if len(found) == 0 && len(args) == 1 {
			return failf(rpc.NotFound, "no handler of a service %q has run on %s: `rpcdo events handlers` lists them", args[0], f.where())
		}
		if len(found) == 0 {
			a.note("rpcdo: no handlers of events have run on %s", f.where())
		}
		return do(p, found)
	})
}

// noHandler says where to look when there is no such handler.
func (f *connection) noHandler(service, handler string, err error) error {
	if rpc.CodeOf(err) != rpc.NotFound {
		return err
	}
	return failf(rpc.NotFound, "no handler %q of a service %q has run on %s: `rpcdo events handlers` lists them", handler, service, f.where())
}

func (a *app) printHandlers(found []pipeline.HandlerInfo) error {
	if a.json {
		return a.printJSON(found)
	}
	if len(found) == 0 {
		return nil
	}
	return a.printTable(func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "SERVICE\tHANDLER\tPATTERNS\tVERSION\tPENDING\tRUNNING\tAGAIN\tDEAD\tOLDEST\tWAITING")
		for _, h := range found {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", plain(h.Service), plain(h.Handler), plain(strings.Join(h.Patterns, ", ")),
				plain(h.Version), h.Pending, h.Running, h.Again, h.Dead, shownOldest(&h.Lag), yesNo(h.Waiting))
		}
	})
}

// shownOldest writes how old the oldest event is that is not done.
func shownOldest(l *pipeline.Lag) string {
	if l.Oldest.IsZero() {
		return "-"
	}
	return shownAge(l.Age())
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type handlerRemoveFlags struct {
	connection
	yes bool
}

func (a *app) eventsHandlersRemove() *cobra.Command {
	f := &handlerRemoveFlags{}
	cmd := &cobra.Command{
		Use:     "rm <service> <handler> [flags]",
		Aliases: []string{"delete"},
		Short:   "Forget a handler that runs nowhere any more",
		Long: `Forgets a handler: which events it has had, and what it was to have again. Its
dead letters stay. One that runs is refused. When it runs once more it begins as
a new one does.

It asks before it does that. Without a terminal it does nothing unless --yes
says that it is meant.`,
		Example: "  rpcdo events handlers rm mailer send-welcome --yes",
		Args:    oneHandler,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runHandlerRemove(cmd.Context(), f, args) },
	}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	f.register(cmd)
	return cmd
}

// removedHandler is what was forgotten, for programs.
type removedHandler struct {
	Service string `json:"service"`
	Handler string `json:"handler"`
	Removed bool   `json:"removed"`
}

func (a *app) runHandlerRemove(ctx context.Context, f *handlerRemoveFlags, args []string) error {
	if err := a.mayAsk(f.yes, "rm"); err != nil {
		return err
	}
	return a.withHandlers(ctx, &f.connection, args, func(p *pipeline.Pipeline, found []pipeline.HandlerInfo) error {
		h := found[0]
		question := fmt.Sprintf("Forget the handler %s of %s, with %d events that it has not had and %d that it was to have again?",
			h.Handler, h.Service, h.Pending+uint64(max(h.Running, 0)), h.Again)
		if err := a.surely(ctx, f.yes, question, "nothing was forgotten"); err != nil {
			return err
		}
		if err := p.RemoveHandler(ctx, h.Service, h.Handler); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(removedHandler{h.Service, h.Handler, true})
		}
		_, err := fmt.Fprintf(a.env.Out, "forgot the handler %s of %s\n", h.Handler, h.Service)
		return err
	})
}

// mayAsk refuses what has to be confirmed when nobody can be asked.
func (a *app) mayAsk(yes bool, command string) error {
	if yes || a.env.InTerminal {
		return nil
	}
	return usagef("%s asks before it does that, and there is no terminal to ask on: give --yes if you mean it", command)
}
