package cli

import (
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/bus/natsd"
	"rpc.do/cmd/rpcdo/internal/bench"
)

// maxObjects bounds the objects that a benchmark stores.
const maxObjects = 10_000_000

type benchObjectFlags struct {
	benchFlags
	aspects []string
	objects int
	active  int
	sync    string
}

func (a *app) benchObject() *cobra.Command {
	f := &benchObjectFlags{benchFlags: benchFlags{size: defaultSize}}
	var names []string
	for _, aspect := range bench.Aspects() {
		names = append(names, string(aspect))
	}
	cmd := &cobra.Command{
		Use:   "object [flags]",
		Short: "Measure calls of durable objects, and what nats.go makes of the same work",
		Long: `Measures calls of objects that count. Their class is served by this process,
under a name of its own, and called over the transports of "bench call". What is
measured can be chosen with --measure:

  increment   turns that change the state; every caller has an object of its own
  hot         the same, but all callers have one object (from 2 callers up)
  view        views of an object
  event       turns that emit an event as well
  alarm       turns that set the alarm as well
  storage     turns that write an entry of the storage as well
  batch       turns that do all three
  activation  views of objects that are not in memory, one after the other, in a
              class that has --objects of them
  rest        what owning that class costs while nobody calls: the messages of
              the owner in a second, and processor time
  memory      what --active objects take that have had a turn and are idle

With --baseline these are measured in rounds between, over the same kind of
connection (for shortcut: inprocess) and with a bucket that is configured alike:

  increment   one caller: a request, its reply, then a compare-and-set publish
              more: the bare loop of request, compare-and-set publish, reply
  hot         the bare loop, whose every turn waits for the commit before
  view        a call of a service, and that with a nats.go request
  event, alarm, storage, batch
              a request, its reply, then an atomic batch of as many messages
  activation  a class of 1000 objects; that with a request, its reply, a read
              and a conditional publish
  rest        a class of 1000 objects

All figures are medians over the rounds. CPU is the processor time of the whole
process for each call, or for each second of rest: caller, owner and bus.

It runs a bus of its own for the time, with its store in a temporary directory.
Another bus is used only when --server names it. There it leaves nothing behind,
and does not emit events, since others may take them in.

  rpcdo bench object --baseline --transport tcp,inprocess,shortcut
  rpcdo bench object --baseline --measure activation,rest --objects 1000000
  rpcdo bench object --measure increment,hot --sync always --json`,
		Example: "  rpcdo bench object --baseline --measure increment,hot,view",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runBenchObject(cmd.Context(), f) },
	}
	f.register(cmd, []int{1, 64}, 2*time.Second, "measure what nats.go makes of the same work too")
	flags := cmd.Flags()
	flags.StringSliceVar(&f.aspects, "measure", nil, "what to measure, several separated by commas (default all)")
	flags.IntVar(&f.objects, "objects", bench.FewObjects, "objects that the class of activation and rest has")
	flags.IntVar(&f.active, "active", 100_000, "objects in memory for memory")
	flags.StringVar(&f.sync, "sync", natsd.SyncInterval.String(), "when stored data are on disk: always (before the acknowledgement) or interval")
	complete(cmd, "measure", names...)
	complete(cmd, "sync", natsd.SyncAlways.String(), natsd.SyncInterval.String())
	return cmd
}

func (f *benchObjectFlags) check() error {
	for _, name := range f.aspects {
		if !slices.Contains(bench.Aspects(), bench.Aspect(name)) {
			return usagef("--measure %q: want some of %s", name, joined(bench.Aspects()))
		}
	}
	if sync, err := natsd.ParseSync(f.sync); err != nil || sync == natsd.SyncDefault {
		return usagef("--sync %q: want always or interval", f.sync)
	}
	switch {
	case f.objects < bench.FewObjects || f.objects > maxObjects:
		return usagef("--objects %d: want %d to %d", f.objects, bench.FewObjects, maxObjects)
	case f.active < 1 || f.active > maxObjects:
		return usagef("--active %d: want 1 to %d", f.active, maxObjects)
	}
	return f.benchFlags.check()
}

func (a *app) runBenchObject(ctx context.Context, f *benchObjectFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	sync, err := natsd.ParseSync(f.sync)
	if err != nil {
		return err
	}
	rows, err := f.run(ctx, a, natsd.Config{Sync: sync}, func(cfg bench.Config) ([]bench.Row, error) {
		return bench.Object(ctx, bench.ObjectConfig{
			Config: cfg, Objects: f.objects, Active: f.active, SharedBus: f.server != "", Aspects: f.wanted(), Stored: a.benchStored,
		})
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(rows)
	}
	return a.printTable(func(w *tabwriter.Writer) { printObjectRows(w, rows) })
}

func (a *app) benchStored(objects int, took time.Duration) {
	if a.env.ErrTerminal {
		a.note("stored %d objects in %v", objects, took.Round(time.Millisecond))
	}
}

func (f *benchObjectFlags) wanted() []bench.Aspect {
	var aspects []bench.Aspect
	for _, name := range f.aspects {
		aspects = append(aspects, bench.Aspect(name))
	}
	return aspects
}

// printObjectRows writes a table whose columns are separated by tabs.
func printObjectRows(w *tabwriter.Writer, rows []bench.Row) {
	baseline := slices.ContainsFunc(rows, func(r bench.Row) bool { return r.Baseline != nil })
	fmt.Fprint(w, "WORKLOAD\tAT ONCE\tCALLS/S\tP50\tP99\tCPU")
	if baseline {
		fmt.Fprint(w, "\tBASELINE/S\tP50\tP99\tCPU\tTHROUGHPUT\tLATENCY\tBASELINE")
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		switch {
		case r.CPUusPerS > 0:
			fmt.Fprintf(w, "%s\t-\t%.1f messages\t-\t-\t%s a second", r.Name, r.OpsPerS, micros(r.CPUusPerS))
		case r.BytesPerObject != 0:
			fmt.Fprintf(w, "%s\t%d\t%.0f\t%s\t%s\t%s, %.0f bytes an object", r.Name, r.Concurrency, r.OpsPerS, micros(r.P50us), micros(r.P99us), micros(r.CPUus), r.BytesPerObject)
		default:
			fmt.Fprintf(w, "%s\t%d\t%.0f\t%s\t%s\t%s", r.Name, r.Concurrency, r.OpsPerS, micros(r.P50us), micros(r.P99us), micros(r.CPUus))
		}
		if b := r.Baseline; b != nil && b.CPUusPerS > 0 {
			fmt.Fprintf(w, "\t%.1f messages\t-\t-\t%s a second\t%s\t-\t%s", b.OpsPerS, micros(b.CPUusPerS), times(r.ThroughputRatio), b.Name)
		} else if b != nil {
			fmt.Fprintf(w, "\t%.0f\t%s\t%s\t%s\t%s\t%s\t%s", b.OpsPerS, micros(b.P50us), micros(b.P99us), micros(b.CPUus),
				times(r.ThroughputRatio), times(r.LatencyRatio), b.Name)
		}
		fmt.Fprintln(w)
	}
}
