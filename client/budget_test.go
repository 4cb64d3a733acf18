package client

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
)

func TestBudget(t *testing.T) {
	t.Parallel()
	b := newBudget(2)
	b.credit() // full already
	for i, want := range []bool{true, true, false, false} {
		if got := b.take(); got != want {
			t.Errorf("take %d: %t", i, got)
		}
	}
	for i := range 10 {
		if b.take() {
			t.Fatalf("a retry after %d successes", i)
		}
		b.credit()
	}
	if !b.take() || b.take() {
		t.Error("ten successes are worth one retry")
	}
}

func TestBudgetStaysInBounds(t *testing.T) {
	t.Parallel()
	const size, workers, rounds = 3, 8, 2000
	b := newBudget(size)
	var taken, credits atomic.Int64
	stop := make(chan struct{})
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for {
			if left := b.tenths.Load(); left < 0 || left > size*10 {
				t.Errorf("%d tenths are left of %d", left, size*10)
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				if (i+w)%3 == 0 {
					if b.take() {
						taken.Add(1)
					}
					continue
				}
				b.credit()
				credits.Add(1)
			}
		})
	}
	wg.Wait()
	close(stop)
	<-watching
	if most := size*10 + credits.Load(); taken.Load()*10 > most {
		t.Errorf("%d retries out of %d tenths", taken.Load(), most)
	}
}

// TestBackoff: the wait grows with the tries up to a bound, and is spread.
func TestBackoff(t *testing.T) {
	t.Parallel()
	unsaid := rpc.Unavailable.Errorf("nobody")
	for tries, mid := range map[int]time.Duration{
		1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 3: 200 * time.Millisecond,
		4: 400 * time.Millisecond, 5: 800 * time.Millisecond, 6: time.Second, 100: time.Second,
	} {
		shortest, longest := time.Hour, time.Duration(0)
		for range 1000 {
			wait := (&transmission{tries: tries}).backoff(unsaid, maxBackoff)
			shortest, longest = min(shortest, wait), max(longest, wait)
		}
		if shortest < mid/2 || longest > mid*3/2 {
			t.Errorf("try %d: waits from %v to %v, want %v give or take half", tries, shortest, longest, mid)
		}
		if longest-shortest < mid/2 {
			t.Errorf("try %d: waits from %v to %v are not spread", tries, shortest, longest)
		}
	}
	asked := unsaid.WithRetryAfter(300 * time.Millisecond)
	for range 1000 {
		if wait := (&transmission{tries: 9}).backoff(asked, maxBackoff); wait < 300*time.Millisecond || wait > 600*time.Millisecond {
			t.Fatalf("waits %v when asked to wait 300ms", wait)
		}
	}
}
