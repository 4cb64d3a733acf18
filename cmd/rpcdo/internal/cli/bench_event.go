package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/bus/natsd"
	"rpc.do/cmd/rpcdo/internal/bench"
)

// maxHandlers bounds the handlers that a benchmark has.
const maxHandlers = 10_000

type benchEventFlags struct {
	benchFlags
	aspects  []string
	handlers int
	sync     string
}

func (a *app) benchEvent() *cobra.Command {
	f := &benchEventFlags{benchFlags: benchFlags{size: defaultSize}}
	var names []string
	for _, aspect := range bench.EventAspects() {
		names = append(names, string(aspect))
	}
	cmd := &cobra.Command{
		Use:   "event [flags]",
		Short: "Measure events, and what plain JetStream makes of the same work",
		Long: `Measures events of 100 bytes or so, over tcp or inprocess. What is measured can
be chosen with --measure:

  send     one event after the other, by each of --concurrency senders
  batch    batches of 1000 events, one after the other: a second has so many
           events, P50 and P99 are the times of whole batches
  handle   handling events that are stored already, --concurrency at once; P50
           and P99 are what one of 100 events takes that are handled together
  latency  from before a send until its handler has begun, one event at a time
  idle     the memory that --handlers handlers take that have nothing to do,
           and how many are started in a second

With --baseline these are measured in rounds between, over the same kind of
connection: a publish of the same message with the same headers; asynchronous
publishes of as many; a Consume loop with explicit acknowledgements and as many
workers that decode the same JSON; a publish and such a loop.

All figures are medians over the rounds. It runs a bus of its own for the time,
with its store in a temporary directory: on another one, others would get the
events.

  rpcdo bench event --baseline --transport tcp,inprocess --concurrency 1,64
  rpcdo bench event --measure send,latency --sync always --json`,
		Example: "  rpcdo bench event --baseline --measure send,handle",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runBenchEvent(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	f.registerLoad(cmd, []int{1, 16}, 2*time.Second, "measure plain JetStream too", bench.TCP, bench.InProcess)
	flags.StringSliceVar(&f.aspects, "measure", nil, "what to measure, several separated by commas (default all)")
	flags.IntVar(&f.handlers, "handlers", 1000, "how many handlers there are for idle")
	flags.StringVar(&f.sync, "sync", natsd.SyncInterval.String(), "when stored data are on disk: always (before the acknowledgement) or interval")
	complete(cmd, "measure", names...)
	complete(cmd, "sync", natsd.SyncAlways.String(), natsd.SyncInterval.String())
	return cmd
}

func (f *benchEventFlags) check() error {
	for _, name := range f.aspects {
		if !slices.Contains(bench.EventAspects(), bench.EventAspect(name)) {
			return usagef("--measure %q: want some of %s", name, joined(bench.EventAspects()))
		}
	}
	if sync, err := natsd.ParseSync(f.sync); err != nil || sync == natsd.SyncDefault {
		return usagef("--sync %q: want always or interval", f.sync)
	}
	if f.handlers < 1 || f.handlers > maxHandlers {
		return usagef("--handlers %d: want 1 to %d", f.handlers, maxHandlers)
	}
	if slices.Contains(f.transports, string(bench.Shortcut)) {
		return usagef("--transport shortcut: events always go over the bus: want tcp or inprocess")
	}
	return f.benchFlags.check()
}

func (a *app) runBenchEvent(ctx context.Context, f *benchEventFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	sync, err := natsd.ParseSync(f.sync)
	if err != nil {
		return err
	}
	rows, err := f.run(ctx, a, natsd.Config{Sync: sync}, func(cfg bench.Config) ([]bench.Row, error) {
		return bench.Events(ctx, bench.EventConfig{Config: cfg, Aspects: f.wanted(), Handlers: f.handlers})
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(rows)
	}
	return a.printTable(func(w *tabwriter.Writer) { printEventRows(w, rows) })
}

func (f *benchEventFlags) wanted() []bench.EventAspect {
	var aspects []bench.EventAspect
	for _, name := range f.aspects {
		aspects = append(aspects, bench.EventAspect(name))
	}
	return aspects
}

// printEventRows writes a table whose columns are separated by tabs.
func printEventRows(w *tabwriter.Writer, rows []bench.Row) {
	baseline := slices.ContainsFunc(rows, func(r bench.Row) bool { return r.Baseline != nil })
	fmt.Fprint(w, "WORKLOAD\tAT ONCE\tEVENTS/S\tP50\tP99")
	if baseline {
		fmt.Fprint(w, "\tBASELINE/S\tP50\tP99\tTHROUGHPUT\tLATENCY\tBASELINE")
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		if r.BytesPerHandler != 0 {
			fmt.Fprintf(w, "%s\t%d\t%.0f started\t-\t-, %.1f KiB a handler\n", r.Name, r.Concurrency, r.OpsPerS, r.BytesPerHandler/1024)
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%s\t%s", r.Name, r.Concurrency, r.OpsPerS, micros(r.P50us), micros(r.P99us))
		if b := r.Baseline; b != nil {
			fmt.Fprintf(w, "\t%.0f\t%s\t%s\t%s\t%s\t%s", b.OpsPerS, micros(b.P50us), micros(b.P99us), times(r.ThroughputRatio), times(r.LatencyRatio), b.Name)
		}
		fmt.Fprintln(w)
	}
}

// joined lists what can be measured.
func joined[A ~string](aspects []A) string {
	names := make([]string, len(aspects))
	for i, aspect := range aspects {
		names[i] = string(aspect)
	}
	return strings.Join(names, ", ")
}
