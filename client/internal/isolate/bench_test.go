package isolate

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

type point struct {
	A, B float64
	Pad  string
}

type order struct {
	ID     string            `json:"id"`
	Lines  []line            `json:"lines"`
	Labels map[string]string `json:"labels,omitempty"`
	Note   *string           `json:"note,omitempty"`
	Scores []float64         `json:"scores"`
	Paid   bool              `json:"paid"`
}

type line struct {
	SKU   string `json:"sku"`
	Count int    `json:"count"`
	Cents int64  `json:"cents"`
}

// Every benchmark runs the copy and the JSON round trip it stands for.
func BenchmarkCopyAny(b *testing.B) {
	b.Run("small", func(b *testing.B) {
		benchmark(b, &point{A: 1.5, B: -2.25, Pad: strings.Repeat("x", 128)})
	})
	b.Run("order", func(b *testing.B) { benchmark(b, sampleOrder()) })
	b.Run("bytes", func(b *testing.B) { benchmark(b, &struct{ Data []byte }{make([]byte, 16<<10)}) })
	b.Run("text", func(b *testing.B) {
		benchmark(b, &struct{ Text string }{strings.Repeat("Grüße, \"quoted\"\n", 1<<10)})
	})
}

func benchmark[T any](b *testing.B, src *T) {
	b.Run("copy", func(b *testing.B) {
		b.ReportAllocs()
		dst := new(T)
		for b.Loop() {
			if !CopyAny(dst, src, math.MaxInt64) {
				b.Fatal("not copied")
			}
		}
	})
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var dst T
			data, err := json.Marshal(src)
			if err != nil {
				b.Fatal(err)
			}
			if err := json.Unmarshal(data, &dst); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func sampleOrder() *order {
	note := "leave at the door"
	return &order{
		ID:     "ord_000123",
		Lines:  []line{{"abc-1", 2, 1999}, {"abc-2", 1, 500}, {"abc-3", 7, 12}},
		Labels: map[string]string{"region": "eu-west", "tier": "gold", "channel": "web"},
		Note:   &note,
		Scores: []float64{0.25, 0.5, 1e-7, 3},
		Paid:   true,
	}
}
