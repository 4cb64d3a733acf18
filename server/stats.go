package server

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"rpc.do"
	"rpc.do/bus"
)

// stats counts the calls of one method.
type stats struct {
	inFlight  atomic.Int64
	requests  atomic.Uint64
	errors    atomic.Uint64
	shed      atomic.Uint64 // of the requests
	total     atomic.Int64  // nanoseconds
	latency   histogram
	lastMu    sync.Mutex
	lastError string
}

func (s *stats) began() { s.inFlight.Add(1) }
func (s *stats) ended() { s.inFlight.Add(-1) }

// answered counts a call that took d.
func (s *stats) answered(d time.Duration, err *rpc.Error) {
	s.requests.Add(1)
	s.total.Add(int64(d))
	s.latency.record(d)
	if err != nil {
		s.failed(err)
	}
}

// refused counts a call that was shed. It took no time, which says nothing of
// how long calls take.
func (s *stats) refused(err *rpc.Error) {
	s.requests.Add(1)
	s.shed.Add(1)
	s.failed(err)
}

func (s *stats) failed(err *rpc.Error) {
	s.errors.Add(1)
	s.lastMu.Lock()
	defer s.lastMu.Unlock()
	s.lastError = err.Code.String() + ": " + bus.Bounded(err.Message)
}

// mean returns how long a call takes, those that were shed apart.
func (s *stats) mean() time.Duration {
	n := s.requests.Load() - s.shed.Load()
	if int64(n) <= 0 {
		return 0
	}
	return time.Duration(s.total.Load() / int64(n))
}

func (s *stats) last() string {
	s.lastMu.Lock()
	defer s.lastMu.Unlock()
	return s.lastError
}

// histogram counts durations in buckets that are an eighth of their value wide,
// from 1 µs to about a day.
type histogram struct {
	buckets [37 * 8]atomic.Uint64
}

func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 1))
	exp := bits.Len64(us) - 1 // 2^exp <= us
	frac := (us << 3 >> exp) & 7
	return min(exp*8+int(frac), 37*8-1)
}

// upperBound returns the end of bucket i.
func upperBound(i int) time.Duration {
	exp, frac := i/8, uint64(i%8)
	return time.Duration((8+frac+1)<<exp/8) * time.Microsecond
}

func (h *histogram) record(d time.Duration) { h.buckets[bucketOf(d)].Add(1) }

// percentiles returns the durations below which the given shares of the
// recorded ones lie, at most an eighth too high. Shares rise.
func (h *histogram) percentiles(shares ...float64) []time.Duration {
	var counts [len(h.buckets)]uint64
	var total uint64
	for i := range h.buckets {
		counts[i] = h.buckets[i].Load()
		total += counts[i]
	}
	out := make([]time.Duration, len(shares))
	var seen uint64
	next := 0
	for i := 0; i < len(counts) && next < len(shares); i++ {
		seen += counts[i]
		for next < len(shares) && total > 0 && float64(seen) >= shares[next]*float64(total) {
			out[next] = upperBound(i)
			next++
		}
	}
	return out
}

// shedLog says that calls are shed, at most once a second.
type shedLog struct {
	mu    sync.Mutex
	last  time.Time
	count int
}

func (l *shedLog) note(s *Service, running, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		return
	}
	s.log.Warn().Int("shed", l.count).Int("running", running).Int("waiting", waiting).Msg("overloaded: calls are refused")
	l.last, l.count = now, 0
}
