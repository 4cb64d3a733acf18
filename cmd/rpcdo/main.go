// Command rpcdo runs, calls and looks at services on the bus. See
// rpcdo --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"rpc.do/cmd/rpcdo/internal/cli"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for a clean end; from then on signals have their
	// usual effect, so that a second one ends the program at once.
	context.AfterFunc(ctx, stop)
	return cli.Run(ctx, os.Args[1:], cli.System())
}
