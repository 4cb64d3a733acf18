package bench

import (
	"math"
	"math/bits"
	"time"
)

// histogram counts durations in buckets that are at most 1/128 of their value
// wide, from a nanosecond to about an hour; what is longer is in the last.
type histogram struct {
	count   uint64
	buckets [histogramBuckets]uint32
}

const (
	halves           = 128 // buckets in each doubling
	histogramBuckets = 36 * halves
)

func (h *histogram) record(d time.Duration) {
	h.count++
	h.buckets[bucketOf(d)]++
}

func (h *histogram) merge(other *histogram) {
	h.count += other.count
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
}

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := bits.Len64(v) - bits.Len(halves)
	if shift < 0 {
		return int(v) // below halves: one bucket each
	}
	return min((shift+1)*halves+int(v>>shift)-halves, histogramBuckets-1)
}

// middle returns the middle of bucket i.
func middle(i int) time.Duration {
	if i < halves {
		return time.Duration(i)
	}
	shift := i/halves - 1
	return time.Duration(halves+i%halves)<<shift + 1<<shift/2
}

// percentile returns the duration that the given share of the recorded ones do
// not exceed, to within the width of a bucket; 0 when there are none.
func (h *histogram) percentile(share float64) time.Duration {
	rank := max(uint64(math.Ceil(share*float64(h.count))), 1)
	var seen uint64
	for i, n := range h.buckets {
		if seen += uint64(n); seen >= rank {
			return middle(i)
		}
	}
	return 0
}
