package bench

import (
	"context"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

// eventConfig measures events over a server of its own, for a moment.
func eventConfig(t *testing.T, aspects ...EventAspect) (EventConfig, *bus.Bus) {
	t.Helper()
	srv := bustest.Server(t, bustest.WithServer(func(cfg *natsd.Config) { cfg.Sync = natsd.SyncInterval }))
	return EventConfig{
		Config: Config{
			Transport: InProcess, Concurrency: []int{2}, Duration: 20 * time.Millisecond, Rounds: 2, Baseline: true,
			Connect: func(ctx context.Context) (*bus.Bus, error) {
				return bus.Connect(ctx, bus.Config{InProcess: srv, Name: "bench"})
			},
		},
		Aspects: aspects, Handlers: 10,
	}, bustest.Connect(t, srv)
}

func TestEventsLeaveNoStream(t *testing.T) {
	t.Parallel()
	cfg, b := eventConfig(t)
	rows, err := Events(t.Context(), cfg)
	if err != nil || len(rows) != len(EventAspects()) {
		t.Fatalf("%+v, %v", rows, err)
	}
	infos := b.JetStream().ListStreams(t.Context())
	for info := range infos.Info() {
		if info.Config.Name == bus.EventsStream {
			t.Errorf("the stream %s is left, with %d events", bus.EventsStream, info.State.Msgs)
		}
	}
	if err := infos.Err(); err != nil {
		t.Error(err)
	}
}

// A batch counts as its events, and its time as that of all of them.
func TestBatchesCountEvents(t *testing.T) {
	t.Parallel()
	cfg, b := eventConfig(t)
	cfg.Baseline = false
	rows, err := cfg.batches(t.Context())
	if err != nil || len(rows) != 1 {
		t.Fatalf("%+v, %v", rows, err)
	}
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	row, stored := rows[0], stream.CachedInfo().State.Msgs
	if row.Ops%EventBatch != 0 || row.Ops == 0 || stored < row.Ops || row.P50us*row.OpsPerS < EventBatch*1e6/4 {
		t.Errorf("%+v, %d stored", row, stored)
	}
}

// The raw message is the one that Send makes, or the comparison would mean little.
func TestRawEventIsTheSame(t *testing.T) {
	t.Parallel()
	cfg, b := eventConfig(t)
	ours, err := cfg.send(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := cfg.publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []*workload{ours, raw} {
		if err := w.op(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	}
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	second, err := stream.GetMsg(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if string(first.Data) != string(second.Data) || first.Subject != second.Subject || len(first.Header) != len(second.Header) {
		t.Errorf("%s %s %v, raw: %s %s %v", first.Subject, first.Data, first.Header, second.Subject, second.Data, second.Header)
	}
	for name := range first.Header {
		if second.Header.Get(name) == "" {
			t.Errorf("the raw message lacks %s", name)
		}
	}
}

func TestWatchTimesStretches(t *testing.T) {
	t.Parallel()
	w := newWatch(3 * stretch)
	for range 3*stretch + 5 { // some come again
		w.handled(nil)
	}
	<-w.done
	begun := time.Now()
	w.last = begun.Add(60 * time.Millisecond)
	for i, after := range []time.Duration{0, 10, 30, 60} {
		w.stamps[i] = begun.Add(after * time.Millisecond)
	}
	r := w.round()
	near := func(got, want time.Duration) bool { return max(got-want, want-got) < want/64 }
	if r.ops != 3*stretch || !near(r.p50, 200*time.Microsecond) || !near(r.p99, 300*time.Microsecond) || r.rate < 4900 || r.rate > 5000 {
		t.Errorf("got %+v", r)
	}
}
