package bus_test

import (
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// What one process changes in EVENTS is not undone by others that add their
// sources at the same time, nor are their sources lost.
func TestAmendEvents(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	carts := make([]*cart, 3)
	for i := range carts {
		carts[i] = newCart(t, bustest.Connect(t, s), "c"+strconv.Itoa(i))
	}
	b := bustest.Connect(t, s)
	settle(t, b)
	var wg sync.WaitGroup
	for _, c := range carts {
		wg.Go(func() {
			if err := c.bus.SourceEvents(t.Context(), c.stream, c.prefix); err != nil {
				t.Error(err)
			}
		})
	}
	const last = 5
	wg.Go(func() {
		for n := range int64(last) {
			stream, err := b.AmendEvents(t.Context(), func(cfg *jetstream.StreamConfig) (bool, error) {
				was := cfg.MaxMsgs
				cfg.MaxMsgs = 1000 + n
				return was != cfg.MaxMsgs, nil
			})
			if err != nil {
				t.Error(err)
				return
			}
			if got := stream.CachedInfo().Config.MaxMsgs; got != 1000+n {
				t.Errorf("max_msgs %d, want %d", got, 1000+n)
			}
		}
	})
	wg.Wait()
	if got := info(t, b, bus.EventsStream).Config.MaxMsgs; got != 1000+last-1 {
		t.Errorf("max_msgs %d", got)
	}
	if got := sources(t, b); len(got) != len(carts) {
		t.Errorf("sources: %q", got)
	}
}

func TestAmendEventsFails(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	wrong := errors.New("wrong")
	if _, err := b.AmendEvents(t.Context(), func(*jetstream.StreamConfig) (bool, error) { return false, wrong }); !errors.Is(err, wrong) {
		t.Error(err)
	}
	_, err := b.AmendEvents(t.Context(), func(cfg *jetstream.StreamConfig) (bool, error) {
		cfg.MaxAge = 1
		return true, nil
	})
	says(t, err, bus.EventsStream)
}
