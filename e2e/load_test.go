//go:build unix

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/e2e/internal/work"
)

// slack is how much later than its deadline a call may return, on a machine
// that is busy.
const slack = time.Second

// numbers makes each call of the tests one of its own.
var numbers atomic.Int64

// record is what came of one call of a load.
type record struct {
	n          int64
	start, end time.Time
	by         string // who did it
	err        error
}

// load is callers that call without a pause until stopped.
type load struct {
	t       testing.TB
	name    string
	timeout time.Duration
	wg      sync.WaitGroup
	stop    chan struct{}
	ok      atomic.Int64
	failed  atomic.Int64

	mu      sync.Mutex
	records []record
}

// startLoad has so many callers call. A call returns who did it.
func startLoad(t testing.TB, name string, callers int, timeout time.Duration,
	call func(ctx context.Context, caller int, n int64) (by string, err error)) *load {
	l := &load{t: t, name: name, timeout: timeout, stop: make(chan struct{})}
	for caller := range callers {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				l.one(func(ctx context.Context, n int64) (string, error) { return call(ctx, caller, n) })
			}
		})
	}
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) one(call func(context.Context, int64) (string, error)) {
	r := record{n: numbers.Add(1), start: time.Now()}
	r.by, r.err = call(context.Background(), r.n)
	r.end = time.Now()
	if r.err == nil {
		l.ok.Add(1)
	} else {
		l.failed.Add(1)
	}
	l.mu.Lock()
	l.records = append(l.records, r)
	l.mu.Unlock()
}

// more waits until so many more calls have succeeded.
func (l *load) more(calls int64) {
	l.t.Helper()
	before := l.ok.Load()
	until(l.t, fmt.Sprintf("%d more calls of the load %q succeed (%d failed)", calls, l.name, l.failed.Load()),
		func() bool { return l.ok.Load() >= before+calls })
}

// end stops the callers and returns what came of all calls, the earliest first.
// No call may have taken longer than its deadline allows.
func (l *load) end() []record {
	l.t.Helper()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(l.records, func(a, b record) int { return cmp.Compare(a.n, b.n) })
	for _, r := range l.records {
		if took := r.end.Sub(r.start); took > l.timeout+slack {
			l.t.Errorf("%s: call %d of at most %v took %v: %v", l.name, r.n, l.timeout, took, r.err)
		}
	}
	return l.records
}

func failures(records []record) []record {
	return slices.DeleteFunc(slices.Clone(records), func(r record) bool { return r.err == nil })
}

// summary says how many calls failed with which codes.
func summary(records []record) string {
	byCode := map[string]int{}
	for _, r := range failures(records) {
		byCode[rpc.CodeOf(r.err).String()]++
	}
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(byCode)) {
		parts = append(parts, fmt.Sprintf("%d %s", byCode[code], code))
	}
	if len(parts) == 0 {
		parts = []string{"none"}
	}
	return fmt.Sprintf("%d calls, failed: %s", len(records), strings.Join(parts, ", "))
}

// describe lists the first records with their times since a moment.
func describe(records []record, since time.Time) string {
	var b strings.Builder
	for i, r := range records {
		if i == 10 {
			fmt.Fprintf(&b, "\n  and %d more", len(records)-i)
			break
		}
		fmt.Fprintf(&b, "\n  call %d at %v after %v: %v", r.n,
			r.start.Sub(since).Round(time.Millisecond), r.end.Sub(r.start).Round(time.Millisecond), r.err)
	}
	return b.String()
}

// tasks is a load on workers: tasks that take up to 40 ms, by callers on
// several connections.
func tasks(t testing.TB, url, name string, m rpc.Method[work.Task, work.Done], callers int, timeout time.Duration, cfg client.Config) *load {
	t.Helper()
	clients := []*client.Client{newClient(t, url, cfg), newClient(t, url, cfg)}
	return startLoad(t, name, callers, timeout, func(ctx context.Context, caller int, n int64) (string, error) {
		done, err := m.Call(ctx, clients[caller%len(clients)], work.Task{N: n, Ms: int(n * 7 % 41)}, rpc.WithTimeout(timeout))
		if err == nil && done.N != n {
			err = rpc.DataLoss.Errorf("got the result of call %d", done.N)
		}
		return done.By, err
	})
}

// runs returns how often each call of a method began at these workers, by the
// call's number.
func runs(method string, workers ...*process) map[int64]int {
	began := map[int64]int{}
	for _, w := range workers {
		for _, line := range w.lines() {
			var m string
			var n int64
			if c, _ := fmt.Sscanf(line, "began %s %d", &m, &n); c == 2 && m == method {
				began[n]++
			}
		}
	}
	return began
}

// onceAtMost checks that no call of the method began twice.
func onceAtMost(t testing.TB, method string, workers ...*process) {
	t.Helper()
	for n, times := range runs(method, workers...) {
		if times > 1 {
			t.Errorf("call %d of %s, which is not idempotent, ran %d times", n, method, times)
		}
	}
}

// shares returns how many calls each worker did.
func shares(records []record) map[string]int {
	by := map[string]int{}
	for _, r := range records {
		if r.err == nil {
			by[r.by]++
		}
	}
	return by
}
