package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"rpc.do/bus/bustest"
	"rpc.do/cmd/rpcdo/internal/bench"
)

// briefly has bench object measure for a moment.
func briefly(args ...string) []string {
	return append([]string{"bench", "object", "--duration", "10ms", "--rounds", "1", "--active", "1000"}, args...)
}

func TestBenchObjectPrintsRows(t *testing.T) {
	t.Parallel()
	o := rpcdo(t, Env{}, briefly("--baseline", "--json", "--concurrency", "2", "--transport", "inprocess", "--objects", "1200")...)
	o.want(t, exitDone, texts("["), nil)
	rows := fromJSON[[]map[string]any](t, o.out)
	var names []string
	for _, row := range rows {
		name := fmt.Sprint(row["name"])
		names = append(names, fmt.Sprint(name, " ", row["concurrency"]))
		want := []string{"ops", "p50_us", "p99_us", "ops_per_s", "latency_ratio", "throughput_ratio", "cpu_us"}
		of := []string{"p50_us", "p99_us", "ops_per_s", "cpu_us"}
		switch {
		case strings.Contains(name, "/rest-"):
			want, of = nil, nil // there may be no message in so short a time
		case strings.Contains(name, "/memory"):
			want, of = []string{"ops", "p50_us", "p99_us", "ops_per_s", "cpu_us"}, nil
			if each, ok := row["bytes_per_object"].(float64); !ok || each == 0 { // of so few, beside other tests, it may be any
				t.Errorf("bytes_per_object is %v", row["bytes_per_object"])
			}
		default:
			if len(row) != 10 {
				t.Errorf("other fields than documented: %v", row)
			}
		}
		mustBePositive(t, name, row, want)
		baseline, ok := row["baseline"].(map[string]any)
		if name != "object/inprocess/memory" && (!ok || baseline["name"] == "") {
			t.Errorf("%s: baseline %v", name, row["baseline"])
		}
		mustBePositive(t, name+"'s baseline", baseline, of)
	}
	want := "object/inprocess/increment 2, object/inprocess/hot 2, object/inprocess/view 2, call/inprocess/as-view 2, " +
		"object/inprocess/event 2, object/inprocess/alarm 2, object/inprocess/storage 2, object/inprocess/batch 2, " +
		"object/inprocess/activation-1200 1, object/inprocess/activation-1000 1, object/inprocess/rest-1200 0, object/inprocess/memory 64"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("rows %s, want %s", got, want)
	}
}

func mustBePositive(t *testing.T, what string, row map[string]any, fields []string) {
	t.Helper()
	for _, field := range fields {
		if v, ok := row[field].(float64); !ok || v <= 0 {
			t.Errorf("%s: %s is %v", what, field, row[field])
		}
	}
}

func TestBenchObjectOverTransports(t *testing.T) {
	t.Parallel()
	o := rpcdo(t, Env{}, briefly("--json", "--baseline", "--measure", "hot,increment", "--concurrency", "1,2", "--transport", "tcp,shortcut")...)
	rows := fromJSON[[]bench.Row](t, o.out)
	var got []string
	for _, row := range rows {
		if row.Ops == 0 || row.Baseline == nil {
			t.Fatalf("row %+v", row)
		}
		got = append(got, fmt.Sprint(row.Name, " ", row.Concurrency, ": ", row.Baseline.Name))
	}
	var want []string
	for _, transport := range []string{"tcp", "shortcut"} {
		want = append(want, "object/"+transport+"/increment 1: raw request/reply + raw compare-and-set publish",
			"object/"+transport+"/increment 2: bare prototype loop", "object/"+transport+"/hot 2: bare prototype, one commit a turn")
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows %q, want %q", got, want)
	}
}

func TestBenchObjectPrintsATable(t *testing.T) {
	t.Parallel()
	rpcdo(t, Env{ErrTerminal: true}, briefly("--baseline", "--measure", "hot,activation,rest,memory", "--concurrency", "2")...).
		want(t, exitDone, texts("WORKLOAD", "BASELINE/S", "\nobject/tcp/hot              2 ", "×", "bare prototype, one commit a turn\n", " messages ", " bytes an object\n"),
			texts("measuring object/tcp/hot, 2 at once\n", "stored 1000 objects in "))
}

func TestBenchObjectOverAnotherBus(t *testing.T) {
	t.Parallel()
	url := bustest.Server(t).URL()
	o := rpcdo(t, Env{}, briefly("--measure", "increment,event", "--concurrency", "2", "--server", url)...)
	o.want(t, exitDone, texts("object/tcp/increment"), nil)
	if strings.Contains(o.out, "event") {
		t.Errorf("events were emitted on a bus of others: %s", o.out)
	}
}

func TestBenchObjectIsInterrupted(t *testing.T) {
	t.Parallel()
	p := start(t, Env{ErrTerminal: true}, "bench", "object", "--duration", "1h", "--baseline", "--measure", "increment", "--sync", "always")
	<-p.err.contains("measuring")
	if status := p.stop(t); status != exitFailed || !strings.Contains(p.err.String(), "interrupted") || p.out.String() != "" {
		t.Errorf("status %d, stdout %q, stderr %q", status, &p.out, &p.err)
	}
}

func TestBenchObjectUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"extra":                           `bench object takes no arguments, got "extra"`,
		"--measure speed":                 `--measure "speed": want some of increment, hot, view, event, alarm, storage, batch, activation, rest, memory`,
		"--objects 999":                   "--objects 999: want 1000 to 10000000",
		"--active 0":                      "--active 0: want 1 to 10000000",
		"--sync default":                  `--sync "default": want always or interval`,
		"--concurrency 0":                 "--concurrency 0: want 1 to 4096",
		"--callers 5":                     "did you mean --concurrency?",
		"--transport shortcut --server x": "does not go with --server",
	} {
		o := rpcdo(t, Env{}, append([]string{"bench", "object"}, strings.Fields(args)...)...)
		o.want(t, exitUsage, nil, texts(want))
		o.wantLine(t)
	}
}
