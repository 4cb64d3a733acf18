package durable_test

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable"
)

// collect returns all that a list has.
func collect(list iter.Seq2[string, error]) (ids []string, err error) {
	for id, e := range list {
		if e != nil {
			return ids, e
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func TestIDs(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	c := openClass(t, b, "counter")
	if page, err := c.IDs(t.Context(), durable.ListIDs{}); err != nil || len(page.IDs) != 0 || page.Next != "" {
		t.Errorf("of none: %+v, %v", page, err)
	}
	var users, all []string
	for i := range 25 {
		users = append(users, fmt.Sprintf("user %02d", i))
	}
	all = append(all, "User", "Zoë", "a.b", "user", "user\x7f", "é")
	all = append(all, users...)
	slices.Sort(all)
	increments(t, caller(t, b), all...)
	increments(t, caller(t, b), "gone", "user 031")
	for _, id := range []string{"gone", "user 031"} {
		if err := c.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PauseClass(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		opts durable.ListIDs
		want []string
		more bool
	}{
		{durable.ListIDs{}, all, false},
		{durable.ListIDs{Limit: len(all)}, all, false},
		{durable.ListIDs{Limit: 3}, all[:3], true},
		{durable.ListIDs{Prefix: "user "}, users, false},
		{durable.ListIDs{Prefix: "user ", Limit: 10}, users[:10], true},
		{durable.ListIDs{Prefix: "user ", Limit: 10, After: users[9]}, users[10:20], true},
		{durable.ListIDs{Prefix: "user ", Limit: 10, After: users[19]}, users[20:], false},
		{durable.ListIDs{Prefix: "user ", After: "user 031"}, users[4:], false}, // which is not there
		{durable.ListIDs{Prefix: "user 1", After: "user 2"}, nil, false},
		{durable.ListIDs{Prefix: "none"}, nil, false},
		{durable.ListIDs{After: "\xff"}, nil, false},
	} {
		page, err := c.IDs(t.Context(), test.opts)
		if err != nil || !slices.Equal(page.IDs, test.want) || (page.Next != "") != test.more || test.more && page.Next != page.IDs[len(page.IDs)-1] {
			t.Errorf("%+v: %q, next %q, %v; want %q, more %v", test.opts, page.IDs, page.Next, err, test.want, test.more)
		}
	}
	if got, err := collect(c.All(t.Context(), "user ")); err != nil || !slices.Equal(got, users) {
		t.Errorf("all: %q, %v", got, err)
	}
	for id, err := range c.All(t.Context(), "") {
		if id != all[0] || err != nil {
			t.Errorf("the first of all: %q, %v", id, err)
		}
		break
	}
	_, err := c.IDs(t.Context(), durable.ListIDs{Limit: -1})
	wantError(t, "limit", err, rpc.InvalidArgument, "-1")
}

// What others put into the bucket is listed if it can be an object.
func TestIDsOfWhatOthersWrote(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCounter(t, b, durable.Config{})
	kv := must(b.JetStream().KeyValue(t.Context(), durable.Bucket("counter")))
	for _, key := range []string{"alice", "bob", "under_score", "a=41", "a=2", "_system", "alice.entry", "bob.a.b"} {
		if _, err := kv.PutString(t.Context(), key, `{"value":1}`); err != nil {
			t.Fatal(err)
		}
	}
	if err := kv.Delete(t.Context(), "bob"); err != nil { // leaves the history
		t.Fatal(err)
	}
	c := openClass(t, b, "counter")
	if got, err := collect(c.All(t.Context(), "")); err != nil || !slices.Equal(got, []string{"alice"}) {
		t.Errorf("all: %q, %v", got, err)
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serveCabinets(t, b)
	cl, c := caller(t, b), openClass(t, b, "cabinet")
	fill(t, cl, "oak", fillParams{Put: map[string]int{"b": 2, "a": 1, "ä.ö ü": 3, "c": 4}})
	fill(t, cl, "oak.x", fillParams{Put: map[string]int{"other": 9}})
	fill(t, cl, "elm", fillParams{N: 1})
	show := func(id string, opts durable.ListOptions) string {
		t.Helper()
		entries, err := c.Entries(t.Context(), id, opts)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, e := range entries {
			text = append(text, e.Key+"="+string(e.Value))
		}
		return strings.Join(text, " ")
	}
	for _, test := range []struct {
		opts durable.ListOptions
		want string
	}{
		{durable.ListOptions{}, "a=1 b=2 c=4 ä.ö ü=3"},
		{durable.ListOptions{Start: "b", End: "d"}, "b=2 c=4"},
		{durable.ListOptions{Reverse: true, Limit: 2}, "ä.ö ü=3 c=4"},
		{durable.ListOptions{Prefix: "ä."}, "ä.ö ü=3"},
	} {
		if got := show("oak", test.opts); got != test.want {
			t.Errorf("%+v: %s, want %s", test.opts, got, test.want)
		}
	}
	if got := show("elm", durable.ListOptions{}); got != "" {
		t.Errorf("of an object without any: %s", got)
	}
	_, err := c.Entries(t.Context(), "none", durable.ListOptions{})
	wantError(t, "of none", err, rpc.NotFound, `"none"`)

	many := 0
	for range 4 {
		put := map[string]int{}
		for range 400 {
			put[fmt.Sprintf("key %04d", many)] = many
			many++
		}
		fill(t, cl, "large", fillParams{Put: put})
	}
	entries, err := c.Entries(t.Context(), "large", durable.ListOptions{})
	if err != nil || len(entries) != many || entries[many-1].Key != fmt.Sprintf("key %04d", many-1) {
		t.Errorf("%d of %d entries, %v", len(entries), many, err)
	}
}

// The pages of a class of 100,000 objects.
func BenchmarkIDs(b *testing.B) {
	bs := bustest.New(b)
	serveCounter(b, bs, durable.Config{})
	populate(b, bs, 100_000)
	c := openClass(b, bs, "counter")
	for b.Loop() {
		page, err := c.IDs(b.Context(), durable.ListIDs{After: "user-00050000", Limit: 100})
		if err != nil || len(page.IDs) != 100 || page.IDs[0] != "user-00050001" {
			b.Fatal(page.IDs, err)
		}
	}
}

// populate puts objects into the class counter as their owners would.
func populate(t testing.TB, b *bus.Bus, n int) {
	t.Helper()
	js := b.JetStream()
	defer js.CleanupPublisher()
	for i := range n {
		m := &nats.Msg{
			Subject: fmt.Sprintf("$KV.%s.user-%08d", durable.Bucket("counter"), i), Data: []byte(`{"value":1}`),
			Header: nats.Header{"Rpc-Commit": {"1-0123456789012345678901"}, "Rpc-Epoch": {"1"}, "Rpc-Calls": {`[{"id":"01234567890123456789.1","r":1}]`}},
		}
		if _, err := js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 999 || i == n-1 {
			select {
			case <-js.PublishAsyncComplete():
			case <-time.After(20 * time.Second):
				t.Fatal("the bus does not store")
			}
		}
	}
}
