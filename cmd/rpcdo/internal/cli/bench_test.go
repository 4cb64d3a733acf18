package cli

import (
	"fmt"
	"strings"
	"testing"

	"rpc.do/bus/bustest"
	"rpc.do/cmd/rpcdo/internal/bench"
)

func TestBenchPrintsRows(t *testing.T) {
	t.Parallel()
	o := rpcdo(t, Env{}, "bench", "call", "--baseline", "--json", "--duration", "100ms",
		"--concurrency", "1,4", "--transport", "tcp,inprocess,shortcut")
	o.want(t, exitDone, texts("["), nil)
	rows := fromJSON[[]map[string]any](t, o.out)
	var names []string
	for _, row := range rows {
		names = append(names, fmt.Sprint(row["name"], " ", row["concurrency"]))
		for _, field := range []string{"ops", "p50_us", "p99_us", "ops_per_s", "latency_ratio", "throughput_ratio"} {
			if v, ok := row[field].(float64); !ok || v <= 0 {
				t.Errorf("%s: %s is %v", row["name"], field, row[field])
			}
		}
		baseline, ok := row["baseline"].(map[string]any)
		if !ok || baseline["name"] != "raw nats.go request/reply" {
			t.Fatalf("baseline %v", row["baseline"])
		}
		for _, field := range []string{"p50_us", "p99_us", "ops_per_s"} {
			if v, ok := baseline[field].(float64); !ok || v <= 0 {
				t.Errorf("%s: the baseline's %s is %v", row["name"], field, baseline[field])
			}
		}
		if len(row) != 9 || len(baseline) != 4 {
			t.Errorf("other fields than documented: %v", row)
		}
	}
	want := "call/tcp/small 1, call/tcp/small 4, call/inprocess/small 1, call/inprocess/small 4, call/shortcut/small 1, call/shortcut/small 4"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("rows %s, want %s", got, want)
	}
}

func TestBenchWithoutBaseline(t *testing.T) {
	t.Parallel()
	o := rpcdo(t, Env{}, "bench", "call", "--json", "--duration", "20ms", "--rounds", "2", "--concurrency", "2", "--size", "2097152")
	rows := fromJSON[[]bench.Row](t, o.out)
	if len(rows) != 1 || rows[0].Name != "call/tcp/2MiB" || rows[0].Ops == 0 || rows[0].Baseline != nil || strings.Contains(o.out, "ratio") {
		t.Errorf("got %s", o.out)
	}
}

func TestBenchPrintsATable(t *testing.T) {
	t.Parallel()
	// NATS_URL is not for load.
	env := with("NATS_URL", "nats://127.0.0.1:1")
	env.ErrTerminal = true
	rpcdo(t, env, "bench", "call", "--baseline", "--duration", "20ms", "--concurrency", "2").
		want(t, exitDone, texts("WORKLOAD        AT ONCE", "RAW NATS.GO/S", "\ncall/tcp/small  2 ", "×"), texts("measuring call/tcp/small, 2 at once\n"))
}

func TestBenchOverAnotherBus(t *testing.T) {
	t.Parallel()
	url := bustest.Server(t).URL()
	rpcdo(t, Env{}, "bench", "call", "--baseline", "--duration", "20ms", "--concurrency", "2", "--server", url).
		want(t, exitDone, texts("call/tcp/small"), nil)
	o := rpcdo(t, Env{}, "bench", "call", "--duration", "20ms", "--size", "2097152", "--server", url)
	o.want(t, exitFailed, nil, texts("resource_exhausted", "max_payload"))
	o.wantLine(t)
}

func TestBenchIsInterrupted(t *testing.T) {
	t.Parallel()
	env := Env{ErrTerminal: true}
	p := start(t, env, "bench", "call", "--duration", "1h", "--baseline", "--concurrency", "2")
	<-p.err.contains("measuring")
	if status := p.stop(t); status != exitFailed || !strings.Contains(p.err.String(), "interrupted") || p.out.String() != "" {
		t.Errorf("status %d, stdout %q, stderr %q", status, &p.out, &p.err)
	}
}
