package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
)

// deadFlags say which dead letters something is done with.
type deadFlags struct {
	connection
	all              bool
	service, handler string
	yes              bool
}

func (f *deadFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "all that are there now")
	flags.StringVar(&f.service, "service", "", "with --all, those of this `SERVICE`")
	flags.StringVar(&f.handler, "handler", "", "with --all and --service, those of this `HANDLER`")
	f.connection.register(cmd)
}

// ids returns the numbers that the command line has, none for --all.
func (f *deadFlags) ids(args []string) (ids []uint64, err error) {
	switch {
	case f.all && len(args) > 0:
		return nil, errors.New("give numbers or --all, not both")
	case f.all && f.handler != "" && f.service == "":
		return nil, errors.New("--handler: of which service? give --service too")
	case f.all:
		for flag, name := range map[string]string{"service": f.service, "handler": f.handler} {
			if name == "" {
				continue
			}
			if err := checkHandler([]string{name}); err != nil {
				return nil, fmt.Errorf("--%s: %w", flag, err)
			}
		}
		return nil, nil
	case f.service != "" || f.handler != "":
		return nil, errors.New("--service and --handler go with --all")
	case len(args) == 0:
		return nil, errors.New("which dead letters? want their numbers, as `rpcdo events dead ls` lists them, or --all")
	}
	for _, arg := range args {
		id, err := deadID(arg)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// whose says in words which are meant by --all.
func (f *deadFlags) whose() string {
	switch {
	case f.handler != "":
		return fmt.Sprintf("all dead letters of %s %s", f.service, f.handler)
	case f.service != "":
		return "all dead letters of " + f.service
	default:
		return "the dead letters of all handlers"
	}
}

func (a *app) deadRetry() *cobra.Command {
	f := &deadFlags{}
	cmd := &cobra.Command{
		Use:   "retry <number…> | --all [flags]",
		Short: "Have handlers have dead letters again",
		Long: `Has the handler have each event again, with all its attempts, and takes it out
of the dead letters. It does not wait until they are handled: what fails once
more comes back, with another number.

With --all these are all that are there now, or those of a service or handler.
One that can't be retried ends it.`,
		Example: `  rpcdo events dead retry 7
  rpcdo events dead retry --all --service greeter --handler welcome`,
		Args: func(_ *cobra.Command, args []string) error { _, err := f.ids(args); return err },
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runDead(cmd.Context(), f, args, deadDeed{
				did:  "retried",
				each: func(ctx context.Context, p *pipeline.Pipeline, id uint64) error { return p.RetryDead(ctx, id, nil) },
				all:  (*pipeline.Pipeline).RetryAllDead,
			})
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) deadDiscard() *cobra.Command {
	f := &deadFlags{}
	cmd := &cobra.Command{
		Use:     "discard <number…> | --all [flags]",
		Aliases: []string{"rm", "delete"},
		Short:   "Delete dead letters for good",
		Long: `Deletes dead letters: their handlers never have those events. With --all these
are all that are there now, or those of a service or handler.

It asks before it does that. Without a terminal it does nothing unless --yes
says that it is meant.`,
		Example: `  rpcdo events dead discard 7 --yes
  rpcdo events dead discard --all --service greeter --yes`,
		Args: func(_ *cobra.Command, args []string) error { _, err := f.ids(args); return err },
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.mayAsk(f.yes, "discard"); err != nil {
				return err
			}
			return a.runDead(cmd.Context(), f, args, deadDeed{
				did: "discarded", ask: !f.yes,
				each: func(ctx context.Context, p *pipeline.Pipeline, id uint64) error { return p.DiscardDead(ctx, id) },
				all:  (*pipeline.Pipeline).DiscardAllDead,
			})
		},
	}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	f.register(cmd)
	return cmd
}

// deadDeed is what is done with dead letters.
type deadDeed struct {
	did  string
	ask  bool
	each func(context.Context, *pipeline.Pipeline, uint64) error
	all  func(*pipeline.Pipeline, context.Context, pipeline.DeadQuery, func(int)) (int, error)
}

// doneDead is what was done with dead letters, for programs.
type doneDead struct {
	Done   int          `json:"done"`
	Failed []failedDead `json:"failed,omitempty"`
}

type failedDead struct {
	ID    uint64  `json:"id"`
	Error problem `json:"error"`
}

func (a *app) runDead(ctx context.Context, f *deadFlags, args []string, deed deadDeed) error {
	ids, err := f.ids(args)
	if err != nil {
		return usageError{err}
	}
	return a.withEvents(ctx, &f.connection, func(p *pipeline.Pipeline) error {
		if deed.ask {
			if err := a.askDiscard(ctx, p, f, ids); err != nil {
				return err
			}
		}
		if f.all {
			return a.allDead(ctx, p, f, deed)
		}
		return a.someDead(ctx, p, ids, deed)
	})
}

// askDiscard asks whether to delete what is meant.
func (a *app) askDiscard(ctx context.Context, p *pipeline.Pipeline, f *deadFlags, ids []uint64) error {
	question := fmt.Sprintf("Delete %s?", f.whose())
	if !f.all {
		question = fmt.Sprintf("Delete %d dead letters?", len(ids))
	}
	if len(ids) == 1 {
		d, err := p.DeadLetter(ctx, ids[0])
		if err != nil {
			return err
		}
		question = fmt.Sprintf("Delete the dead letter %d, %s %s for %s %s?", d.ID, plain(d.Event.Type), plain(d.Event.ID), plain(d.Service), plain(d.Handler))
	}
	return a.surely(ctx, false, question, "nothing was deleted")
}

// allDead does it with all.
func (a *app) allDead(ctx context.Context, p *pipeline.Pipeline, f *deadFlags, deed deadDeed) error {
	shown := &progress{app: a}
	n, err := deed.all(p, ctx, pipeline.DeadQuery{Service: f.service, Handler: f.handler}, func(done int) {
		shown.show("%s %s", deed.did, counted(done, "dead letter"))
	})
	shown.end()
	if ctx.Err() != nil {
		return failf(rpc.Canceled, "interrupted: %d were %s", n, deed.did)
	}
	if err != nil {
		return failf(codeOf(err), "%d were %s, then it ended: %w", n, deed.did, err)
	}
	return a.printDoneDead(doneDead{Done: n}, deed.did)
}

// someDead does it with those that are named; one that fails does not end it.
func (a *app) someDead(ctx context.Context, p *pipeline.Pipeline, ids []uint64, deed deadDeed) error {
	var done doneDead
	var first error
	shown := &progress{app: a}
	for _, id := range ids {
		err := deed.each(ctx, p, id)
		if err == nil {
			done.Done++
			shown.show("%s %d of %d dead letters", deed.did, done.Done, len(ids))
			continue
		}
		if len(ids) == 1 || ctx.Err() != nil {
			shown.end()
			return err
		}
		if first == nil {
			first = err
		}
		done.Failed = append(done.Failed, failedDead{id, describe(err)})
		shown.end()
		a.note("rpcdo: %s", describe(err).Message)
	}
	shown.end()
	if err := a.printDoneDead(done, deed.did); err != nil || first == nil {
		return err
	}
	return failf(codeOf(first), "%d of %d dead letters were not %s", len(done.Failed), len(ids), deed.did)
}

func (a *app) printDoneDead(d doneDead, did string) error {
	if a.json {
		return a.printJSON(d)
	}
	_, err := fmt.Fprintf(a.env.Out, "%s %s\n", did, counted(d.Done, "dead letter"))
	return err
}

// counted writes a number of things.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
