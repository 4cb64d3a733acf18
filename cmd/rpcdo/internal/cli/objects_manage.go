package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable"
)

type removeFlags struct {
	connection
	timeout time.Duration
	yes     bool
}

func (a *app) objectsRemove() *cobra.Command {
	f := &removeFlags{}
	cmd := &cobra.Command{
		Use:     "rm <class> <id> [flags]",
		Aliases: []string{"delete"},
		Short:   "Delete an object with all it has",
		Long: `Has the object's owner delete it: its state, its storage and its alarm, in one
step. Somebody must serve the class; the object may be paused. The next call of
it finds it as if it had never been.

It asks before it does that. Without a terminal it does nothing unless --yes
says that it is meant.`,
		Example: "  rpcdo objects rm counter dave --yes",
		Args:    oneObject,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runRemove(cmd.Context(), f, args[0], args[1]) },
	}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	cmd.Flags().DurationVar(&f.timeout, "timeout", bus.DefaultTimeout, "how long to wait for the object's owner")
	f.register(cmd)
	return cmd
}

func (a *app) runRemove(ctx context.Context, f *removeFlags, class, id string) error {
	switch {
	case f.timeout < time.Millisecond:
		return usagef("--timeout %v: want at least 1ms", f.timeout)
	case !f.yes && !a.env.InTerminal:
		return usagef("rm asks before it deletes, and there is no terminal to ask on: give --yes if you mean it")
	}
	return a.withClass(ctx, &f.connection, class, func(c *durable.Catalogue) error {
		info, err := c.State(ctx, id)
		if err != nil {
			return err
		}
		if !f.yes {
			question := fmt.Sprintf("Delete %s/%s, with its state of %d bytes, its storage and its alarm?", class, shownID(id), len(info.State))
			sure, err := a.confirm(ctx, question)
			if err != nil {
				return err
			}
			if !sure {
				return failf(rpc.Canceled, "nothing was deleted")
			}
		}
		ctx, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		if err := c.Delete(ctx, id); err != nil {
			return err
		}
		return a.printDone(managed{Class: class, ID: id, Deleted: true}, "deleted")
	})
}

// managed is what was done to an object, or to a class when there is no id.
type managed struct {
	Class   string  `json:"class"`
	ID      string  `json:"id,omitempty"`
	Deleted bool    `json:"deleted,omitempty"`
	Paused  *bool   `json:"paused,omitempty"`
	Reason  *string `json:"reason,omitempty"`
}

// printDone says what was done.
func (a *app) printDone(m managed, did string) error {
	if a.json {
		return a.printJSON(m)
	}
	what := "the class " + m.Class
	if m.ID != "" {
		what = m.Class + "/" + shownID(m.ID)
	}
	_, err := fmt.Fprintln(a.env.Out, did, what)
	return err
}

// confirm asks a question on the terminal that is answered with y or n.
func (a *app) confirm(ctx context.Context, question string) (yes bool, err error) {
	fmt.Fprintf(a.env.Err, "%s [y/N] ", question)
	type line struct {
		text string
		err  error
	}
	answered := make(chan line, 1)
	go func() { // a read of a terminal can't be interrupted: it is left behind, and ends with the program
		text, err := bufio.NewReader(a.env.In).ReadString('\n')
		answered <- line{text, err}
	}()
	select {
	case l := <-answered:
		if l.err != nil && l.err != io.EOF {
			return false, failf(rpc.Unknown, "reading the answer: %w", l.err)
		}
		text := strings.ToLower(strings.TrimSpace(l.text))
		return text == "y" || text == "yes", nil
	case <-ctx.Done():
		return false, failf(rpc.Canceled, "interrupted; nothing was done")
	}
}

type pauseFlags struct {
	connection
	reason string
}

func (a *app) objectsPause() *cobra.Command {
	f := &pauseFlags{}
	cmd := &cobra.Command{
		Use:   "pause <class> [id] [flags]",
		Short: "Have the calls of an object, or of a class, refused",
		Long: `Has the calls of an object refused, or those of all objects of the class when no
id is given: callers get "unavailable" with the reason. Alarms wait. It lasts
until "rpcdo objects resume", whoever starts or stops meanwhile.

When it returns, every instance that serves the class refuses calls; those that
were taken in before run to their end.`,
		Example: `  rpcdo objects pause counter bob --reason 'under investigation'
  rpcdo objects resume counter bob`,
		Args: classOrObject,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runPause(cmd.Context(), f, args) },
	}
	cmd.Flags().StringVar(&f.reason, "reason", "", "`TEXT` to tell callers, up to 1024 bytes")
	f.register(cmd)
	return cmd
}

func (a *app) runPause(ctx context.Context, f *pauseFlags, args []string) error {
	m := managed{Class: args[0], Paused: new(bool), Reason: &f.reason}
	*m.Paused = true
	return a.withClass(ctx, &f.connection, m.Class, func(c *durable.Catalogue) error {
		var err error
		if len(args) == 2 {
			m.ID = args[1]
			err = c.Pause(ctx, m.ID, f.reason)
		} else {
			err = c.PauseClass(ctx, f.reason)
		}
		if rpc.CodeOf(err) == rpc.InvalidArgument {
			return usagef("--%s", rpcMessage(err))
		}
		if err != nil {
			return err
		}
		return a.printDone(m, "paused")
	})
}

func (a *app) objectsResume() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "resume <class> [id] [flags]",
		Short: "End a pause",
		Long: `Ends the pause of an object, or that of a class when no id is given. They are
apart: an object that was paused by itself stays so when its class is resumed,
and the other way round. It is no error when nothing was paused.`,
		Example: "  rpcdo objects resume counter bob\n  rpcdo objects resume counter",
		Args:    classOrObject,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runResume(cmd.Context(), f, args) },
	}
	f.register(cmd)
	return cmd
}

func (a *app) runResume(ctx context.Context, f *connection, args []string) error {
	m := managed{Class: args[0], Paused: new(bool)}
	return a.withClass(ctx, f, m.Class, func(c *durable.Catalogue) error {
		var err error
		if len(args) == 2 {
			m.ID = args[1]
			err = c.Resume(ctx, m.ID)
		} else {
			err = c.ResumeClass(ctx)
		}
		if err != nil {
			return err
		}
		if err := a.printDone(m, "resumed"); err != nil {
			return err
		}
		return a.noteStillPaused(ctx, c, m.ID)
	})
}

// noteStillPaused says what else keeps calls from being served.
func (a *app) noteStillPaused(ctx context.Context, c *durable.Catalogue, id string) error {
	paused, err := c.Paused(ctx)
	if err != nil || len(paused) == 0 {
		return err
	}
	if id != "" {
		if paused[0].ID == "" {
			a.note("rpcdo: it is paused all the same, %s", plain(shownPause(&paused[0])))
		}
		return nil
	}
	const most = 10
	var ids []string
	for _, p := range paused {
		ids = append(ids, shownID(p.ID))
	}
	if more := len(ids) - most; more > 0 {
		ids = append(ids[:most], fmt.Sprintf("and %d more", more))
	}
	a.note("rpcdo: objects that are paused by themselves: %s", strings.Join(ids, ", "))
	return nil
}
