package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/natsd"
	"rpc.do/cmd/rpcdo/internal/bench"
)

// Bounds on what a benchmark may be asked for.
const (
	maxCallers  = 4096
	maxRounds   = 1_000
	maxDuration = time.Hour
	maxSize     = 8 << 20
	defaultSize = 128
)

// sizeRoom is what a message may have beside the payload that was asked for.
const sizeRoom = 4096

func (a *app) bench() *cobra.Command {
	return group(&cobra.Command{
		Use:   "bench",
		Short: "Measure latency and throughput",
		Long: `Measures on this machine, in this process, how long calls take, or events, and
how many are done in a second.`,
		Example: "  rpcdo bench call --baseline",
		GroupID: groupCall,
	}, a.benchCall(), a.benchObject(), a.benchEvent())
}

type benchFlags struct {
	connection
	concurrency []int
	duration    time.Duration
	rounds      int
	size        int
	baseline    bool
	transports  []string
}

func (a *app) benchCall() *cobra.Command {
	f := &benchFlags{size: defaultSize}
	cmd := &cobra.Command{
		Use:   "call [flags]",
		Short: "Measure calls, and plain nats.go requests to compare with",
		Long: `Measures calls of a method that adds two numbers. The service runs in this
process, under a name of its own, and is called over one of these transports:

  tcp        service and caller have a connection each, over sockets
  inprocess  the same, with a bus in this process and no sockets
  shortcut   service and caller share a connection: the call needs no bus

With --baseline, plain nats.go requests that do the same work are measured in
rounds between ours, over the same kind of connection (for shortcut: inprocess),
and the ratios are shown. All figures are medians over the rounds.

It runs a bus of its own for the time. Since the load could be somebody else's
trouble, another bus is used only when --server names it; NATS_URL is not read.`,
		Example: `  rpcdo bench call
  rpcdo bench call --baseline --concurrency 1,64 --transport tcp,inprocess
  rpcdo bench call --baseline --size 65536 --json
  rpcdo bench call --duration 10s --server nats://127.0.0.1:4222`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runBenchCall(cmd.Context(), f) },
	}
	f.register(cmd, []int{64}, 5*time.Second, "measure plain nats.go requests too")
	cmd.Flags().IntVar(&f.size, "size", f.size, "size of a request in bytes; the reply is about as large")
	return cmd
}

// register registers the flags of what can be measured on another bus too.
func (f *benchFlags) register(cmd *cobra.Command, concurrency []int, duration time.Duration, baseline string) {
	f.registerLoad(cmd, concurrency, duration, baseline, bench.Transports()...)
	f.connection.registerAs(cmd, "`URL` of a bus to measure over (default: one of its own)")
}

// registerLoad registers the flags that all benchmarks have.
func (f *benchFlags) registerLoad(cmd *cobra.Command, concurrency []int, duration time.Duration, baseline string, transports ...bench.Transport) {
	var names []string
	for _, t := range transports {
		names = append(names, string(t))
	}
	flags := cmd.Flags()
	flags.IntSliceVar(&f.concurrency, "concurrency", concurrency, "callers at once; several separated by commas")
	flags.DurationVar(&f.duration, "duration", duration, "how long to measure each row (that again with --baseline)")
	flags.IntVar(&f.rounds, "rounds", 5, "how many rounds the duration is in")
	flags.BoolVar(&f.baseline, "baseline", false, baseline)
	flags.StringSliceVar(&f.transports, "transport", []string{string(bench.TCP)}, strings.Join(names, ", ")+"; several separated by commas")
	complete(cmd, "transport", names...)
}

func (f *benchFlags) check() error {
	if len(f.concurrency) == 0 || len(f.transports) == 0 {
		return usagef("--concurrency and --transport: want at least one each")
	}
	for _, n := range f.concurrency {
		if n < 1 || n > maxCallers {
			return usagef("--concurrency %d: want 1 to %d", n, maxCallers)
		}
	}
	for _, t := range f.transports {
		if !slices.Contains(bench.Transports(), bench.Transport(t)) {
			return usagef("--transport %q: want tcp, inprocess or shortcut", t)
		}
		if f.server != "" && t != string(bench.TCP) {
			return usagef("--transport %s does not go with --server, whose bus is not in this process", t)
		}
	}
	switch {
	case f.server == "" && (f.credentials.given() || f.tls.given()):
		return usagef("--creds, --nkey, --user and --tls-… are for the bus that --server names: it is missing")
	case f.rounds < 1 || f.rounds > maxRounds:
		return usagef("--rounds %d: want 1 to %d", f.rounds, maxRounds)
	case f.duration < time.Duration(f.rounds) || f.duration > maxDuration:
		return usagef("--duration %v: want more than 0 and up to 1h, such as 5s", f.duration)
	case f.size < 1 || f.size > maxSize:
		return usagef("--size %d: want 1 to %d", f.size, maxSize)
	}
	return nil
}

func (a *app) runBenchCall(ctx context.Context, f *benchFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	rows, err := f.run(ctx, a, natsd.Config{
		NoJetStream: true, MaxPayload: int32(max(natsd.DefaultMaxPayload, f.size+sizeRoom)),
	}, func(cfg bench.Config) ([]bench.Row, error) { return bench.Call(ctx, cfg) })
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(rows)
	}
	return a.printTable(func(w *tabwriter.Writer) { printRows(w, rows) })
}

// run measures over each of the transports, on a bus of its own unless --server
// names one.
func (f *benchFlags) run(ctx context.Context, a *app, own natsd.Config, measure func(bench.Config) ([]bench.Row, error)) ([]bench.Row, error) {
	var srv *natsd.Server
	if f.server == "" {
		own.Port = natsd.FreePort
		var err error
		if srv, err = startServer(ctx, own); err != nil {
			return nil, err
		}
		defer srv.Shutdown()
	}
	rows := []bench.Row{}
	for _, t := range f.transports {
		measured, err := measure(bench.Config{
			Transport:   bench.Transport(t),
			Connect:     f.connector(a, srv, bench.Transport(t)),
			Concurrency: f.concurrency, Duration: f.duration, Rounds: f.rounds, Size: f.size, Baseline: f.baseline,
			Progress: a.benchProgress,
		})
		if err != nil {
			return nil, benchError(ctx, err)
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

// connector returns what makes the connections of a transport.
func (f *benchFlags) connector(a *app, srv *natsd.Server, t bench.Transport) func(context.Context) (*bus.Bus, error) {
	return func(ctx context.Context) (*bus.Bus, error) {
		switch {
		case srv == nil:
			return f.open(ctx, a, nil, 0)
		case t == bench.TCP:
			return bus.Connect(ctx, bus.Config{URLs: []string{srv.URL()}, Name: "bench"})
		default:
			return bus.Connect(ctx, bus.Config{InProcess: srv, Name: "bench"})
		}
	}
}

func (a *app) benchProgress(name string, concurrency int) {
	if a.env.ErrTerminal {
		a.note("measuring %s, %d at once", name, concurrency)
	}
}

func benchError(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || rpc.CodeOf(err) == rpc.Canceled) {
		return failf(rpc.Canceled, "interrupted: nothing was measured to the end")
	}
	return err
}

// printRows writes a table whose columns are separated by tabs.
func printRows(w *tabwriter.Writer, rows []bench.Row) {
	baseline := len(rows) > 0 && rows[0].Baseline != nil
	fmt.Fprint(w, "WORKLOAD\tAT ONCE\tCALLS/S\tP50\tP99")
	if baseline {
		fmt.Fprint(w, "\tRAW NATS.GO/S\tP50\tP99\tTHROUGHPUT\tLATENCY")
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%s\t%s", r.Name, r.Concurrency, r.OpsPerS, micros(r.P50us), micros(r.P99us))
		if b := r.Baseline; b != nil {
			fmt.Fprintf(w, "\t%.0f\t%s\t%s\t%s\t%s", b.OpsPerS, micros(b.P50us), micros(b.P99us), times(r.ThroughputRatio), times(r.LatencyRatio))
		}
		fmt.Fprintln(w)
	}
}

// times writes a ratio for people.
func times(ratio float64) string {
	if ratio < 0.1 {
		return fmt.Sprintf("%.2g×", ratio)
	}
	return fmt.Sprintf("%.2f×", ratio)
}
