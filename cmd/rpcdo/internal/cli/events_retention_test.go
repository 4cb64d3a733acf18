package cli

import (
	"strings"
	"testing"
	"time"

	"rpc.do/pipeline"
)

func TestEventsRetention(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.run("retention").want(t, exitDone, texts("limits\n  age     no limit\n  bytes   no limit\n  events  no limit\nstored\n  events  0\n  bytes   0 bytes\n"), nil)
	l.run("retention", "--max-age", "30d", "--max-bytes", "10GB").want(t, exitDone, texts("  age     30d\n  bytes   10 GB\n  events  no limit\n"), nil)
	l.send("Order.placed", 5)
	r := fromJSON[shownRetention](t, l.run("retention", "--max-events", "5", "--max-age", "off", "--json").out)
	if r.Retention != (pipeline.Retention{MaxBytes: 10e9, MaxEvents: 5}) || r.Usage.Events != 5 || r.Usage.LastSequence != 5 {
		t.Errorf("got %+v", r)
	}
	l.run("retention", "--max-events", "2").want(t, exitUsage, nil, texts("this removes events for good, 3 of 5, and there is no terminal to ask on: give --yes"))
	l.run("retention", "--max-bytes", "1").want(t, exitUsage, nil, texts("this removes events for good, ", " of "))
	asked := l.env
	asked.In, asked.InTerminal = strings.NewReader("n\n"), true
	rpcdo(t, asked, "events", "retention", "--max-events", "2").want(t, exitFailed, nil, texts("Remove events for good, 3 of 5? [y/N] ", "nothing was changed"))
	asked.In = strings.NewReader("y\n")
	rpcdo(t, asked, "events", "retention", "--max-events", "2").want(t, exitDone, texts("  events  2\nstored\n  events  2\n", ", sequence 4\n", ", sequence 5\n"), texts("[y/N] "))
	l.run("retention", "--max-events", "1", "--yes").want(t, exitDone, texts("  events  1\n"), nil)
	wantProblem(t, l.env, exitUsage, "invalid_argument", "2m0s", "events", "retention", "--max-age", "1m", "--yes")
}

func TestRemoves(t *testing.T) {
	t.Parallel()
	usage := pipeline.Usage{Events: 10, Bytes: 5000, FirstTime: time.Now().Add(-49 * time.Hour)}
	for want, c := range map[string]struct{ want, has pipeline.Retention }{
		"":         {pipeline.Retention{MaxEvents: 10, MaxBytes: 5000, MaxAge: 50 * time.Hour}, pipeline.Retention{}},
		"4 of 10":  {pipeline.Retention{MaxEvents: 6}, pipeline.Retention{}},
		"1 kB of":  {pipeline.Retention{MaxBytes: 4000}, pipeline.Retention{MaxBytes: 1 << 20}},
		"2d1h old": {pipeline.Retention{MaxAge: time.Hour}, pipeline.Retention{MaxAge: 72 * time.Hour}},
	} {
		if got := removes(c.want, c.has, usage); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
	if got := removes(pipeline.Retention{MaxEvents: 6}, pipeline.Retention{MaxEvents: 5}, usage); got != "" {
		t.Errorf("a wider limit: %q", got)
	}
}

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1, "10GB": 10e9, "10 gb": 10e9, "1.5MB": 1.5e6, "2kib": 2048, "3MiB": 3 << 20, "1T": 1e12, "7B": 7, "4k": 4000,
		"": 0, "0": 0, "-1": 0, "x": 0, "1XB": 0, "1e30": 0, "NaN": 0, "Inf": 0, "1GBB": 0, "9223372036854775807": 0,
	} {
		if got, ok := parseBytes(text); got != want || ok != (want > 0) {
			t.Errorf("%q: %d, %v, want %d", text, got, ok, want)
		}
	}
	for n, want := range map[float64]string{0: "0 bytes", 999: "999 bytes", 1000: "1 kB", 1234567: "1.2 MB", 10e9: "10 GB", 2e12: "2 TB"} {
		if got := shownBytes(n); got != want {
			t.Errorf("%v: %s, want %s", n, got, want)
		}
	}
}
