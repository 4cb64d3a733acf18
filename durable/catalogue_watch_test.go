package durable_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable"
)

// watch begins a watch until the test ends.
func watch(t *testing.T, c *durable.Catalogue, opts durable.WatchOptions) *durable.Watch {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	w, err := c.Watch(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Stop()
		cancel()
	})
	return w
}

// wantChanges reads changes and compares "id state", or "id deleted".
func wantChanges(t *testing.T, w *durable.Watch, want ...string) (last durable.Change) {
	t.Helper()
	for _, text := range want {
		var err error
		if last, err = w.Next(); err != nil {
			t.Fatalf("%v, want %q", err, text)
		}
		got := last.ID + " " + string(last.State)
		if last.Deleted {
			got += "deleted"
		}
		if got != text || last.Revision == 0 || last.Modified.IsZero() || last.Commit == "" {
			t.Fatalf("%+v, want %q", last, text)
		}
	}
	return last
}

func TestWatch(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	cl, c := caller(t, b), openClass(t, b, "counter")
	increments(t, cl, "alice", "bob", "alice")
	all := watch(t, c, durable.WatchOptions{})
	alice := watch(t, c, durable.WatchOptions{ID: "alice"})
	current := watch(t, c, durable.WatchOptions{Current: true})
	currentAlice := watch(t, c, durable.WatchOptions{ID: "alice", Current: true})
	zoe := watch(t, c, durable.WatchOptions{ID: "Zoë.1", Current: true})
	wantChanges(t, current, `bob {"value":1}`, `alice {"value":2}`)
	wantChanges(t, currentAlice, `alice {"value":2}`)

	increments(t, cl, "bob", "alice", "carol")
	for _, w := range []*durable.Watch{all, current} { // before deleting takes them away
		wantChanges(t, w, `bob {"value":2}`, `alice {"value":3}`, `carol {"value":1}`)
	}
	if err := c.Pause(t.Context(), "carol", "is no change"); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "carol"); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "nobody"); err != nil {
		t.Fatal(err)
	}
	increments(t, cl, "Zoë.1", "alice")
	changes := []string{`carol deleted`, `Zoë.1 {"value":1}`, `alice {"value":4}`}
	wantChanges(t, all, changes...)
	wantChanges(t, current, changes...)
	wantChanges(t, alice, `alice {"value":3}`, `alice {"value":4}`)
	change := wantChanges(t, currentAlice, `alice {"value":3}`)
	wantChanges(t, zoe, `Zoë.1 {"value":1}`)

	// From there on, as if it had never ended.
	currentAlice.Stop()
	wantChanges(t, watch(t, c, durable.WatchOptions{After: change.Revision}), changes...)
	wantChanges(t, watch(t, c, durable.WatchOptions{ID: "alice", After: change.Revision}), `alice {"value":4}`)
	info, err := c.State(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	last := watch(t, c, durable.WatchOptions{ID: "alice", After: info.Revision})
	increments(t, cl, "alice")
	if change = wantChanges(t, last, `alice {"value":5}`); !strings.HasPrefix(change.Commit, "5-") {
		t.Errorf("commit %q", change.Commit)
	}
}

// Changes wait for a watch that does not read.
func TestWatchThatDoesNotKeepUp(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	c := openClass(t, b, "counter")
	w := watch(t, c, durable.WatchOptions{})
	const n = 20_000
	populate(t, b, n)
	for i := range n {
		change, err := w.Next()
		if want := fmt.Sprintf("user-%08d", i); err != nil || change.ID != want {
			t.Fatalf("%q, %v, want %q", change.ID, err, want)
		}
	}
}

// A watch goes on where it was when the bus restarts.
func TestWatchSurvivesARestartOfTheBus(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	serveCounter(t, bustest.Connect(t, s), durable.Config{})
	b := bustest.Connect(t, s)
	c := openClass(t, b, "counter")
	patient := client.New(b, client.Config{NoShortcut: true, Timeout: 20 * time.Second, MaxAttempts: 100})
	defer patient.Close()
	w := watch(t, c, durable.WatchOptions{})
	fresh := watch(t, c, durable.WatchOptions{}) // has seen nothing before
	current := watch(t, c, durable.WatchOptions{Current: true})
	increments(t, patient, "alice", "bob")
	wantChanges(t, w, `alice {"value":1}`)
	for range 2 {
		s.Shutdown()
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		increments(t, patient, "alice")
	}
	changes := []string{`bob {"value":1}`, `alice {"value":2}`, `alice {"value":3}`}
	for _, watched := range []struct {
		*durable.Watch
		want []string
	}{{w, changes}, {fresh, append([]string{`alice {"value":1}`}, changes...)}, {current, append([]string{`alice {"value":1}`}, changes...)}} {
		// An owner that was taken by force writes the record again.
		var got, commits []string
		for len(got) < len(watched.want) {
			change, err := watched.Next()
			if err != nil {
				t.Fatalf("%v after %q", err, got)
			}
			if !slices.Contains(commits, change.Commit) {
				commits = append(commits, change.Commit)
				got = append(got, change.ID+" "+string(change.State))
			}
		}
		if !slices.Equal(got, watched.want) {
			t.Errorf("%q, want %q", got, watched.want)
		}
	}
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	c := openClass(t, b, "counter")
	next := func(w *durable.Watch) <-chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := w.Next()
			ended <- err
		}()
		return ended
	}
	within := func(what string, ended <-chan error, code rpc.Code) {
		t.Helper()
		select {
		case err := <-ended:
			wantError(t, what, err, code)
		case <-time.After(10 * time.Second):
			t.Errorf("%s: Next did not return", what)
		}
	}
	start := func(ctx context.Context) *durable.Watch {
		t.Helper()
		w, err := c.Watch(ctx, durable.WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := start(ctx)
	ended := next(w)
	cancel()
	within("cancelled", ended, rpc.Canceled)
	within("cancelled before", next(w), rpc.Canceled)
	w.Stop()

	w = start(t.Context())
	ended = next(w)
	w.Stop()
	within("stopped", ended, rpc.Canceled)
	w.Stop()

	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	w = start(ctx)
	within("out of time", next(w), rpc.DeadlineExceeded)
	w.Stop()

	start(t.Context()).Stop() // never read

	w = start(t.Context())
	ended = next(w)
	if err := b.JetStream().DeleteStream(t.Context(), "KV_OBJECTS_counter"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	within("closed", ended, rpc.Unavailable)
	w.Stop()
}

// What others write is told as well; what an owner leaves of an object that has
// never been is not.
func TestWatchOfWhatOthersWrote(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	w := watch(t, openClass(t, b, "counter"), durable.WatchOptions{})
	kv := must(b.JetStream().KeyValue(t.Context(), durable.Bucket("counter")))
	put := func(key, value string) {
		t.Helper()
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	want := func(id, state string, deleted bool) {
		t.Helper()
		got, err := w.Next()
		if err != nil || got.ID != id || string(got.State) != state || got.Deleted != deleted || got.Commit != "" {
			t.Fatalf("%+v, %v, want %q, %s, deleted %v", got, err, id, state, deleted)
		}
	}
	for _, key := range []string{"_system", "under_score", "a=41", "alice.entry"} {
		put(key, "1")
	}
	placeholder := nats.NewMsg("$KV." + durable.Bucket("counter") + ".nobody")
	placeholder.Header = nats.Header{"KV-Operation": {"DEL"}, "Rpc-Epoch": {"2"}, "Rpc-Commit": {""}}
	if _, err := b.JetStream().PublishMsg(t.Context(), placeholder); err != nil {
		t.Fatal(err)
	}
	put("alice", `{"value":7}`)
	want("alice", `{"value":7}`, false)
	if err := kv.Delete(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	want("alice", "", true)
	put("a=20b", "no JSON")
	want("a b", "no JSON", false)
}
