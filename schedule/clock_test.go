package schedule

import (
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rpc.do/bus/bustest"
)

// Processes whose clocks are wrong decide by that of the stream's leader.
func TestClockWrong(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]time.Duration{"ahead": 10 * time.Minute, "years ahead": 14 * 366 * 24 * time.Hour, "behind": -10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			wrong := func() time.Time { return time.Now().Add(by) }
			operator := Open(b)
			operator.engine.clock.local = wrong
			ctx := t.Context()
			for _, spec := range []Spec{{Name: "beat", Cron: "@every 1s", Event: "Clock.struck"}, {Name: "hourly", Cron: "@every 1h", Event: "Clock.struck"}} {
				info, err := operator.Create(ctx, spec, false)
				if err != nil {
					t.Fatal(err)
				}
				if ahead := time.Until(info.Next); ahead < -time.Second || ahead > time.Hour+time.Second {
					t.Errorf("%s comes next in %v", spec.Name, ahead)
				}
			}
			e := newEngine(b, zerolog.Nop())
			e.clock.local = wrong
			if err := e.start(ctx); err != nil {
				t.Fatal(err)
			}
			defer e.stop(ctx)
			if _, err := operator.Pause(ctx, "hourly", "a moment"); err != nil {
				t.Fatal(err)
			}
			if _, err := operator.Resume(ctx, "hourly"); err != nil {
				t.Fatal(err)
			}
			limit := time.After(30 * time.Second)
			for {
				info, err := operator.Get(ctx, "beat")
				if err != nil {
					t.Fatal(err)
				}
				if info.Counts.Fired >= 3 {
					break
				}
				select {
				case <-limit:
					t.Fatalf("%+v", info)
				case <-time.After(10 * time.Millisecond):
				}
			}
			beat, err := operator.History(ctx, "beat")
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range beat {
				if late := o.At.Sub(o.Nominal); o.State != Fired || late < 0 || late > 10*time.Second {
					t.Errorf("%+v, late by %v", o, late)
				}
			}
			if hourly, err := operator.Get(ctx, "hourly"); err != nil || hourly.Counts.Fired > 0 || hourly.Counts.Skipped != nil {
				t.Errorf("%+v, %v", hourly, err)
			}
		})
	}
}
