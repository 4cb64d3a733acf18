package bench

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramAgainstSorting(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var h, other histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(math.Exp(random.Float64() * 24)) // 1 ns to 26 s
		all = append(all, d)
		if i%2 == 0 {
			h.record(d)
		} else {
			other.record(d)
		}
	}
	h.merge(&other)
	slices.Sort(all)
	for _, share := range []float64{0, 0.01, 0.5, 0.9, 0.99, 1} {
		want := all[max(int(math.Ceil(share*float64(len(all))))-1, 0)]
		got := h.percentile(share)
		if math.Abs(float64(got-want)) > float64(want)/128+1 {
			t.Errorf("percentile %v: %v, want %v", share, got, want)
		}
	}
}

func TestHistogramAtItsEnds(t *testing.T) {
	t.Parallel()
	var h histogram
	if got := h.percentile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	h.record(-time.Second)
	h.record(1000 * time.Hour)
	if got := h.percentile(0.5); got != 0 {
		t.Errorf("of a negative duration: %v", got)
	}
	if got := h.percentile(1); got < time.Hour {
		t.Errorf("of a very long one: %v", got)
	}
	for i := range histogramBuckets {
		if got := bucketOf(middle(i)); got != i {
			t.Fatalf("the middle of bucket %d lies in bucket %d", i, got)
		}
	}
}

func TestRequestHasTheSize(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]int{1: 13, 22: 13, 23: 23, 128: 128, 65536: 65536} {
		data, err := json.Marshal(request(size))
		if err != nil {
			t.Fatal(err)
		}
		if len(data) != want {
			t.Errorf("size %d: %d bytes, want %d", size, len(data), want)
		}
	}
}

func TestSizeName(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]string{1: "small", 128: "small", 129: "129B", 65536: "64KiB", 1 << 20: "1MiB"} {
		if got := sizeName(size); got != want {
			t.Errorf("%d: %s, want %s", size, got, want)
		}
	}
}

// Rounds alternate, and who goes first changes.
func TestAlternate(t *testing.T) {
	t.Parallel()
	var order string
	side := func(name string) *workload {
		return &workload{name: name, op: func(context.Context, int) error {
			order += name
			return nil
		}}
	}
	cfg := Config{Duration: 4, Rounds: 4} // nanoseconds: one call a round
	rounds, err := alternate(t.Context(), cfg, []*workload{side("a"), side("b")}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := "ab" + "ab" + "ba" + "ab" + "ba"; order != want { // the first two warm up
		t.Errorf("order %s, want %s", order, want)
	}
	if len(rounds) != 2 || len(rounds[0]) != 4 || len(rounds[1]) != 4 || rounds[0][0].ops == 0 {
		t.Errorf("rounds %+v", rounds)
	}
}

func TestRowIsMedians(t *testing.T) {
	t.Parallel()
	ours := []round{{10, 3000, 9000, 100, 5}, {20, 1000, 7000, 300, 7}, {30, 2000, 8000, 200, 6}}
	raw := []round{{1, 1000, 4000, 800, 1}, {1, 7000, 4000, 800, 2}}
	row := newRow(8, []*workload{{row: "call/tcp/small"}, {name: "raw"}}, [][]round{ours, raw})
	want := Row{
		Name: "call/tcp/small", Concurrency: 8, Ops: 60, P50us: 2, P99us: 8, OpsPerS: 200,
		LatencyRatio: 0.5, ThroughputRatio: 0.25, Baseline: row.Baseline,
	}
	if row != want || *row.Baseline != (Baseline{Name: "raw", P50us: 4, P99us: 4, OpsPerS: 800}) {
		t.Errorf("got %+v, %+v", row, row.Baseline)
	}
	row = row.withCPU([][]round{ours, raw})
	if row.CPUus != 6 || row.Baseline.CPUus != 1.5 {
		t.Errorf("processor time %v, %v", row.CPUus, row.Baseline.CPUus)
	}
}

func TestRoundEndsWithTheFirstFailure(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	calls := 0
	w := &workload{op: func(context.Context, int) error {
		if calls++; calls == 3 {
			return broken
		}
		return nil
	}}
	if _, err := w.round(t.Context(), 1, time.Hour); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.round(ctx, 4, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
