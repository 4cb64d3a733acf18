package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"rpc.do/durable"
)

func (a *app) objectsWatch() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "watch <class> [id] [flags]",
		Short: "Show the changes of objects as they are made",
		Long: `Shows each change of an object, or of all objects of the class when no id is
given, until Ctrl-C: when, which object, and its new state. An object that is
named is shown as it is first. With --json each change is a line of JSON.

It goes on by itself when the bus was away, and shows what has changed meanwhile
as far as the bus has kept it.`,
		Example: "  rpcdo objects watch counter alice\n  rpcdo objects watch counter --json",
		Args:    classOrObject,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runWatch(cmd.Context(), f, args) },
	}
	f.register(cmd)
	return cmd
}

func (a *app) runWatch(ctx context.Context, f *connection, args []string) error {
	return a.withClass(ctx, f, args[0], func(c *durable.Catalogue) error {
		var opts durable.WatchOptions
		if len(args) == 2 {
			opts = durable.WatchOptions{ID: args[1], Current: true}
		}
		w, err := c.Watch(ctx, opts)
		if err != nil {
			return err
		}
		defer w.Stop()
		if a.env.ErrTerminal {
			a.note("rpcdo: watching; Ctrl-C ends it")
		}
		for {
			change, err := w.Next()
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = a.printChange(change)
			}
			if err != nil {
				return err
			}
		}
	})
}

func (a *app) printChange(c durable.Change) error {
	if !c.Deleted {
		c.State = asJSON(c.State)
	}
	if a.json {
		return a.printJSON(c)
	}
	what := "deleted"
	if !c.Deleted {
		what = compactJSON(c.State)
	}
	_, err := fmt.Fprintf(a.env.Out, "%s  %s  %s\n", c.Modified.Local().Format("15:04:05.000"), shownID(c.ID), what)
	return err
}
