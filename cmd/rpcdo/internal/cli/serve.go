package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rpc.do/cmd/rpcdo/internal/demo"
	"rpc.do/server"
)

type serveFlags struct {
	logging
	connection
	wait time.Duration
}

func (a *app) serve() *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Run the demo services on a bus that runs elsewhere",
		Long: `Runs the demo services math and greeter, and objects of the class counter, on a
bus that is there already and has JetStream. The greeter handles the event
User.registered too, and the ticks of schedules for greet. Start it several
times to have several instances share the calls, the events and the ticks.

When the services take calls, one line is printed: "ready", the bus and the
services. On Ctrl-C or SIGTERM the services stop taking calls, finish those they
have and end; a second signal ends at once.`,
		Example: `  rpcdo serve
  rpcdo serve --wait 30s --log-level info --log-format json
  NATS_USER=app NATS_PASSWORD=secret rpcdo serve --server nats://127.0.0.1:4222`,
		GroupID: groupRun,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runServe(cmd.Context(), f) },
	}
	cmd.Flags().DurationVar(&f.wait, "wait", 0, "how long to wait for a bus that is not there yet (default: not at all)")
	f.connection.register(cmd)
	f.logging.register(cmd)
	return cmd
}

func (a *app) runServe(ctx context.Context, f *serveFlags) (err error) {
	if f.wait < 0 {
		return usagef("--wait %v is negative", f.wait)
	}
	log, err := f.logger(a)
	if err != nil {
		return err
	}
	b, err := f.open(ctx, a, log, f.wait)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	services := demo.Services(b)
	return a.serveAll(ctx, services, func() error {
		r := ready{Ready: withoutUser(b.Conn().ConnectedUrl()), Classes: []string{demo.Class}}
		for _, svc := range services {
			r.Services = append(r.Services, svc.Name())
		}
		return a.readyLine(r)
	})
}

// serveAll runs the services until ctx ends and has them finish what they have
// taken. Announce is called when all of them take calls.
func (a *app) serveAll(ctx context.Context, services []*server.Service, announce func() error) error {
	signalled := ctx
	g, ctx := errgroup.WithContext(ctx)
	for _, svc := range services {
		g.Go(func() error { return svc.Run(ctx) })
	}
	g.Go(func() error {
		for _, svc := range services {
			select {
			case <-svc.Ready():
			case <-ctx.Done():
				return nil
			}
		}
		if err := announce(); err != nil {
			return err
		}
		<-ctx.Done()
		if signalled.Err() != nil && a.env.ErrTerminal {
			fmt.Fprintln(a.env.Err, "\nstopping; once more to end at once")
		}
		return nil
	})
	return g.Wait()
}

// interrupted returns nil when err came of the user's wish to stop.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
