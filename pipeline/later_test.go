package pipeline_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/pipeline"
	"rpc.do/server"
)

func TestSendLater(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	events := make(chan pipeline.Event[order], 10)
	l.serve("shop", func(svc *server.Service) {
		pipeline.On(svc, placed, "note", func(_ context.Context, e pipeline.Event[order]) error {
			events <- e
			return nil
		})
	})
	at := time.Now().Add(1500 * time.Millisecond)
	receipt, err := pipeline.Send(t.Context(), l.p, placed, order{N: 1}, pipeline.At(at), pipeline.WithSubject("customer 7"))
	if err != nil || receipt.ID == "" || receipt.Sequence != 0 || !receipt.At.Equal(at) || receipt.Subject != "$.Order.placed" {
		t.Fatalf("%+v, %v", receipt, err)
	}
	e := <-events
	if late := time.Since(at); late < 0 || late > 5*time.Second {
		t.Errorf("it came %v after its time", late)
	}
	if e.ID != receipt.ID || e.Data.N != 1 || e.Subject != "customer 7" || !e.Time.Equal(at) || e.CorrelationID != e.ID || e.Sequence == 0 {
		t.Errorf("%+v", e)
	}
	if cancelled, err := l.p.Cancel(t.Context(), receipt.ID); cancelled || err != nil {
		t.Errorf("cancelled after it was sent: %v, %v", cancelled, err)
	}
	// It is not sent again, though it does not wait any more.
	r, err := pipeline.Send(t.Context(), l.p, placed, order{N: 1}, pipeline.After(time.Hour), pipeline.WithID(receipt.ID))
	if err != nil || !r.Duplicate {
		t.Errorf("once more: %+v, %v", r, err)
	}
	if _, err := l.p.Cancel(t.Context(), receipt.ID); err != nil {
		t.Error(err)
	}
	// One whose time has passed is sent at once.
	if r, err := pipeline.Send(t.Context(), l.p, placed, order{N: 2}, pipeline.After(-time.Hour)); err != nil || r.Sequence == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if e := <-events; e.Data.N != 2 {
		t.Errorf("%+v", e)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	send := func(id string, opts ...pipeline.SendOption) (pipeline.Receipt, error) {
		return pipeline.Send(ctx, l.p, placed, order{N: 1}, append(opts, pipeline.WithID(id))...)
	}
	const id = "an id: with *, > and ü."
	if _, err := send(id, pipeline.After(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if r, err := send(id, pipeline.After(2*time.Hour)); err != nil || !r.Duplicate {
		t.Errorf("once more: %+v, %v", r, err)
	}
	_, err := l.p.Send(ctx, "Order.paid", order{}, pipeline.WithID(id), pipeline.After(time.Hour))
	l.coded(err, rpc.AlreadyExists, "another type")
	for range 2 {
		if cancelled, err := l.p.Cancel(ctx, id); !cancelled || err != nil {
			t.Fatal(cancelled, err)
		}
	}
	if _, err := send(id, pipeline.After(time.Hour)); err != nil { // it is free again
		t.Error(err)
	}
	_, err = l.p.Cancel(ctx, "never was")
	l.coded(err, rpc.NotFound, "never was")
	_, err = l.p.Cancel(ctx, "")
	l.coded(err, rpc.InvalidArgument)
	_, err = send("far", pipeline.At(time.Date(2101, 1, 1, 0, 0, 0, 0, time.UTC)))
	l.coded(err, rpc.InvalidArgument, "2100")
	_, err = send("both", pipeline.After(time.Hour), pipeline.WithExpectedSequence(1))
	l.coded(err, rpc.InvalidArgument, "WithExpectedSequence")
	_, err = pipeline.SendBatch(ctx, l.p, placed, []order{{N: 1}}, pipeline.After(time.Hour))
	l.coded(err, rpc.InvalidArgument, "batch")
}

// Whoever cancels while the time comes gets the truth.
func TestCancelRaces(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const n = 60
	at := time.Now().Add(time.Second)
	for i := range n {
		if _, err := pipeline.Send(t.Context(), l.p, placed, order{N: i}, pipeline.At(at), pipeline.WithID(fmt.Sprint("order-", i))); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	want := map[int]bool{}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			timer := time.NewTimer(time.Until(at) + time.Duration(i-n/4)*10*time.Millisecond)
			<-timer.C
			cancelled, err := l.p.Cancel(t.Context(), fmt.Sprint("order-", i))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			want[i] = !cancelled
		})
	}
	all.Wait()
	sent := 0
	for _, is := range want {
		if is {
			sent++
		}
	}
	if sent == 0 || sent == n {
		t.Logf("%d of %d were sent: there was no race", sent, n)
	}
	var page pipeline.Page
	l.until("those that were not cancelled are sent", func() bool {
		var err error
		if page, err = l.p.History(t.Context(), pipeline.Query{Limit: 1000}); err != nil {
			t.Fatal(err)
		}
		return len(page.Events) >= sent
	})
	for _, e := range page.Events {
		var i int
		if _, err := fmt.Sscanf(e.ID, "order-%d", &i); err != nil || !want[i] {
			t.Errorf("%s was sent and cancelled", e.ID)
		}
	}
	if len(page.Events) != sent {
		t.Errorf("%d were sent, want %d", len(page.Events), sent)
	}
}
