package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// TestCancelStaysBehind gives a call up while its request lies in the outbox:
// a cancellation that came first would do nothing.
func TestCancelStaysBehind(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	c := New(b, Config{})
	c.pending.count.Add(bus.Crowd) // so that requests go through the outbox
	box := &fullBox{outbox: c.outbox}
	c.outbox = box
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := rpc.NewMethod[int, int]("calc.m").Go(ctx, c, 1, rpc.WithTimeout(time.Minute))
	for len(box.subjects()) == 0 {
		select {
		case <-ended.Done():
			_, err := ended.Wait(ctx)
			t.Fatalf("the call ended before its request was put: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	before := b.Conn().Stats().OutMsgs
	cancel()
	if _, err := ended.Wait(t.Context()); rpc.CodeOf(err) != rpc.Canceled {
		t.Fatal(err)
	}
	if sent := b.Conn().Stats().OutMsgs - before; sent != 0 {
		t.Errorf("%d messages overtook the request", sent)
	}
	if got, want := fmt.Sprint(box.subjects()), fmt.Sprint([]string{"rpc.calc.m", bus.CancelSubject("calc")}); got != want {
		t.Errorf("the outbox holds %s, want %s", got, want)
	}
	c.pending.count.Add(-bus.Crowd)
}

// fullBox is an outbox that nobody sends from.
type fullBox struct {
	outbox

	mu   sync.Mutex
	msgs []string
}

func (b *fullBox) Put(msg *nats.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.msgs = append(b.msgs, msg.Subject)
}

func (b *fullBox) subjects() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.msgs)
}
