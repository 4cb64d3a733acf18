package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
)

func (a *app) eventsCancel() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "cancel <event id> [flags]",
		Short: "Take back an event that waits for its time",
		Long: `Takes back an event that was sent with --at or --after. The answer is definite:
when it says "cancelled" the event is not sent. When it was sent before, or
there is no such event, nothing is done and the exit status is 1.

It is no error to cancel an event once more within a day.`,
		Example: "  rpcdo events cancel trial-ada",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 || args[0] == "":
				return errors.New("which event? want its id, which \"rpcdo events send\" has printed")
			case len(args) > 1:
				return fmt.Errorf("%d arguments: want the id of one event; put an id with spaces in quotes", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.runEventsCancel(cmd.Context(), f, args[0]) },
	}
	f.register(cmd)
	return cmd
}

// cancelledEvent is an event that was taken back, for programs.
type cancelledEvent struct {
	ID        string `json:"id"`
	Cancelled bool   `json:"cancelled"`
}

func (a *app) runEventsCancel(ctx context.Context, f *connection, id string) error {
	return a.withEvents(ctx, f, func(p *pipeline.Pipeline) error {
		cancelled, err := p.Cancel(ctx, id)
		if err != nil {
			return asUsage(err)
		}
		if !cancelled {
			return failf(rpc.FailedPrecondition, "the event %s was sent before: nothing was cancelled", shownID(id))
		}
		if a.json {
			return a.printJSON(cancelledEvent{id, true})
		}
		_, err = fmt.Fprintln(a.env.Out, "cancelled", shownID(id))
		return err
	})
}
