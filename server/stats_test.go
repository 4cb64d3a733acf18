package server

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"rpc.do"
)

// What the histogram says lies within an eighth above the exact value.
func TestPercentiles(t *testing.T) {
	t.Parallel()
	shares := []float64{0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1}
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var h histogram
		spread := 1 + 8*rnd.Float64() // powers of e between a microsecond and hours
		samples := make([]time.Duration, 1+rnd.IntN(3000))
		for i := range samples {
			samples[i] = time.Duration(math.Exp(spread*(1+rnd.NormFloat64()/3))*float64(time.Microsecond)) + time.Microsecond
			h.record(samples[i])
		}
		slices.Sort(samples)
		for i, got := range h.percentiles(shares...) {
			exact := samples[max(int(math.Ceil(shares[i]*float64(len(samples))))-1, 0)]
			// The histogram counts whole microseconds.
			if got < exact-time.Microsecond || got > exact+exact/8+time.Microsecond {
				t.Errorf("seed %d: of %d samples p%g is %v, exactly %v", seed, len(samples), 100*shares[i], got, exact)
			}
		}
	}
}

func TestPercentilesOfNothing(t *testing.T) {
	t.Parallel()
	var h histogram
	if got := h.percentiles(0.5, 0.99); got[0] != 0 || got[1] != 0 {
		t.Errorf("got %v", got)
	}
}

// Every duration has a bucket, and it lies below the bucket's end.
func TestBuckets(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{-time.Second, 0, 1, time.Microsecond - 1} {
		if bucketOf(d) != 0 {
			t.Errorf("%v is in bucket %d", d, bucketOf(d))
		}
	}
	last := 0
	for d := time.Microsecond; d < 12*time.Hour; d += 1 + d/64 {
		b := bucketOf(d)
		if b < last {
			t.Fatalf("%v is in bucket %d, after %d", d, b, last)
		}
		last = b
		if d >= 8*time.Microsecond && (d.Truncate(time.Microsecond) >= upperBound(b) || upperBound(b) > d+d/8+time.Microsecond) {
			t.Fatalf("%v is in the bucket that ends at %v", d, upperBound(b))
		}
	}
	if top := len(histogram{}.buckets) - 1; bucketOf(math.MaxInt64) != top || upperBound(top) <= 0 {
		t.Error("the longest duration has no bucket")
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	var s stats
	if s.mean() != 0 || s.last() != "" {
		t.Error("it knows something before the first call")
	}
	s.answered(10*time.Millisecond, nil)
	s.answered(30*time.Millisecond, rpc.NotFound.Errorf("%s", strings.Repeat("x", 10_000)))
	for range 100 {
		s.refused(rpc.ResourceExhausted.Errorf("too many"))
	}
	if s.mean() != 20*time.Millisecond {
		t.Errorf("the mean is %v, want that of the calls that ran", s.mean())
	}
	if s.requests.Load() != 102 || s.errors.Load() != 101 || s.last() != "resource_exhausted: too many" {
		t.Errorf("%d requests, %d errors, the last %q", s.requests.Load(), s.errors.Load(), s.last())
	}
	if p := s.latency.percentiles(0.5)[0]; p < 10*time.Millisecond {
		t.Errorf("the median is %v: refused calls count", p)
	}
	s.answered(time.Millisecond, rpc.NotFound.Errorf("%s", strings.Repeat("x", 10_000)))
	if n := len(s.last()); n > 300 {
		t.Errorf("the last error has %d bytes", n)
	}
}
