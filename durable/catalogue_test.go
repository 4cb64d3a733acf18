package durable_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// cabinet is a class whose objects use all that an object can have.
type cabinet struct {
	N int `json:"n"`
}

// fillParams says what to do to a cabinet.
type fillParams struct {
	N     int            `json:"n"`
	Alarm time.Time      `json:"alarm"`
	Put   map[string]int `json:"put"`
}

func (c *cabinet) fill(ctx durable.Context, p fillParams) (int, error) {
	if !p.Alarm.IsZero() {
		ctx.SetAlarm(p.Alarm)
	}
	for key, value := range p.Put {
		if err := ctx.Storage().Put(key, value); err != nil {
			return 0, err
		}
	}
	c.N += p.N
	return c.N, nil
}

func fillMethod() rpc.ObjectMethod[fillParams, int] {
	return rpc.NewObjectMethod[fillParams, int]("cabinet.fill")
}

func serveCabinets(t testing.TB, b *bus.Bus) (stop func()) {
	t.Helper()
	svc := server.New(b, "furniture", server.Config{})
	cabinets := durable.Serve[cabinet](svc, "cabinet", durable.Config{})
	durable.Handle(cabinets, fillMethod(), (*cabinet).fill)
	durable.OnAlarm(cabinets, func(*cabinet, durable.Context, durable.Alarm) error { return nil })
	return run(t, svc)
}

// fill changes a cabinet.
func fill(t testing.TB, c rpc.Caller, id string, p fillParams) {
	t.Helper()
	if _, err := fillMethod().Call(t.Context(), c, id, p); err != nil {
		t.Fatalf("fill %q: %v", id, err)
	}
}

// increments adds one to each counter.
func increments(t testing.TB, c rpc.Caller, ids ...string) {
	t.Helper()
	increment, _ := methods()
	for _, id := range ids {
		if _, err := increment.Call(t.Context(), c, id, incrementParams{By: 1}); err != nil {
			t.Fatalf("increment %q: %v", id, err)
		}
	}
}

// openClass opens a catalogue until the test ends.
func openClass(t testing.TB, b *bus.Bus, class string) *durable.Catalogue {
	t.Helper()
	c, err := durable.Open(t.Context(), b, class)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func caller(t testing.TB, b *bus.Bus) *client.Client {
	t.Helper()
	c := client.New(b, client.Config{NoShortcut: true})
	t.Cleanup(c.Close)
	return c
}

// streamOf returns the stream of a class's bucket.
func streamOf(t testing.TB, b *bus.Bus, class string) jetstream.Stream {
	t.Helper()
	s, err := b.JetStream().Stream(t.Context(), "KV_"+durable.Bucket(class))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lastSequence tells whether something was written.
func lastSequence(t testing.TB, s jetstream.Stream) uint64 {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.LastSeq
}

// wantError fails the test unless err has the code and all of the texts.
func wantError(t testing.TB, what string, err error, code rpc.Code, texts ...string) {
	t.Helper()
	if rpc.CodeOf(err) != code {
		t.Errorf("%s: %v, want %v", what, err, code)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %q, want %q in it", what, err, text)
		}
	}
}

// comesTrue waits for something that nothing signals.
func comesTrue(t testing.TB, what string, holds func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestOpenMakesNothing(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for _, class := range []string{"counter", "OBJECTS_counter", "-"} {
		_, err := durable.Open(t.Context(), b, class)
		wantError(t, "a class that is not there", err, rpc.NotFound, class, "OBJECTS_"+class)
	}
	for _, class := range []string{"", "a.b", "_x", "a b", "x*", ">", strings.Repeat("x", 65)} {
		_, err := durable.Open(t.Context(), b, class)
		wantError(t, "class "+class, err, rpc.InvalidArgument)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := durable.Open(ended, b, "counter")
	wantError(t, "an ended context", err, rpc.Canceled)
	names := b.JetStream().StreamNames(t.Context())
	for name := range names.Name() {
		t.Errorf("there is a stream now: %s", name)
	}
	if names.Err() != nil {
		t.Error(names.Err())
	}
	if classes, err := durable.Classes(t.Context(), b); err != nil || len(classes) != 0 {
		t.Errorf("classes %v, %v", classes, err)
	}
}

func TestCatalogueWithoutJetStream(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.WithServer(func(c *natsd.Config) { c.NoJetStream, c.StoreDir = true, "" }))
	_, err := durable.Open(t.Context(), b, "counter")
	wantError(t, "open", err, rpc.Unavailable, "JetStream")
	_, err = durable.Classes(t.Context(), b)
	wantError(t, "classes", err, rpc.Unavailable, "JetStream")
}

func TestState(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	stop := serveCabinets(t, b)
	c := openClass(t, b, "cabinet")
	at := time.Now().Add(time.Hour)
	fill(t, caller(t, b), "oak", fillParams{N: 1})
	fill(t, caller(t, b), "oak", fillParams{N: 2, Alarm: at, Put: map[string]int{"a": 1}})
	before := lastSequence(t, streamOf(t, b, "cabinet"))
	for _, served := range []bool{true, false} {
		got, err := c.State(t.Context(), "oak")
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != "oak" || string(got.State) != `{"n":3}` || got.Revision == 0 || got.Epoch == 0 || got.Schema != 0 ||
			!strings.HasPrefix(got.Commit, "2-") || time.Since(got.Modified).Abs() > time.Minute ||
			got.Alarm == nil || !got.Alarm.Equal(at.Truncate(time.Millisecond)) || got.DeadAlarm != nil || got.Paused != nil {
			t.Errorf("served %v: %+v", served, got)
		}
		if served { // the catalogue does not need it
			if after := lastSequence(t, streamOf(t, b, "cabinet")); after != before {
				t.Errorf("looking has written: sequence %d, want %d", after, before)
			}
			stop()
		}
	}
	_, err := c.State(t.Context(), "elm")
	wantError(t, "an object that is not there", err, rpc.NotFound, `no object "elm"`, "cabinet")
	if data, err := json.Marshal(must(c.State(t.Context(), "oak"))); err != nil || !bytes.Contains(data, []byte(`"state":{"n":3},"revision":`)) {
		t.Errorf("as JSON: %s, %v", data, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A dead letter is found where the alarm leaves it, and what is no JSON is shown
// as it is.
func TestStateOfWhatOthersWrote(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	c := openClass(t, b, "counter")
	kv := must(b.JetStream().KeyValue(t.Context(), durable.Bucket("counter")))
	for key, value := range map[string]string{
		"alice": "no JSON", "bob": `{"value":7}`, "_dead.bob": `{"attempts":6,"error":"too late"}`, "_dead.alice": "7", "carol": "",
	} {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.State(t.Context(), "alice")
	if err != nil || string(got.State) != "no JSON" || got.Commit != "" || got.DeadAlarm == nil {
		t.Errorf("alice: %+v, %v", got, err)
	}
	got, err = c.State(t.Context(), "bob")
	if err != nil || string(got.State) != `{"value":7}` || got.DeadAlarm == nil || got.DeadAlarm.Attempts != 6 || got.DeadAlarm.Error != "too late" {
		t.Errorf("bob: %+v, %v", got, err)
	}
	if got, err = c.State(t.Context(), "carol"); err != nil || len(got.State) != 0 {
		t.Errorf("carol: %+v, %v", got, err)
	}
	increments(t, caller(t, b), "bob")
	if got, err = c.State(t.Context(), "bob"); err != nil || string(got.State) != `{"value":8}` {
		t.Errorf("bob, incremented: %+v, %v", got, err)
	}
}

// oddIDs are allowed.
func oddIDs() []string {
	return []string{
		"alice", "a.b.c", ".", "..", "two words", " ", "Zoë", "日本語", "🙂", "_out", "_paused", "_class", "_fence.00", "*", ">", "$KV.x",
		"a=b", "=5F", "a/b", "\x00", "\n", "tab\there", "-", strings.Repeat("x", 256), strings.Repeat("é", 128), "\u200b", "$destroy",
	}
}

// badIDs are not.
func badIDs() []string {
	return []string{"", strings.Repeat("x", 257), strings.Repeat("é", 128) + "x", "\xff", "a\xc3"}
}

// Every id can be called, seen, listed, paused and deleted, and nats kv shows
// the plain state.
func TestOddIDs(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	cl, c := caller(t, b), openClass(t, b, "counter")
	increment, _ := methods()
	kv := must(b.JetStream().KeyValue(t.Context(), durable.Bucket("counter")))
	increments(t, cl, oddIDs()...)
	for _, id := range oddIDs() {
		entry, err := kv.Get(t.Context(), bus.Escape(id))
		if err != nil || string(entry.Value()) != `{"value":1}` {
			t.Errorf("nats kv get %q: %v, %v", id, entry, err)
			continue
		}
		info, err := c.State(t.Context(), id)
		if err != nil || info.ID != id || !bytes.Equal(info.State, entry.Value()) || info.Revision != entry.Revision() {
			t.Errorf("state of %q: %+v, %v", id, info, err)
		}
		if entries, err := c.Entries(t.Context(), id, durable.ListOptions{}); err != nil || len(entries) != 0 {
			t.Errorf("entries of %q: %v, %v", id, entries, err)
		}
		w, err := c.Watch(t.Context(), durable.WatchOptions{ID: id, Current: true})
		if err != nil {
			t.Errorf("watch %q: %v", id, err)
			continue
		}
		if change, err := w.Next(); err != nil || change.ID != id || change.Revision != info.Revision {
			t.Errorf("watch of %q: %+v, %v", id, change, err)
		}
		w.Stop()
		page, err := c.IDs(t.Context(), durable.ListIDs{Prefix: id})
		if err != nil || !slices.Contains(page.IDs, id) {
			t.Errorf("ids that begin with %q: %q, %v", id, page.IDs, err)
		}
		if err := c.Pause(t.Context(), id, "to see"); err != nil {
			t.Errorf("pause %q: %v", id, err)
		}
		_, err = increment.Call(t.Context(), cl, id, incrementParams{By: 1})
		wantError(t, "paused", err, rpc.Unavailable, "to see")
		if err := c.Resume(t.Context(), id); err != nil {
			t.Errorf("resume %q: %v", id, err)
		}
		increments(t, cl, id)
	}
	all, err := collect(c.All(t.Context(), ""))
	want := oddIDs()
	slices.Sort(want)
	if err != nil || !slices.Equal(all, want) {
		t.Errorf("all: %q, %v, want %q", all, err, want)
	}
	for _, id := range oddIDs() {
		if err := c.Delete(t.Context(), id); err != nil {
			t.Errorf("delete %q: %v", id, err)
		}
		_, err := c.State(t.Context(), id)
		wantError(t, "deleted", err, rpc.NotFound)
		if _, err := kv.Get(t.Context(), bus.Escape(id)); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Errorf("nats kv get %q after deleting: %v", id, err)
		}
	}
	if all, err := collect(c.All(t.Context(), "")); err != nil || len(all) != 0 {
		t.Errorf("all after deleting: %q, %v", all, err)
	}
}

func TestBadIDs(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	c := openClass(t, b, "counter")
	before := lastSequence(t, streamOf(t, b, "counter"))
	for _, id := range badIDs() {
		for what, try := range map[string]func(context.Context) error{
			"state":   func(ctx context.Context) error { _, err := c.State(ctx, id); return err },
			"entries": func(ctx context.Context) error { _, err := c.Entries(ctx, id, durable.ListOptions{}); return err },
			"pause":   func(ctx context.Context) error { return c.Pause(ctx, id, "") },
			"resume":  func(ctx context.Context) error { return c.Resume(ctx, id) },
			"delete":  func(ctx context.Context) error { return c.Delete(ctx, id) },
			"watch": func(ctx context.Context) error {
				if id == "" {
					return rpc.InvalidArgument // stands for all
				}
				_, err := c.Watch(ctx, durable.WatchOptions{ID: id})
				return err
			},
		} {
			wantError(t, fmt.Sprintf("%s %.10q", what, id), try(t.Context()), rpc.InvalidArgument)
		}
	}
	wantError(t, "reason", c.Pause(t.Context(), "alice", strings.Repeat("x", 1025)), rpc.InvalidArgument, "1024")
	wantError(t, "reason", c.PauseClass(t.Context(), "\xff"), rpc.InvalidArgument, "UTF-8")
	if after := lastSequence(t, streamOf(t, b, "counter")); after != before {
		t.Errorf("something was written: sequence %d, want %d", after, before)
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	stop := serveCounter(t, b, durable.Config{})
	serveCounter(t, bustest.Connect(t, s), durable.Config{})
	stopCabinets := serveCabinets(t, b)
	increments(t, caller(t, b), "alice", "bob", "carol")
	fill(t, caller(t, b), "oak", fillParams{N: 1, Put: map[string]int{"a": 1, "b": 2}})
	counters := openClass(t, b, "counter")
	if err := counters.Delete(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	if err := counters.PauseClass(t.Context(), "holiday"); err != nil {
		t.Fatal(err)
	}
	look := func() string {
		text := ""
		classes, err := durable.Classes(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range classes {
			reason := "-"
			if c.Paused != nil {
				reason = c.Paused.Reason
			}
			text += fmt.Sprintf("%s %d %v %d %s, ", c.Class, c.Objects, c.Exact, c.Members, reason)
		}
		return text
	}
	if got, want := look(), "cabinet 1 true 1 -, counter 2 true 2 holiday, "; got != want {
		t.Errorf("classes: %s, want %s", got, want)
	}
	stop()
	stopCabinets()
	if got, want := look(), "cabinet 1 true 0 -, counter 2 true 1 holiday, "; got != want {
		t.Errorf("classes when some are not served: %s, want %s", got, want)
	}
}

func TestCatalogueOfAClosedBus(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	serveCounter(t, bustest.Connect(t, s), durable.Config{})
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{s.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := durable.Open(t.Context(), b, "counter")
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(t.Context(), durable.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	_, err = w.Next()
	wantError(t, "watch", err, rpc.Unavailable, "closed")
	_, err = c.State(t.Context(), "alice")
	wantError(t, "state", err, rpc.Unavailable)
	_, err = c.IDs(t.Context(), durable.ListIDs{})
	wantError(t, "ids", err, rpc.Unavailable)
	wantError(t, "pause", c.PauseClass(t.Context(), ""), rpc.Unavailable)
	wantError(t, "delete", c.Delete(t.Context(), "alice"), rpc.Unavailable)
	c.Close()
}
