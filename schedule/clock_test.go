package schedule

import (
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
