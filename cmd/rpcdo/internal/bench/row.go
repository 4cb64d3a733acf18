package bench

import (
	"math"
	"slices"
	"time"
)

// Row is one workload at one concurrency. Its figures are medians over the
// rounds; ops counts all of them.
type Row struct {
	Name        string  `json:"name"`
	Concurrency int     `json:"concurrency"`
	Ops         uint64  `json:"ops"`
	P50us       float64 `json:"p50_us"`
	P99us       float64 `json:"p99_us"`
	OpsPerS     float64 `json:"ops_per_s"`

	// With a baseline: its figures, and ours divided by them. LatencyRatio is
	// that of the medians.
	Baseline        *Baseline `json:"baseline,omitempty"`
	LatencyRatio    float64   `json:"latency_ratio,omitempty"`
	ThroughputRatio float64   `json:"throughput_ratio,omitempty"`

	// Of objects: the processor time of the whole process, the bus included when
	// it is in there, for each call and in a second of rest; and the memory that
	// an object takes which is active and idle.
	CPUus          float64 `json:"cpu_us,omitempty"`
	CPUusPerS      float64 `json:"cpu_us_per_s,omitempty"`
	BytesPerObject float64 `json:"bytes_per_object,omitempty"`

	// Of events: the memory that a handler takes which has nothing to do.
	BytesPerHandler float64 `json:"bytes_per_handler,omitempty"`
}

// Baseline is what a row is compared with.
type Baseline struct {
	Name    string  `json:"name"`
	P50us   float64 `json:"p50_us"`
	P99us   float64 `json:"p99_us"`
	OpsPerS float64 `json:"ops_per_s"`

	CPUus     float64 `json:"cpu_us,omitempty"`
	CPUusPerS float64 `json:"cpu_us_per_s,omitempty"`
}

// newRow makes a row of the rounds of ours and, if there is a second side, of
// the baseline.
func newRow(concurrency int, sides []*workload, measured [][]round) Row {
	ours := measured[0]
	row := Row{
		Name: sides[0].row, Concurrency: concurrency,
		P50us: microseconds(ours, p50), P99us: microseconds(ours, p99), OpsPerS: perSecond(ours),
	}
	for _, r := range ours {
		row.Ops += r.ops
	}
	if len(sides) > 1 {
		raw := measured[1]
		row.Baseline = &Baseline{
			Name: sides[1].name, P50us: microseconds(raw, p50), P99us: microseconds(raw, p99), OpsPerS: perSecond(raw),
		}
		row.LatencyRatio = ratio(row.P50us, row.Baseline.P50us)
		row.ThroughputRatio = ratio(row.OpsPerS, row.Baseline.OpsPerS)
	}
	return row
}

// withCPU adds what the processor did.
func (row Row) withCPU(measured [][]round) Row {
	row.CPUus = microsOfCPU(measured[0])
	if row.Baseline != nil {
		row.Baseline.CPUus = microsOfCPU(measured[1])
	}
	return row
}

func microsOfCPU(rounds []round) float64 {
	return rounded(median(rounds, func(r round) float64 { return r.cpu }), 2)
}

func p50(r round) time.Duration { return r.p50 }
func p99(r round) time.Duration { return r.p99 }

func microseconds(rounds []round, of func(round) time.Duration) float64 {
	return rounded(median(rounds, func(r round) float64 { return float64(of(r)) / 1e3 }), 2)
}

func perSecond(rounds []round) float64 {
	return rounded(median(rounds, func(r round) float64 { return r.rate }), 1)
}

func median(rounds []round, of func(round) float64) float64 {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = of(r)
	}
	slices.Sort(values)
	mid := len(values) / 2
	if len(values)%2 == 1 {
		return values[mid]
	}
	return (values[mid-1] + values[mid]) / 2
}

func ratio(ours, theirs float64) float64 {
	if theirs == 0 {
		return 0
	}
	return rounded(ours/theirs, 4)
}

func rounded(v float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(v*scale) / scale
}
