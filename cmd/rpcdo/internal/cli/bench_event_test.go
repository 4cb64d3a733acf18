package cli

import (
	"fmt"
	"strings"
	"testing"

	"rpc.do/cmd/rpcdo/internal/bench"
)

// brieflyEvents has bench event measure for a moment.
func brieflyEvents(args ...string) []string {
	return append([]string{"bench", "event", "--duration", "10ms", "--rounds", "1", "--handlers", "10"}, args...)
}

func TestBenchEventPrintsRows(t *testing.T) {
	t.Parallel()
	o := rpcdo(t, Env{}, brieflyEvents("--baseline", "--json", "--concurrency", "1,3", "--transport", "inprocess")...)
	o.want(t, exitDone, texts("["), nil)
	rows := fromJSON[[]map[string]any](t, o.out)
	var names []string
	for _, row := range rows {
		name := fmt.Sprint(row["name"])
		names = append(names, fmt.Sprint(name, " ", row["concurrency"]))
		baseline, _ := row["baseline"].(map[string]any)
		if strings.HasSuffix(name, "/idle") {
			mustBePositive(t, name, row, []string{"ops", "ops_per_s"})
			if each, ok := row["bytes_per_handler"].(float64); !ok || each == 0 { // of so few, beside other tests, it may be any
				t.Errorf("bytes_per_handler is %v", row["bytes_per_handler"])
			}
			continue
		}
		mustBePositive(t, name, row, []string{"ops", "p50_us", "p99_us", "ops_per_s", "latency_ratio", "throughput_ratio"})
		mustBePositive(t, name+"'s baseline", baseline, []string{"p50_us", "p99_us", "ops_per_s"})
		if len(row) != 9 || len(baseline) != 4 || !strings.HasPrefix(fmt.Sprint(baseline["name"]), "raw JetStream ") {
			t.Errorf("other fields than documented: %v", row)
		}
	}
	var want []string
	for _, row := range []string{"send 1", "send 3", "batch 1", "handle 1", "handle 3", "latency 1", "idle 10"} {
		want = append(want, "event/inprocess/"+row)
	}
	if got := strings.Join(names, ", "); got != strings.Join(want, ", ") {
		t.Errorf("rows %s, want %s", got, strings.Join(want, ", "))
	}
}

func TestBenchEventPrintsATable(t *testing.T) {
	t.Parallel()
	rpcdo(t, Env{ErrTerminal: true}, brieflyEvents("--baseline", "--measure", "latency,idle", "--sync", "always")...).
		want(t, exitDone, texts("WORKLOAD", "BASELINE/S", "\nevent/tcp/latency  1 ", "×", "raw JetStream publish and Consume\n", " started ", " KiB a handler\n"),
			texts("measuring event/tcp/latency, 1 at once\n", "measuring event/tcp/idle, 10 at once\n"))
	o := rpcdo(t, Env{}, brieflyEvents("--measure", "send,handle", "--concurrency", "2", "--json")...)
	rows := fromJSON[[]bench.Row](t, o.out)
	if len(rows) != 2 || rows[0].Baseline != nil || rows[1].Ops == 0 {
		t.Errorf("got %s", o.out)
	}
}

func TestBenchEventIsInterrupted(t *testing.T) {
	t.Parallel()
	for _, aspect := range bench.EventAspects() {
		p := start(t, Env{ErrTerminal: true}, "bench", "event", "--duration", "1h", "--baseline", "--measure", string(aspect), "--handlers", "500")
		<-p.err.contains("measuring")
		if status := p.stop(t); status != exitFailed || !strings.Contains(p.err.String(), "interrupted") || p.out.String() != "" {
			t.Errorf("%s: status %d, stdout %q, stderr %q", aspect, status, &p.out, &p.err)
		}
	}
}

func TestBenchEventUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"extra":                `bench event takes no arguments, got "extra"`,
		"--measure speed":      `--measure "speed": want some of send, batch, handle, latency, idle`,
		"--handlers 0":         "--handlers 0: want 1 to 10000",
		"--sync default":       `--sync "default": want always or interval`,
		"--transport shortcut": "--transport shortcut: events always go over the bus: want tcp or inprocess",
		"--transport udp":      `--transport "udp"`,
		"--concurrency 0":      "--concurrency 0: want 1 to 4096",
		"--server x":           "unknown flag: --server",
	} {
		o := rpcdo(t, Env{}, append([]string{"bench", "event"}, strings.Fields(args)...)...)
		o.want(t, exitUsage, nil, texts(want))
		o.wantLine(t)
	}
}
