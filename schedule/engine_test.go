package schedule

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rpc.do/bus/bustest"
)

// A process whose clock is behind takes the ticks that the server releases, and
// has none of them twice.
func TestClockBehind(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	all := Open(b)
	if _, err := all.Create(t.Context(), Spec{Name: "behind", Cron: "@every 1s", Event: "Clock.struck", Runs: 3}, false); err != nil {
		t.Fatal(err)
	}
	e := newEngine(b, zerolog.Nop())
	e.now = func() time.Time { return time.Now().Add(-10 * time.Minute) }
	if err := e.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer e.stop(t.Context())
	limit := time.After(30 * time.Second)
	for {
		info, err := all.Get(t.Context(), "behind")
		if err != nil {
			t.Fatal(err)
		}
		if info.Counts.Fired == 3 {
			if !info.Next.IsZero() || info.Counts.Skipped != nil {
				t.Errorf("%+v", info)
			}
			return
		}
		select {
		case <-limit:
			t.Fatalf("%+v", info)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// How a run has ended is told until somebody has heard it, the process ends, or it
// is too late.
func TestInsist(t *testing.T) {
	t.Parallel()
	away := errors.New("the bus is away")
	tries := 0
	err := insist(t.Context(), time.Now().Add(time.Hour), func() error {
		if tries++; tries < 4 {
			return away
		}
		return nil
	})
	if err != nil || tries != 4 {
		t.Errorf("%d tries, %v", tries, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := insist(ctx, time.Now().Add(time.Hour), func() error { cancel(); return away }); !errors.Is(err, away) {
		t.Errorf("a process that ends: %v", err)
	}
	until := time.Now().Add(100 * time.Millisecond)
	if err := insist(t.Context(), until, func() error { return away }); err != nil || time.Now().Before(until) {
		t.Errorf("too late: %v", err)
	}
}
