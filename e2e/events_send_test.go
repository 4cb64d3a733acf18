//go:build unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/e2e/internal/eventwork"
	"rpc.do/e2e/internal/faultproxy"
	"rpc.do/pipeline"
)

// TestSendOverRestarts sends all the time while the bus goes away and comes back.
// What was acknowledged is stored once, what was not once at most, and every send
// ends in time.
func TestSendOverRestarts(t *testing.T) {
	t.Parallel()
	b := startBus(t)
	const senders, connections = 32, 4
	// Some lose their connection in place of an answer now and then: the event is
	// stored, and they don't know.
	s := seed(t)
	proxy, err := faultproxy.Start(faultproxy.Config{Target: strings.TrimPrefix(b.url, "nats://"), Seed: s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	unheard, err := proxy.Add(faultproxy.Rule{From: faultproxy.Server, Subject: "_INBOX.", Action: faultproxy.Cut, Chance: 0.05})
	if err != nil {
		t.Fatal(err)
	}
	var pipelines []*pipeline.Pipeline
	for i := range connections {
		url := b.url
		if i < 2 {
			url = proxy.URL()
		}
		p, _ := newPipeline(t, url)
		pipelines = append(pipelines, p)
	}
	var mu sync.Mutex
	outcomes := map[string]error{} // by the event's id
	places := map[string]uint64{}
	var numbers, ok, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	send := func(p *pipeline.Pipeline, limit time.Duration) error {
		n := numbers.Add(1)
		id := fmt.Sprint("event-", n)
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		begun := time.Now()
		receipt, err := pipeline.Send(ctx, p, eventwork.Added, eventwork.Item{N: int(n)}, pipeline.WithID(id))
		if took := time.Since(begun); took > limit+slack {
			t.Errorf("%s: a send of at most %v took %v: %v", id, limit, took, err)
		}
		mu.Lock()
		defer mu.Unlock()
		outcomes[id], places[id] = err, receipt.Sequence
		if err != nil {
			failed.Add(1)
			if e, coded := errors.AsType[*rpc.Error](err); !coded || e.Code != rpc.Unavailable && e.Code != rpc.DeadlineExceeded {
				t.Errorf("%s: error %v, want unavailable or deadline_exceeded", id, err)
			}
			return err
		}
		if ok.Add(1); receipt.Duplicate {
			t.Errorf("%s: its own first attempt is called a duplicate: %+v", id, receipt)
		}
		return nil
	}
	for i := range senders {
		through := pipelines[i/2%connections]
		// Half of them wait for the bus to come back, the others can't.
		limit := 20 * time.Second
		if i%2 == 0 {
			limit = 50 * time.Millisecond
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = send(through, limit) // noted
			}
		})
	}
	stopSending := sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(stopSending)
	for round := range rounds(3, 12) {
		before := ok.Load()
		until(t, "some events are stored", func() bool { return ok.Load() > before+500 })
		if round%2 == 0 {
			b.kill(t)
		} else {
			b.stop(t, syscall.SIGTERM)
		}
		if err := send(pipelines[round%connections], 300*time.Millisecond); err == nil {
			t.Error("a send without a bus has succeeded")
		}
		gone := failed.Load()
		until(t, "sends have failed", func() bool { return failed.Load() > gone+senders })
		b.begin(t)
	}
	before := ok.Load()
	until(t, "events are stored again", func() bool { return ok.Load() > before+500 })
	stopSending()

	stored := storedIDs(t, b.url)
	times := map[string]int{}
	for _, id := range stored {
		times[id]++
	}
	lucky := 0
	for id, err := range outcomes {
		switch n := times[id]; {
		case err == nil && n != 1:
			t.Errorf("%s was acknowledged, at %d, and is stored %d times", id, places[id], n)
		case err == nil && stored[places[id]] != id:
			t.Errorf("%s was acknowledged at %d: there is %q", id, places[id], stored[places[id]])
		case n > 1:
			t.Errorf("%s, which failed with %v, is stored %d times", id, err, n)
		case err != nil && n == 1:
			lucky++
			if e, _ := errors.AsType[*rpc.Error](err); e != nil && e.Retryable {
				t.Errorf("%s is stored, and its error says that it surely is not: %v", id, err)
			}
		}
		delete(times, id)
	}
	if len(times) > 0 {
		t.Errorf("%d events are stored that nobody has sent: %v", len(times), times)
	}
	if unheard.Hits() == 0 {
		t.Error("no answer was lost")
	}
	t.Logf("%d sends: %d acknowledged, %d failed, %d of which are stored all the same; %d answers were lost", len(outcomes), ok.Load(), failed.Load(), lucky, unheard.Hits())
}

// storedIDs returns the ids of all events, by their sequence.
func storedIDs(t testing.TB, url string) map[uint64]string {
	t.Helper()
	js, err := jetstream.New(plainClient(t, url))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	ids := map[uint64]string{}
	for last := stream.CachedInfo().State.LastSeq; ; {
		msg, err := messages.Next()
		if err != nil {
			t.Fatalf("after %d events: %v", len(ids), err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		ids[meta.Sequence.Stream] = msg.Headers().Get(bus.HeaderEventID)
		if meta.Sequence.Stream >= last {
			return ids
		}
	}
}
