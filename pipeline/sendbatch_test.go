package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/pipeline"
)

var numbered = rpc.NewEvent[int]("Number.drawn")

func numbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// readAll returns the data of all events, in the order of the stream.
func readAll(t testing.TB, b *bus.Bus) []string {
	t.Helper()
	events, err := b.EnsureEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := events.CachedInfo().State.Msgs
	reader, err := events.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]string, 0, n)
	for uint64(len(data)) < n {
		batch, err := reader.Fetch(min(int(n)-len(data), 1000))
		if err != nil {
			t.Fatal(err)
		}
		for msg := range batch.Messages() {
			data = append(data, string(msg.Data()))
		}
		if batch.Error() != nil {
			t.Fatal(batch.Error())
		}
	}
	return data
}

// A batch is stored whole and in its order, whatever its size.
func TestSendBatchOrder(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	const n = 5000
	receipts, err := pipeline.SendBatch(t.Context(), p, numbered, numbers(n))
	if err != nil || len(receipts) != n {
		t.Fatal(len(receipts), err)
	}
	data := readAll(t, b)
	ids := map[string]bool{}
	for i, receipt := range receipts {
		if receipt.Sequence != uint64(i+1) || data[i] != fmt.Sprint(i) || receipt.Subject != "$.Number.drawn" || receipt.Duplicate {
			t.Fatalf("%d: %+v, %s", i, receipt, data[i])
		}
		ids[receipt.ID] = true
	}
	if len(ids) != n || len(data) != n {
		t.Errorf("%d ids, %d events", len(ids), len(data))
	}
	if m := parsed(t, message(t, b, 17)); m.ID != receipts[16].ID || m.Type != "Number.drawn" || m.Source != "/test" {
		t.Errorf("%+v", m)
	}
}

func TestSendBatchEmpty(t *testing.T) {
	t.Parallel()
	_, p := sender(t)
	if receipts, err := pipeline.SendBatch(t.Context(), p, numbered, nil); err != nil || len(receipts) != 0 {
		t.Error(receipts, err)
	}
	if receipts, err := p.SendBatch(t.Context(), nil); err != nil || len(receipts) != 0 {
		t.Error(receipts, err)
	}
}

// What is wrong with one item does not keep the others back.
func TestSendBatchBadItems(t *testing.T) {
	t.Parallel()
	b, p := sender(t, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 64 << 10 }))
	if _, err := p.Send(t.Context(), "Account.opened", 0, pipeline.WithID("taken")); err != nil {
		t.Fatal(err)
	}
	items := []pipeline.Item{
		{Event: "Account.opened", Data: 1},
		{Event: "user registered", Data: 2},
		{Event: "Account.opened", Data: make(chan int)},
		{Event: "Account.opened", Data: 4, Options: []pipeline.SendOption{pipeline.WithExpectedSequence(99)}},
		{Event: "Account.opened", Data: json.RawMessage("[5]")},
		{Event: "Account.opened", Data: strings.Repeat("x", 64<<10)},
		{Event: "Account.closed", Data: 7, Options: []pipeline.SendOption{pipeline.WithID("taken")}},
		{Event: "Account.opened", Data: 8, Options: []pipeline.SendOption{pipeline.WithID("taken")}},
		{Event: "Account.opened", Data: 9, Options: []pipeline.SendOption{pipeline.WithID("")}},
		{Event: "Account.opened", Data: 10, Options: []pipeline.SendOption{pipeline.WithExpectedSequence(3)}},
	}
	receipts, err := p.SendBatch(t.Context(), items)
	several, ok := errors.AsType[*pipeline.BatchError](err)
	if !ok {
		t.Fatal(err)
	}
	want := map[int]rpc.Code{1: rpc.InvalidArgument, 2: rpc.InvalidArgument, 3: rpc.Aborted, 5: rpc.ResourceExhausted, 6: rpc.AlreadyExists, 8: rpc.InvalidArgument}
	last := -1
	for _, failed := range several.Failed {
		if rpc.CodeOf(failed.Err) != want[failed.Index] || failed.Index <= last {
			t.Errorf("%d: %v, want %v", failed.Index, failed.Err, want[failed.Index])
		}
		if receipts[failed.Index] != (pipeline.Receipt{}) {
			t.Errorf("%d has failed and has the receipt %+v", failed.Index, receipts[failed.Index])
		}
		last = failed.Index
	}
	if len(several.Failed) != len(want) {
		t.Errorf("%d have failed, want %d: %v", len(several.Failed), len(want), err)
	}
	for i, sequence := range map[int]uint64{0: 2, 4: 3, 7: 1, 9: 4} {
		if receipts[i].Sequence != sequence || receipts[i].Duplicate != (i == 7) {
			t.Errorf("%d: %+v, want the sequence %d", i, receipts[i], sequence)
		}
	}
	if n := stored(t, b); n != 4 {
		t.Errorf("%d events are stored, want 4", n)
	}
	if text := err.Error(); !strings.Contains(text, "6 items") || !strings.Contains(text, "item 1") || rpc.CodeOf(err) != rpc.InvalidArgument || !errors.Is(err, rpc.Aborted) {
		t.Errorf("the error reads %s", text)
	}
}

func TestBatchError(t *testing.T) {
	t.Parallel()
	one := &pipeline.BatchError{Failed: []pipeline.ItemError{{Index: 3, Err: rpc.NotFound.Errorf("gone")}}}
	if one.Error() != "item 3 of the batch: not_found: gone" || rpc.CodeOf(one) != rpc.NotFound || rpc.CodeOf(fmt.Errorf("x: %w", one)) != rpc.NotFound {
		t.Error(one)
	}
	if text := new(pipeline.BatchError).Error(); text == "" {
		t.Error("it says nothing")
	}
}

// What is for one event is not given to all.
func TestSendBatchOptionsOfOne(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	for name, opt := range map[string]pipeline.SendOption{
		"id": pipeline.WithID("x"), "dedupe": pipeline.WithDedupe("x"), "sequence": pipeline.WithExpectedSequence(0),
	} {
		_, err := pipeline.SendBatch(t.Context(), p, numbered, numbers(2), opt)
		fails(t, err, rpc.InvalidArgument, "Pipeline.SendBatch")
		if n := stored(t, b); n != 0 {
			t.Errorf("%s: %d events are stored", name, n)
		}
	}
	if receipts, err := pipeline.SendBatch(t.Context(), p, numbered, numbers(1), pipeline.WithID("x")); err != nil || receipts[0].ID != "x" {
		t.Error(receipts, err)
	}
	receipts, err := pipeline.SendBatch(t.Context(), p, numbered, numbers(3), pipeline.WithSubject("machine 1"), pipeline.WithHeader("tenant", "acme"))
	if err != nil {
		t.Fatal(err)
	}
	for _, receipt := range receipts {
		msg := message(t, b, receipt.Sequence)
		if parsed(t, msg).Subject != "machine 1" || msg.Header.Get("tenant") != "acme" {
			t.Errorf("%v", msg.Header)
		}
	}
}

// Large events do not fill the memory of the bus.
func TestSendBatchLarge(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	data := make([]string, 40)
	for i := range data {
		data[i] = strings.Repeat("x", 900<<10)
	}
	receipts, err := pipeline.SendBatch(t.Context(), p, rpc.NewEvent[string]("File.uploaded"), data)
	if err != nil || receipts[39].Sequence != 40 {
		t.Error(err)
	}
	if n := stored(t, b); n != 40 {
		t.Errorf("%d events are stored", n)
	}
}

// saboteur is data that do something when they are sent.
type saboteur struct {
	number int
	act    func(n int)
}

func (s saboteur) MarshalJSON() ([]byte, error) {
	s.act(s.number)
	return fmt.Append(nil, s.number), nil
}

// The bus restarts while a batch is on its way: each event is stored once.
func TestSendBatchAcrossRestarts(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	p := pipeline.New(b, pipeline.Config{Timeout: time.Minute})
	const n = 6000
	var wg sync.WaitGroup
	act := func(number int) {
		if number == 2500 || number == 5000 {
			wg.Go(func() {
				s.Shutdown()
				if err := s.Restart(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	data := make([]saboteur, n)
	for i := range data {
		data[i] = saboteur{i, act}
	}
	receipts, err := pipeline.SendBatch(t.Context(), p, rpc.NewEvent[saboteur]("Number.drawn"), data)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := readAll(t, b)
	if len(all) != n {
		t.Errorf("%d events are stored, want %d", len(all), n)
	}
	displaced := 0 // by one that the client library kept while others were lost
	seen := map[string]bool{}
	for i, text := range all {
		if seen[text] {
			t.Errorf("%s is there twice", text)
		}
		seen[text] = true
		if text != fmt.Sprint(i) {
			displaced++
		}
	}
	t.Logf("%d events are not in their order", displaced)
	for i, receipt := range receipts {
		if receipt.Duplicate || all[receipt.Sequence-1] != fmt.Sprint(i) {
			t.Fatalf("%d: %+v", i, receipt)
		}
	}
}

func TestSendBatchCanceled(t *testing.T) {
	t.Parallel()
	b, p := sender(t)
	ctx, cancel := context.WithCancel(t.Context())
	act := func(number int) {
		if number == 3000 {
			cancel()
		}
	}
	data := make([]saboteur, 5000)
	for i := range data {
		data[i] = saboteur{i, act}
	}
	receipts, err := pipeline.SendBatch(ctx, p, rpc.NewEvent[saboteur]("Number.drawn"), data)
	several, ok := errors.AsType[*pipeline.BatchError](err)
	if !ok || len(several.Failed) < 1000 || len(several.Failed) > 4999 {
		t.Fatalf("got %v", err)
	}
	failed := map[int]error{}
	for _, f := range several.Failed {
		failed[f.Index] = f.Err
		if rpc.CodeOf(f.Err) != rpc.Canceled {
			t.Fatalf("%d: %v", f.Index, f.Err)
		}
	}
	for i, receipt := range receipts {
		if (failed[i] == nil) != (receipt.Sequence > 0) {
			t.Fatalf("%d: %+v, %v", i, receipt, failed[i])
		}
	}
	if e, ok := errors.AsType[*rpc.Error](failed[4999]); !ok || !e.Retryable {
		t.Errorf("the last was not sent: %v", failed[4999])
	}
	if n := stored(t, b); n < uint64(len(data)-len(failed)) {
		t.Errorf("%d events are stored, %d have receipts", n, len(data)-len(failed))
	}
}
