//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/e2e/internal/eventwork"
	"rpc.do/pipeline"
)

// eventWorker is a process that handles events.
type eventWorker struct {
	*process
	mu      sync.Mutex
	journal *eventwork.Reader
}

// launchEventWorker runs a worker that has these handlers.
func launchEventWorker(t testing.TB, url, service, id string, handlers ...eventwork.Handler) *eventWorker {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	args := []string{"-server", url, "-service", service, "-id", id, "-journal", path}
	for _, h := range handlers {
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "-handle", string(text))
	}
	return &eventWorker{process: start(t, id, nil, programs.eventworker, args...), journal: eventwork.NewReader(id, path)}
}

// startEventWorker runs a worker and waits until it serves.
func startEventWorker(t testing.TB, url, service, id string, handlers ...eventwork.Handler) *eventWorker {
	t.Helper()
	w := launchEventWorker(t, url, service, id, handlers...)
	w.line(t, "ready")
	return w
}

// read returns the worker's journal with what is new in it.
func (w *eventWorker) read(t testing.TB) *eventwork.Reader {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.journal.Read(); err != nil {
		t.Fatal(err)
	}
	return w.journal
}

// attemptsOf returns the attempts of a handler at all these workers, the earliest
// first.
func attemptsOf(t testing.TB, handler string, workers ...*eventWorker) []eventwork.Attempt {
	t.Helper()
	var all []eventwork.Attempt
	for _, w := range workers {
		for _, a := range w.read(t).Attempts() {
			if a.Handler == handler {
				all = append(all, a)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b eventwork.Attempt) int { return int(a.Begin - b.Begin) })
	return all
}

// handledBy returns the numbers of the events that a handler has handled, with how often.
func handledBy(t testing.TB, handler string, workers ...*eventWorker) map[int]int {
	t.Helper()
	times := map[int]int{}
	for _, a := range attemptsOf(t, handler, workers...) {
		if a.Done {
			times[a.N]++
		}
	}
	return times
}

// newPipeline connects somebody of this process who sends and looks at events.
func newPipeline(t testing.TB, url string) (*pipeline.Pipeline, *bus.Bus) {
	t.Helper()
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{url}, Name: "e2e", DrainTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // the server may be gone
	return pipeline.New(b, pipeline.Config{}), b
}

// sendItems sends items, and wants all of them stored.
func sendItems(t testing.TB, p *pipeline.Pipeline, items ...eventwork.Item) []pipeline.Receipt {
	t.Helper()
	receipts, err := pipeline.SendBatch(t.Context(), p, eventwork.Added, items)
	if err != nil {
		t.Fatal(err)
	}
	return receipts
}

// numbered returns n items, changed by each.
func numbered(n int, change func(*eventwork.Item)) []eventwork.Item {
	items := make([]eventwork.Item, n)
	for i := range items {
		items[i].N = i
		if change != nil {
			change(&items[i])
		}
	}
	return items
}

// untilIn waits for a condition that nothing announces, and that takes longer.
func untilIn(t testing.TB, limit time.Duration, what string, met func() bool) {
	t.Helper()
	over := time.After(limit)
	for !met() {
		select {
		case <-over:
			t.Fatalf("waited %v in vain until %s", limit, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// deadLettersOf waits for so many dead letters of a handler.
func deadLettersOf(t testing.TB, p *pipeline.Pipeline, service, handler string, n int) (found []pipeline.DeadLetter) {
	t.Helper()
	until(t, fmt.Sprintf("%s of %s has %d dead letters", handler, service, n), func() bool {
		var err error
		found, err = p.DeadLetters(t.Context(), pipeline.DeadQuery{Service: service, Handler: handler, Limit: 1000})
		return err == nil && len(found) >= n
	})
	return found
}
