package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/bus"
	"rpc.do/cmd/rpcdo/internal/demo"
	"rpc.do/pipeline"
)

// notRun lists the examples in the help that are not run here, and why.
var notRun = map[string]string{
	"rpcdo bus --name bus-1 --port 4301 --cluster-name dev --cluster-port 6301 --routes 127.0.0.1:6301,127.0.0.1:6302,127.0.0.1:6303": "waits for the other members",

	"source <(rpcdo completion bash)":                              "a shell's",
	"source <(rpcdo completion zsh)":                               "a shell's",
	"rpcdo completion fish | source":                               "a shell's",
	"rpcdo completion powershell | Out-String | Invoke-Expression": "a shell's",
}

// The examples in the help work when they are pasted while rpcdo dev runs.
func TestExamplesInTheHelp(t *testing.T) {
	t.Parallel()
	url := demoBus(t)
	a := &app{env: Env{}.withDefaults()}
	unused := map[string]bool{}
	for line := range notRun {
		unused[line] = true
	}
	var ran int
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for line := range strings.Lines(strings.ReplaceAll(cmd.Example, "\\\n    ", "")) {
			if line, _, _ = strings.Cut(line, "  #"); strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
				continue
			}
			line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
			delete(unused, line)
			if notRun[line] == "" {
				ran++
				t.Run(line, func(t *testing.T) {
					t.Parallel()
					runExample(t, url, line)
				})
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
	if ran < 25 {
		t.Errorf("only %d examples were found", ran)
	}
	for line := range unused {
		t.Errorf("no longer an example: %s", line)
	}
}

// runExample runs one line as a shell would, on the bus at url in place of the
// usual one. Commands that run until they are stopped are stopped; they get a
// port of their own and do not write into the current directory.
func runExample(t *testing.T, url, line string) {
	args := words(line)
	variables := []string{"NATS_URL", url}
	var env Env
	if args[0] == "echo" {
		env.In = strings.NewReader(args[1])
		args = args[3:]
	}
	for ; strings.Contains(args[0], "="); args = args[1:] {
		name, value, _ := strings.Cut(args[0], "=")
		variables = append(variables, name, value)
	}
	env.Getenv = with(variables...).Getenv
	if args[0] != "rpcdo" {
		t.Fatalf("%q is not rpcdo's", args[0])
	}
	args = args[1:]
	for i, arg := range args {
		if arg == bus.DefaultURL {
			args[i] = url
		}
	}
	switch {
	case len(args) == 0 || args[0] == "help" || args[0] == "version" || args[0] == "call" || args[0] == "services":
		if o := rpcdo(t, env, args...); o.status != exitDone || o.err != "" {
			t.Errorf("status %d, stderr %s", o.status, o.err)
		}
	case args[0] == "objects":
		runObjectsExample(t, env, args)
	case args[0] == "events":
		runEventsExample(t, env, args)
	case args[0] == "schedules":
		runSchedulesExample(t, env, args)
	case args[0] == "bench" && args[1] == "event":
		rpcdo(t, env, append(args, "--duration", "10ms", "--rounds", "1")...).want(t, exitDone, texts("event/tcp/"), nil)
	case args[0] == "bench":
		rpcdo(t, env, append(args, "--duration", "10ms", "--rounds", "1")...).want(t, exitDone, texts("call/tcp/"), nil)
	case args[0] == "dev":
		runUntilReady(t, env, append(args, "--nats-port", "0", "--store", t.TempDir()))
	case args[0] == "bus":
		runUntilReady(t, env, append(args, "--port", "0", "--store", t.TempDir()))
	case args[0] == "serve":
		runUntilReady(t, env, args)
	default:
		t.Errorf("nothing is known about %s", args[0])
	}
}

// runObjectsExample runs a command whose object must be there.
func runObjectsExample(t *testing.T, env Env, args []string) {
	t.Helper()
	if args[1] == "watch" {
		p := start(t, env, args...)
		for shown := p.out.contains("alice"); ; {
			rpcdo(t, env, "objects", "call", "counter", "alice", "increment", `{"by":1}`).want(t, exitDone, texts("value"), nil)
			select {
			case <-shown:
				if status := p.stop(t); status != exitDone {
					t.Errorf("status %d, stderr %s", status, &p.err)
				}
				return
			default:
			}
		}
	}
	if len(args) > 3 && args[1] != "ls" && args[1] != "call" && args[3] != "bob" {
		rpcdo(t, env, "objects", "call", "counter", args[3], "increment", `{"by":1}`).want(t, exitDone, texts("value"), nil)
	}
	if o := rpcdo(t, env, args...); o.status != exitDone {
		t.Errorf("status %d, stderr %s", o.status, o.err)
	}
}

// runEventsExample runs a command whose events, handlers and dead letters must be
// there, on a bus of its own: some examples discard all of them.
func runEventsExample(t *testing.T, env Env, args []string) {
	t.Helper()
	l := newEventsBus(t)
	l.env.In = env.In
	start(t, l.env, "serve").waitFor(t, "ready ")
	send := func(id, name string) {
		t.Helper()
		if _, err := pipeline.Send(t.Context(), l.p, demo.Registered, demo.Person{Name: name}, pipeline.WithID(id)); err != nil {
			t.Fatal(err)
		}
	}
	send("order-17/paid", "Ada")
	send("0197d3a8-7c1e-7cc3-9c0b-6e51a1b2c3d4", "Ada")
	switch args[1] {
	case "handlers":
		l.serve("mailer", "send-welcome", "User.registered", func(context.Context, pipeline.RawEvent) error { return nil })()
	case "dead":
		for i := range 7 {
			send(fmt.Sprint("nameless-", i), "")
		}
		l.wantDead(7)
	}
	if args[1] == "cancel" {
		l.run("send", "Trial.ends", "--after", "14d", "--id", args[2]).want(t, exitDone, texts("stored"), nil)
	}
	if args[1] == "tail" {
		p := start(t, l.env, args...)
		for shown := p.out.contains("User.registered"); ; {
			send(bus.NewEventID(), "Ada")
			select {
			case <-shown:
				if status := p.stop(t); status != exitDone {
					t.Errorf("status %d, stderr %s", status, &p.err)
				}
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	if o := rpcdo(t, l.env, args...); o.status != exitDone {
		t.Errorf("status %d, stderr %s", o.status, o.err)
	}
}

// runSchedulesExample runs a command whose schedule must be there, on a bus of its
// own: some examples make one anew.
func runSchedulesExample(t *testing.T, env Env, args []string) {
	t.Helper()
	l := newSchedulesBus(t)
	l.env.In = env.In
	if args[1] != "create" || slices.Contains(args, "--replace") {
		l.run("create", "nightly", "0 3 * * *", "--event", "Night.comes").want(t, exitDone, texts("created nightly"), nil)
	}
	if o := rpcdo(t, l.env, args...); o.status != exitDone {
		t.Errorf("status %d, stderr %s", o.status, o.err)
	}
}

func runUntilReady(t *testing.T, env Env, args []string) {
	t.Helper()
	p := start(t, env, args...)
	p.waitFor(t, "ready ")
	if status := p.stop(t); status != exitDone {
		t.Errorf("status %d, stderr %s", status, &p.err)
	}
}
