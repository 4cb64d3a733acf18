// Package cli has the commands of rpcdo, one a file. A command reads its flags,
// uses the packages that do the work and prints; it holds no logic that a
// program which imports those packages would want.
//
// Results go to stdout, errors and logs to stderr. The exit status is 0 when
// the work is done, 1 when it failed and 2 when the command line is wrong.
package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Groups of commands in the help.
const (
	groupRun  = "run"
	groupCall = "call"
)

// app is one run of the program.
type app struct {
	env     Env
	json    bool // --json
	started bool // a command's own work has begun: the command line was right
}

// Run runs the command line args, without the program's name, and returns the
// exit status. When ctx ends, commands stop cleanly.
func Run(ctx context.Context, args []string, env Env) int {
	a := &app{env: env.withDefaults()}
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetIn(a.env.In)
	root.SetOut(a.env.Out)
	root.SetErr(a.env.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if !a.started {
		err = usageError{err}
		a.json = a.json || slices.Contains(args, "--json") // flags after the wrong one are not read
	}
	return a.report(cmd, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rpcdo",
		Short: "Run, call and look at services on the bus",
		Long: `rpcdo runs a bus and services for development, calls any method of any
service, shows what is there, and measures how fast it is.

Commands that connect take --server and read NATS_URL; without either they use
the bus on this machine. Who they are there is said by one of --creds, --nkey,
--user with NATS_PASSWORD, NATS_TOKEN and the URL; NATS_CREDS and NATS_USER
stand in for the flags. --tls-ca, --tls-cert and --tls-key are for TLS.

With --json, results and errors are JSON. The exit status is 0 when the work is
done, 1 when it failed, 2 when the command line is wrong.`,
		Example: `  rpcdo dev                                # a bus and demo services on this machine
  rpcdo call math.add '{"a":1,"b":2}'      # in another terminal
  rpcdo services ls`,
		Version:       version().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print results and errors as JSON")
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run things:"},
		&cobra.Group{ID: groupCall, Title: "Use and look at what runs:"},
	)
	root.CompletionOptions.DisableDefaultCmd = true // for completion has one
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(a.help())
	root.AddCommand(a.dev(), a.bus(), a.serve(), a.call(), a.services(), a.objects(), a.events(), a.schedules(), a.bench(), a.version(), a.completion())
	root.InitDefaultHelpCmd()
	a.finishCommands(root)
	return root
}

// finishCommands gives every command what all have.
func (a *app) finishCommands(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.started = true
			return run(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		a.finishCommands(sub)
	}
}

// noSuchCommand refuses what is no command, and says which it may have been.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 && args[0] != "" {
		return fmt.Errorf("%s has no command %q: did you mean %s?", cmd.Name(), args[0], strings.Join(like, " or "))
	}
	return fmt.Errorf("%s has no command %q", cmd.Name(), args[0])
}

// group returns a command that only holds others.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	words := make([]string, len(subs))
	for i, sub := range subs {
		words[i] = sub.Name()
	}
	names := strings.Join(words, ", ")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("%s has no command %q: it has %s", cmd.Name(), args[0], names)
		}
		return usagef("%s needs a command: %s", cmd.Name(), names)
	}
	cmd.AddCommand(subs...)
	return cmd
}
