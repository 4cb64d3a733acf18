package durable_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable"
)

func TestDelete(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCabinets(t, b)
	cl, c := caller(t, b), openClass(t, b, "cabinet")
	at := time.Now().Add(time.Hour)
	fill(t, cl, "oak", fillParams{N: 5, Alarm: at, Put: map[string]int{"a": 1, "b": 2}})
	fill(t, cl, "elm", fillParams{N: 7, Alarm: at, Put: map[string]int{"a": 1}})
	if err := c.Pause(t.Context(), "oak", "to be deleted"); err != nil {
		t.Fatal(err)
	}
	for range 3 { // it is no error to do it again
		if err := c.Delete(t.Context(), "oak"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.State(t.Context(), "oak")
	wantError(t, "state", err, rpc.NotFound)
	_, err = c.Entries(t.Context(), "oak", durable.ListOptions{})
	wantError(t, "entries", err, rpc.NotFound)
	stream := streamOf(t, b, "cabinet")
	for _, key := range []string{"_alarm.oak", "oak.a", "oak.b"} {
		if m, err := stream.GetLastMsgForSubject(t.Context(), "$KV."+durable.Bucket("cabinet")+"."+key); !errors.Is(err, jetstream.ErrMsgNotFound) &&
			m.Header.Get("KV-Operation") != "PURGE" {
			t.Errorf("%s is still there: %+v, %v", key, m, err)
		}
	}
	if err := c.Resume(t.Context(), "oak"); err != nil {
		t.Fatal(err)
	}
	fill(t, cl, "oak", fillParams{N: 1})
	if info, err := c.State(t.Context(), "oak"); err != nil || string(info.State) != `{"n":1}` || info.Alarm != nil {
		t.Errorf("begun anew: %+v, %v", info, err)
	}
	if entries, err := c.Entries(t.Context(), "oak", durable.ListOptions{}); err != nil || len(entries) != 0 {
		t.Errorf("entries, begun anew: %v, %v", entries, err)
	}
	if info, err := c.State(t.Context(), "elm"); err != nil || string(info.State) != `{"n":7}` || info.Alarm == nil {
		t.Errorf("another object: %+v, %v", info, err)
	}
}

// Deleting what has never been leaves no trace, and what is deleted is not
// deleted again.
func TestDeleteOfNothing(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	c := openClass(t, b, "counter")
	stream := streamOf(t, b, "counter")
	key := "$KV." + durable.Bucket("counter") + ".ghost"
	for range 3 {
		if err := c.Delete(t.Context(), "ghost"); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.GetLastMsgForSubject(t.Context(), key); !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("there is a message: %+v, %v", m, err)
		}
	}
	increments(t, caller(t, b), "ghost")
	var first uint64
	for i := range 3 {
		if err := c.Delete(t.Context(), "ghost"); err != nil {
			t.Fatal(err)
		}
		m, err := stream.GetLastMsgForSubject(t.Context(), key)
		if err != nil || m.Header.Get("KV-Operation") != "PURGE" || i > 0 && m.Sequence != first {
			t.Errorf("time %d: %+v, %v, want the message with the sequence %d", i, m, err, first)
			break
		}
		first = m.Sequence
	}
}

func TestDeleteWhenNobodyServes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	stop := serveCounter(t, b, durable.Config{})
	increments(t, caller(t, b), "alice")
	stop()
	c := openClass(t, b, "counter")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantError(t, "delete", c.Delete(ctx, "alice"), rpc.Unavailable, "counter/alice was not deleted", "nobody serves the class counter")
	if _, err := c.State(t.Context(), "alice"); err != nil {
		t.Error(err)
	}
}

// A delete is between turns: the increments after it begin at zero, and none is
// lost or torn.
func TestDeleteBetweenTurns(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	c, cl := openClass(t, b, "counter"), caller(t, b)
	increment, value := methods()
	const callers, each, deletes = 8, 50, 20
	var mu sync.Mutex
	seen := map[int]int{}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				n, err := increment.Call(t.Context(), cl, "alice", incrementParams{By: 1})
				mu.Lock()
				switch rpc.CodeOf(err) {
				case 0:
					seen[n]++
				case rpc.Aborted: // sent again after the object, with what it knew of calls, was gone
				default:
					t.Errorf("increment: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for range deletes {
			if err := c.Delete(t.Context(), "alice"); err != nil {
				t.Errorf("delete: %v", err)
				return
			}
		}
	})
	wg.Wait()
	last, err := value.Call(t.Context(), cl, "alice", rpc.None{})
	if err != nil {
		t.Fatal(err)
	}
	// Every run from 1 up that a delete ended, or that goes on: so each value was
	// seen at most as often as the one before.
	for n := 2; n <= callers*each; n++ {
		if seen[n] > seen[n-1] {
			t.Errorf("%d was returned %d times, %d only %d times", n, seen[n], n-1, seen[n-1])
		}
	}
	if seen[1] > deletes+1 || last > 0 && seen[last] == 0 {
		t.Errorf("it began %d times for %d deletes, and is %d in the end: %v", seen[1], deletes, last, seen)
	}
}

// An object whose first commit is on its way is there to be deleted.
func TestDeleteOfWhatIsNotStoredYet(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	reached, release, deleting := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	cfg := durable.Config{Interceptors: []rpc.Interceptor{{Name: "watch", Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			if call.Method == bus.MethodDestroy {
				close(deleting)
			}
			return next(ctx, call)
		}
	}}}}
	serveCounter(t, b, durable.AtEachStep(cfg, func(point string) {
		if point == "commit" {
			once.Do(func() {
				close(reached)
				<-release
			})
		}
	}))
	c, cl := openClass(t, b, "counter"), caller(t, b)
	results := make(chan error, 2)
	increment, value := methods()
	go func() {
		_, err := increment.Call(t.Context(), cl, "alice", incrementParams{By: 1})
		results <- err
	}()
	<-reached
	go func() { results <- c.Delete(t.Context(), "alice") }()
	<-deleting // its turn has begun
	for range 3 {
		if n, err := value.Call(t.Context(), cl, "alice", rpc.None{}); err != nil || n != 0 {
			t.Errorf("a view saw %d, %v before it was stored", n, err)
		}
	}
	close(release)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	_, err := c.State(t.Context(), "alice")
	wantError(t, "deleted", err, rpc.NotFound)
	if n, err := value.Call(t.Context(), cl, "alice", rpc.None{}); err != nil || n != 0 {
		t.Errorf("begun anew: %d, %v", n, err)
	}
}
