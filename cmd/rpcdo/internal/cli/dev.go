package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"rpc.do/bus"
	"rpc.do/bus/natsd"
	"rpc.do/cmd/rpcdo/internal/demo"
	"rpc.do/server"
	"rpc.do/server/workers/pipelineworker"
)

type devFlags struct {
	logging
	port  int
	store string
	demo  bool
}

func (a *app) dev() *cobra.Command {
	f := &devFlags{}
	cmd := &cobra.Command{
		Use:   "dev [flags]",
		Short: "Run a bus and demo services on this machine, for development",
		Long: `Runs a NATS server with JetStream in this process, on 127.0.0.1 only, the
pipeline service, which sends events and manages schedules for clients without
the Go packages and takes the ticks of all schedules, the demo services math and
greeter, and durable objects of the class counter. The greeter handles the event
User.registered too, and the ticks of schedules for greet, and sends
Greeting.sent. Ctrl-C finishes what runs and stops; a second one ends at once.

What is stored is kept between runs, in .rpcdo/dev below the current directory
unless --store says otherwise. It is written to disk every two minutes
(sync: interval): a crash of the program loses nothing, a power failure may.

It prints a banner when the bus takes connections and the services take calls.
Other machines can't connect; "rpcdo bus" is for that.`,
		Example: `  rpcdo dev
  rpcdo dev --nats-port 14222 --store /tmp/dev-store
  rpcdo dev --nats-port 0                  # a free port, shown in the banner
  rpcdo dev --demo=false --log-level debug # without the demo, talkative`,
		GroupID: groupRun,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDev(cmd.Context(), f) },
	}
	cmd.Flags().IntVar(&f.port, "nats-port", natsd.DefaultPort, "`PORT` of the bus; 0 for a free one")
	cmd.Flags().StringVar(&f.store, "store", "", "`DIR` that keeps what is stored (default .rpcdo/dev)")
	cmd.Flags().BoolVar(&f.demo, "demo", true, "run the demo services and objects")
	f.register(cmd)
	return cmd
}

func (a *app) runDev(ctx context.Context, f *devFlags) (err error) {
	log, err := f.logger(a)
	if err != nil {
		return err
	}
	port, err := portFlag("--nats-port", f.port)
	if err != nil {
		return err
	}
	store, err := storeDir(f.store, "dev")
	if err != nil {
		return err
	}
	srv, err := startServer(ctx, natsd.Config{Port: port, StoreDir: store, Sync: natsd.SyncInterval, Logger: log})
	if err != nil {
		return interrupted(ctx, err)
	}
	defer srv.Shutdown()
	b, err := bus.Connect(ctx, bus.Config{InProcess: srv, Name: "rpcdo-dev", Logger: log})
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	var services []*server.Service
	if f.demo {
		services = demo.Services(b)
	}
	services = append(services, pipelineworker.New(b, pipelineworker.Config{Server: server.Config{Version: demo.Version}}))
	return a.serveAll(ctx, services, func() error {
		return a.printBanner(srv.URL(), store, services, f.demo)
	})
}
