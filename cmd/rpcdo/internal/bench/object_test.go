package bench

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// objectConfig measures over a server of its own, for a moment.
func objectConfig(t *testing.T, aspects ...Aspect) (ObjectConfig, *natsd.Server) {
	t.Helper()
	srv := bustest.Server(t, bustest.WithServer(func(cfg *natsd.Config) { cfg.Sync = natsd.SyncInterval }))
	return ObjectConfig{
		Config: Config{
			Transport: InProcess, Concurrency: []int{1, 3}, Duration: 20 * time.Millisecond, Rounds: 2, Baseline: true,
			Connect: func(ctx context.Context) (*bus.Bus, error) {
				return bus.Connect(ctx, bus.Config{InProcess: srv, Name: "bench"})
			},
		},
		Aspects: aspects, Objects: FewObjects, Active: FewObjects,
	}, srv
}

// What is measured is removed, and what has been there stays.
func TestObjectLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	cfg, srv := objectConfig(t, Increment, Event)
	b := bustest.Connect(t, srv)
	if _, err := b.JetStream().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "theirs"}); err != nil {
		t.Fatal(err)
	}
	if _, err := Object(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	left := map[string]uint64{}
	infos := b.JetStream().ListStreams(t.Context())
	for info := range infos.Info() {
		left[info.Config.Name] = info.State.Msgs
	}
	if err := infos.Err(); err != nil {
		t.Fatal(err)
	}
	if _, ok := left["KV_theirs"]; !ok || len(left) != 2 {
		t.Errorf("left are %v, want theirs and %s", left, ownersStream)
	}
	owners, err := b.JetStream().KeyValue(t.Context(), strings.TrimPrefix(ownersStream, "KV_"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := owners.ListKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for key := range keys.Keys() {
		t.Errorf("left is the key %s", key)
	}
}

func TestObjectOnASharedBusEmitsNothing(t *testing.T) {
	t.Parallel()
	cfg, srv := objectConfig(t, Event, Storage, Batch)
	cfg.SharedBus, cfg.Concurrency = true, []int{1}
	rows, err := Object(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].Name != "object/inprocess/storage" || rows[0].Baseline.Name != "raw request/reply + raw atomic batch of 2" {
		t.Errorf("rows %+v", rows)
	}
	_, err = bustest.Connect(t, srv).JetStream().Stream(t.Context(), bus.EventsStream)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the stream of events: %v", err)
	}
}

// An activation that was none is not measured as one.
func TestActivationsMustBeSome(t *testing.T) {
	t.Parallel()
	cfg, _ := objectConfig(t)
	k, err := cfg.serve(t.Context(), classConfig{objects: 1})
	if err != nil {
		t.Fatal(err)
	}
	before, err := k.lastSequence()
	if err != nil {
		t.Fatal(err)
	}
	view := k.viewing("", func(int) string { return member(0) })
	const calls = 20
	for range calls {
		if err := view.op(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.mustHaveActivated(1, before); err != nil {
		t.Errorf("the first was one: %v", err)
	}
	if err := k.mustHaveActivated(calls, before); err == nil || !strings.Contains(err.Error(), "19 of 20 calls") {
		t.Errorf("the others were none: %v", err)
	}
	if err := view.stop(); err != nil {
		t.Error(err)
	}
}

func TestScatteredVisitsAll(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 1000, 7919, 2 * 7919} {
		seen := make([]bool, n)
		for i := range n {
			seen[scattered(i, n)] = true
		}
		if i := slices.Index(seen, false); i >= 0 {
			t.Errorf("of %d, %d is left out", n, i)
		}
	}
}

// Each side is compared with the next, which has no row when it is the last.
func TestMeasureComparesWithTheNext(t *testing.T) {
	t.Parallel()
	side := func(row, name string) *workload {
		return &workload{row: row, name: name, op: func(context.Context, int) error { return nil }}
	}
	cfg := Config{Duration: 2, Rounds: 1, cpu: true}
	rows, err := measure(t.Context(), cfg, 2, side("view", ""), side("call", "a call"), side("", "raw"))
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Name != "view" || rows[0].Baseline.Name != "a call" || rows[1].Name != "call" || rows[1].Baseline.Name != "raw" {
		t.Errorf("rows %+v", rows)
	}
	rows, err = measure(t.Context(), cfg, 2, side("view", ""))
	if err != nil || len(rows) != 1 || rows[0].Name != "view" || rows[0].Baseline != nil {
		t.Errorf("alone: %+v, %v", rows, err)
	}
}

// The raw writes are compare-and-set, one message or an atomic batch, or the
// comparison would mean little.
func TestRawBucketComparesAndSets(t *testing.T) {
	t.Parallel()
	cfg, _ := objectConfig(t)
	b, err := cfg.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	bucket, err := cfg.rawBucket(t.Context(), b, false)
	if err != nil {
		t.Fatal(err)
	}
	write := func(aspect Aspect, rev uint64) (uint64, error) {
		record, err := bucket.record("x", rev, counter{1})
		if err != nil {
			t.Fatal(err)
		}
		extras, err := bucket.extras(aspect, "x", rev, counter{1})
		if err != nil {
			t.Fatal(err)
		}
		return bucket.write(b.Conn(), append([]*nats.Msg{record}, extras...)...)
	}
	var rev uint64
	for i, aspect := range []Aspect{Increment, Batch, Storage, Increment} {
		if _, err := write(aspect, rev+100); err == nil {
			t.Errorf("%s with a wrong revision was stored", aspect)
		}
		next, err := write(aspect, rev)
		if err != nil || next <= rev {
			t.Fatalf("write %d: revision %d after %d, %v", i, next, rev, err)
		}
		rev = next
	}
	if err := bucket.remove(); err != nil {
		t.Error(err)
	}
}
