package durable_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// The bucket has the plain state, under the escaped id.
func TestStoredState(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"fill": func(p *page, _ durable.Context, line string) (string, error) {
		p.Value++
		p.Lines = append(p.Lines, line)
		p.Marks = map[string][]int{"b": {2}, "a": {1}}
		return "", nil
	}}, nil)
	l.want("", "a.b", "fill", "<&>")
	l.want("", "a.b", "fill", "ü")
	if got, want := l.stored("a=2Eb"), `{"value":2,"lines":["\u003c\u0026\u003e","ü"],"marks":{"a":[1],"b":[2]}}`; got != want {
		t.Errorf("stored %s, want %s", got, want)
	}
}

// Any text of 1 to 256 bytes names an object of its own, the whole way to the
// bucket and back.
func TestObjectIDs(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	a, b := labOn(t, bustest.Connect(t, srv)), labOn(t, bustest.Connect(t, srv))
	ts, vs := turns{"set": func(p *page, ctx durable.Context, _ string) (string, error) {
		p.Lines = append(p.Lines, ctx.ID())
		return ctx.ID(), nil
	}}, views{"lines": func(p page, ctx durable.ReadContext, _ string) (string, error) {
		return fmt.Sprintf("%s %q", ctx.ID(), p.Lines), nil
	}}
	stop := a.serve(durable.Config{}, ts, vs)
	ids := []string{
		"a", "A", "alice", "a.b", "a.b.c", ".", "..", ".a", "a.", " ", "a b", " a ", "_", "_out", "_alarm.a", "_fence.00", "_due", "$", "-",
		"*", ">", "a.>", "a.*", "=", "=61", "a=2Eb", "%", "/", "a/b", "\\", `"`, "'", "<&>", "{}", "null", "0", "\x00", "\n", "\r\n", "\t", "\x7f", "\x1b[0m",
		"ü", "日本語", "👩‍👩‍👧", "e\u0301", "\u00e9", "\u2028", "\ufeff", "\ufffd", "RTL \u202e", strings.Repeat("x", 256), strings.Repeat(".", 256), strings.Repeat("€", 85) + "!",
	}
	keys := map[string]string{}
	for _, id := range ids {
		key := bus.Escape(id)
		if other, taken := keys[key]; taken {
			t.Errorf("%q and %q have the same key %s", id, other, key)
		}
		keys[key] = id
		for _, c := range []*client.Client{a.far, a.near} {
			if got, err := a.method("set").Call(t.Context(), c, id, ""); err != nil || got != id {
				t.Errorf("%q: %q, %v", id, got, err)
			}
		}
	}
	stop()
	b.serve(durable.Config{}, ts, vs) // reads them from the bucket
	for _, id := range ids {
		want := fmt.Sprintf("%s %q", id, []string{id, id})
		if got, err := b.call(id, "lines", "", rpc.WithTimeout(labPatience)); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", id, got, err, want)
		}
		data, err := json.Marshal(page{Lines: []string{id, id}})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.stored(bus.Escape(id)); got != string(data) {
			t.Errorf("%q is stored as %s, want %s", id, got, data)
		}
	}
	kv, err := b.bus.JetStream().KeyValue(t.Context(), durable.Bucket("page"))
	if err != nil {
		t.Fatal(err)
	}
	lister, err := kv.ListKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left := maps.Clone(keys)
	for key := range lister.Keys() {
		if _, ok := left[key]; !ok && !strings.HasPrefix(key, "_") {
			t.Errorf("the bucket has the key %s, of no object", key)
		}
		delete(left, key)
	}
	if len(left) != 0 {
		t.Errorf("not in the bucket: %q", left)
	}
}

// An id that is none is refused before anything is done with it.
func TestBadObjectIDs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, nil)
	before := l.last()
	for id, text := range map[string]string{
		"":                       "empty",
		strings.Repeat("x", 257): "257 bytes",
		"\xff":                   "UTF-8",
		"a\xc3":                  "UTF-8",
		"\xed\xa0\x80":           "UTF-8", // half a surrogate pair
	} {
		for _, c := range []*client.Client{l.far, l.near} {
			_, err := l.method("add").Call(t.Context(), c, id, "1")
			l.coded(err, rpc.InvalidArgument, text)
		}
		// What does not go through this library's own check.
		subject := "$RPC.object.page." + bus.SlotToken(bus.Slot(id)) + "." + bus.Escape(id) + ".add"
		if id == "" {
			continue // no subject has an empty token
		}
		_, err := l.request(subject, `"1"`)
		l.coded(err, rpc.InvalidArgument, text)
		if utf8.ValidString(id) { // a header is text
			_, err = l.request("rpc.page.add", `"1"`, "Rpc-Object", id)
			l.coded(err, rpc.InvalidArgument, text)
		}
	}
	slot := func(id string) string { return bus.SlotToken(bus.Slot(id)) }
	other := bus.SlotToken(bus.Slot("alice") ^ 1)
	for subject, code := range map[string]rpc.Code{
		"$RPC.object.page." + other + ".alice.add":              rpc.InvalidArgument, // another slot
		"$RPC.object.page." + slot("alice") + ".=61lice.add":    rpc.InvalidArgument, // escapes what needs none
		"$RPC.object.page." + slot("a.b") + ".a=2eb.add":        rpc.InvalidArgument, // lower case
		"$RPC.object.page." + slot("a_b") + ".a_b.add":          rpc.InvalidArgument, // not escaped
		"$RPC.object.page." + slot("a/b") + ".a/b.add":          rpc.InvalidArgument,
		"$RPC.object.page." + slot("a") + ".a=.add":             rpc.InvalidArgument,
		"$RPC.object.page." + slot("a") + ".a=2.add":            rpc.InvalidArgument,
		"$RPC.object.page." + slot("alice") + ".alice":          rpc.InvalidArgument, // no method
		"$RPC.object.page." + slot("alice") + ".alice.nothing":  rpc.Unimplemented,
		"$RPC.object.page." + slot("alice") + ".alice.add.more": rpc.Unimplemented,
		"$RPC.object.page." + slot("alice") + ".alice.$nothing": rpc.Unimplemented,
	} {
		_, err := l.request(subject, `"1"`)
		l.coded(err, code)
	}
	if now := l.last(); now != before {
		t.Errorf("%d messages were written", now-before)
	}
}

// Bad params never reach a handler, nor do they change anything.
func TestBadParams(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var ran atomic.Int32
	svc := server.New(l.bus, "pages", server.Config{})
	pages := durable.Serve[page](svc, "page", durable.Config{})
	durable.Handle(pages, rpc.NewObjectMethod[amount, int]("page.pay"), func(p *page, _ durable.Context, a amount) (int, error) {
		ran.Add(1)
		p.Value += a.Cents
		return p.Value, nil
	})
	durable.View(pages, rpc.NewObjectMethod[amount, int]("page.check"), func(p page, _ durable.ReadContext, a amount) (int, error) {
		ran.Add(1)
		return p.Value, nil
	})
	run(t, svc)
	for _, method := range []string{"pay", "check"} {
		for payload, text := range map[string]string{
			"":                 "no params",
			"{":                "malformed",
			"null":             "an object",
			"[1]":              "an object",
			`{"cents":"1"}`:    "cents",
			`{"cents":1.5}`:    "cents",
			`{"cents":-1}`:     "less than nothing",
			"{\"cents\":1\xff": "UTF-8",
		} {
			_, err := l.request(bus.ObjectSubject("page", "alice", method), payload)
			l.coded(err, rpc.InvalidArgument, text)
		}
		_, err := l.request(bus.ObjectSubject("page", "alice", method), `{}`, "Content-Type", "text/odd")
		l.coded(err, rpc.InvalidArgument, "text/odd")
	}
	if ran.Load() != 0 {
		t.Errorf("handlers ran %d times", ran.Load())
	}
	if got := l.stored("alice"); got != "" {
		t.Errorf("stored %s", got)
	}
	if got, err := l.request(bus.ObjectSubject("page", "alice", "pay"), `{"cents":3}`); err != nil || got != "3" {
		t.Errorf("%s, %v", got, err)
	}
}

type amount struct {
	Cents int `json:"cents"`
}

func (a amount) Validate() error {
	if a.Cents < 0 {
		return rpc.InvalidArgument.Errorf("cents: less than nothing")
	}
	return nil
}

// A state that does not fit into a message is not taken, and the object goes on
// as it was.
func TestStateTooLarge(t *testing.T) {
	t.Parallel()
	l := newLab(t, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 64 << 10 }))
	l.serve(durable.Config{}, turns{"write": func(p *page, _ durable.Context, line string) (string, error) {
		p.Value++
		p.Lines = append(p.Lines, line)
		return fmt.Sprint(p.Value), nil
	}}, views{"size": func(p page, _ durable.ReadContext, _ string) (string, error) {
		n := 0
		for _, line := range p.Lines {
			n += len(line)
		}
		return fmt.Sprint(p.Value, " ", n), nil
	}})
	line := strings.Repeat("x", 20<<10)
	l.want("1", "alice", "write", line)
	l.want("2", "alice", "write", line)
	stored := l.stored("alice")
	for range 3 {
		l.refused(rpc.ResourceExhausted, "alice", "write", line, "state of page/alice", "at most", "max_payload", "nothing was changed")
		l.want(fmt.Sprint("2 ", 2*len(line)), "alice", "size", "")
	}
	if now := l.stored("alice"); now != stored {
		t.Error("the stored state has changed")
	}
	l.want("3", "alice", "write", "a little")
	l.want(fmt.Sprint("3 ", 2*len(line)+len("a little")), "alice", "size", "")
}

// An object leaves memory when it has not been called for a while, and comes
// back as it was. No call notices.
func TestIdleObjects(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var begun atomic.Int32
	svc := server.New(l.bus, "pages", server.Config{})
	pages := durable.Serve[page](svc, "page", durable.Config{Idle: 5 * time.Millisecond})
	l.methods(pages, turns{"add": add}, views{"read": read})
	durable.OnInit(pages, func(*page, durable.Context) error { begun.Add(1); return nil })
	run(t, svc)
	l.want("1", "alice", "add", "1")
	l.until("the object has left memory and come back", func() bool {
		l.want("1", "alice", "read", "")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		<-tick.C
		return begun.Load() > 3
	})
	// Callers that come just when it leaves.
	var wg sync.WaitGroup
	before := begun.Load()
	const callers, each = 8, 60
	for i := range callers {
		wg.Go(func() {
			pause := time.NewTicker(time.Duration(i+3) * time.Millisecond)
			defer pause.Stop()
			for range each {
				<-pause.C
				id := fmt.Sprint("object ", i/2) // two callers each
				if _, err := l.call(id, "add", "1"); err != nil {
					t.Errorf("add: %v", err)
				}
				if _, err := l.method("read").Call(t.Context(), l.near, id, ""); err != nil {
					t.Errorf("read: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for i := range callers / 2 {
		l.want(fmt.Sprint(2*each), fmt.Sprint("object ", i), "read", "")
	}
	t.Logf("%d activations for %d calls", begun.Load()-before, 2*callers*each)
}
