package durable

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// Keys that need care: in subjects, as wildcards, as one another's prefix.
var oddKeys = []string{
	"a", "a.b", "a.b.c", "a b", "*", ">", "a.*", "_out", "_alarm.a", "=2E", "=", "A", "ä", "日本語", "🂡", "\x00", "\n",
	"p/", "p/1", "p/10", "p/2", "p0", strings.Repeat("k", maxKey), strings.Repeat("€", maxKey/3), "\u00ff", "\u0100",
}

// What a turn has written it reads, and what it has not stays away from others.
func TestStorageReadsItsWrites(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	x.do("a", func(_ *box, ctx Context) error {
		s := ctx.Storage()
		for i, key := range oddKeys {
			if _, found, err := Get[int](s, key); found || err != nil {
				return fmt.Errorf("before: %q: %v %v", key, found, err)
			}
			if err := s.Put(key, i); err != nil {
				return err
			}
			if got, found, err := Get[int](s, key); got != i || !found || err != nil {
				return fmt.Errorf("%q: %v %v %v", key, got, found, err)
			}
		}
		all, err := s.List(ListOptions{})
		if len(all) != len(oddKeys) || !slices.IsSortedFunc(all, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) }) {
			return fmt.Errorf("list: %q %v", all, err)
		}
		if err := s.Put("a", "again"); err != nil {
			return err
		}
		return s.Delete("A")
	})
	x.do("a", func(_ *box, ctx Context) error {
		s := ctx.Storage()
		for i, key := range oddKeys {
			got, found, err := Get[any](s, key)
			switch {
			case err != nil:
				return err
			case key == "A" && found, key != "A" && !found, key == "a" && got != "again", key != "a" && key != "A" && got != float64(i):
				return fmt.Errorf("%q: %v %v", key, got, found)
			}
		}
		return nil
	})
	if got := x.list("other", ListOptions{}); len(got) > 0 {
		t.Errorf("another object has %q", got)
	}
	if got := x.list("a.b", ListOptions{}); len(got) > 0 {
		t.Errorf("an object whose id begins alike has %q", got)
	}
}

// What the handler gets is its own: changing it changes nothing that is stored.
func TestStorageValuesAreCopies(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	x.do("a", func(_ *box, ctx Context) error {
		raw := json.RawMessage(`"kept"`)
		if err := ctx.Storage().Put("k", raw); err != nil {
			return err
		}
		copy(raw, `"lost"`)
		entries, err := ctx.Storage().List(ListOptions{})
		if err != nil {
			return err
		}
		copy(entries[0].Value, `"lost"`)
		got, _, err := Get[json.RawMessage](ctx.Storage(), "k")
		copy(got, `"lost"`)
		return err
	})
	if got := x.list("a", ListOptions{}); !slices.Equal(got, []string{`k="kept"`}) {
		t.Errorf("got %q", got)
	}
}

func TestStorageErrors(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	x.do("a", func(_ *box, ctx Context) error { return ctx.Storage().Put("k", "text") })
	for name, tt := range map[string]struct {
		do   func(Storage) error
		code rpc.Code
		text string
	}{
		"empty":        {func(s Storage) error { return s.Put("", 1) }, rpc.InvalidArgument, "empty"},
		"long":         {func(s Storage) error { return s.Put(strings.Repeat("k", maxKey+1), 1) }, rpc.InvalidArgument, "257 bytes"},
		"not UTF-8":    {func(s Storage) error { return s.Delete("\xff") }, rpc.InvalidArgument, "UTF-8"},
		"get, empty":   {func(s Storage) error { _, err := s.Get("", new(int)); return err }, rpc.InvalidArgument, "empty"},
		"not JSON":     {func(s Storage) error { return s.Put("k", make(chan int)) }, rpc.InvalidArgument, `"k"`},
		"not JSON raw": {func(s Storage) error { return s.Put("k", json.RawMessage("{")) }, rpc.InvalidArgument, `"k"`},
		"other type":   {func(s Storage) error { _, err := s.Get("k", new(int)); return err }, rpc.InvalidArgument, "*int"},
		"no pointer":   {func(s Storage) error { _, err := s.Get("k", 0); return err }, rpc.InvalidArgument, `"k"`},
		"too large":    {func(s Storage) error { return s.Put("k", strings.Repeat("x", 1<<20)) }, rpc.ResourceExhausted, "1048578 bytes"},
	} {
		x.want(x.try("a", func(_ *box, ctx Context) error { return tt.do(ctx.Storage()) }), tt.code, tt.text)
		x.do("a", func(s *box, ctx Context) error { // it can be put up with, too
			s.Text = name
			if err := tt.do(ctx.Storage()); rpc.CodeOf(err) != tt.code {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	if got := x.list("a", ListOptions{}); !slices.Equal(got, []string{`k="text"`}) {
		t.Errorf("got %q", got)
	}
	var null *int
	x.do("a", func(_ *box, ctx Context) error { return ctx.Storage().Put("k", null) })
	got, found, err := Get[*int](onlyReader{x}, "k")
	if got != nil || !found || err != nil {
		t.Errorf("null: %v %v %v", got, found, err)
	}
}

// onlyReader reads the storage of the object "a" by views.
type onlyReader struct{ x *boxes }

func (r onlyReader) Get(key string, value any) (bool, error) {
	raw, err := look(r.x, "a", func(_ box, ctx ReadContext) (json.RawMessage, error) {
		v, _, err := Get[json.RawMessage](ctx.Storage(), key)
		return v, err
	})
	if err != nil || raw == nil {
		return false, err
	}
	return true, json.Unmarshal(raw, value)
}

func (r onlyReader) List(ListOptions) ([]Entry, error) { return nil, nil }

// model is what the storage should have.
type model map[string]int

func (m model) list(opts ListOptions) []string {
	keys := []string{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(key, opts.Prefix) && key >= opts.Start && (opts.End == "" || key < opts.End) {
			keys = append(keys, fmt.Sprintf("%s=%d", key, m[key]))
		}
	}
	if opts.Reverse {
		slices.Reverse(keys)
	}
	if opts.Limit > 0 {
		keys = keys[:min(len(keys), opts.Limit)]
	}
	return keys
}

// randomList makes options of which every part is used in half of the cases.
func randomList(r *rand.Rand) (opts ListOptions) {
	bound := func() string { return oddKeys[r.IntN(len(oddKeys))] }
	if r.IntN(2) == 0 {
		key := bound()
		opts.Prefix = key[:r.IntN(min(len(key), 4)+1)]
	}
	if r.IntN(2) == 0 {
		opts.Start = bound()
	}
	if r.IntN(2) == 0 {
		opts.End = bound()
	}
	if r.IntN(2) == 0 {
		opts.Limit = 1 + r.IntN(len(oddKeys))
	}
	opts.Reverse = r.IntN(2) == 0
	return opts
}

// Random turns, some of which fail, are compared with a map, in the turn and in
// views, in memory and read back.
func TestStorageProperty(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	x := oneBox(t, Config{})
	stored := model{}
	compare := func(s ReadStorage, want model) error {
		for range 4 {
			opts := randomList(r)
			if got, err := listed(s, opts); err != nil || !slices.Equal(got, want.list(opts)) {
				return fmt.Errorf("list %+v: %q, %v, want %q", opts, got, err, want.list(opts))
			}
		}
		key := oddKeys[r.IntN(len(oddKeys))]
		value, ok := want[key]
		if got, found, err := Get[int](s, key); got != value || found != ok || err != nil {
			return fmt.Errorf("get %q: %v %v %v, want %v %v", key, got, found, err, value, ok)
		}
		return nil
	}
	for step := range 150 {
		turned := maps.Clone(stored)
		fails := r.IntN(4) == 0
		err := x.try("a", func(_ *box, ctx Context) error {
			turned = maps.Clone(stored) // it may run again
			for range r.IntN(6) {
				key := oddKeys[r.IntN(len(oddKeys))]
				var err error
				if r.IntN(3) == 0 {
					delete(turned, key)
					err = ctx.Storage().Delete(key)
				} else {
					turned[key] = step
					err = ctx.Storage().Put(key, step)
				}
				if err != nil {
					return err
				}
			}
			if err := compare(ctx.Storage(), turned); err != nil {
				return err
			}
			if fails {
				return rpc.Canceled.Errorf("as planned")
			}
			return nil
		})
		switch {
		case err == nil:
			stored = turned
		case !fails || rpc.CodeOf(err) != rpc.Canceled:
			t.Fatalf("step %d: %v", step, err)
		}
		if _, err := look(x, "a", func(_ box, ctx ReadContext) (bool, error) { return true, compare(ctx.Storage(), stored) }); err != nil {
			t.Fatalf("step %d, view: %v", step, err)
		}
	}
}

// step is a turn that finds in the storage what its state says, and moves both
// on by one: the count, and the last ten numbers.
func step(s *box, ctx Context) error {
	if err := inStep(*s, ctx.Storage()); err != nil {
		return err
	}
	s.N++
	if err := ctx.Storage().Put("count", s.N); err != nil {
		return err
	}
	if err := ctx.Storage().Delete(logKey(s.N - 10)); err != nil {
		return err
	}
	return ctx.Storage().Put(logKey(s.N), s.N)
}

func logKey(n int) string { return fmt.Sprintf("log/%02d", (n+100)%100) }

// inStep reports where state and storage are not of one commit.
func inStep(s box, storage ReadStorage) error {
	n, _, err := Get[int](storage, "count")
	if err != nil {
		return err
	}
	got, err := listed(storage, ListOptions{Prefix: "log/"})
	if err != nil {
		return err
	}
	want := []string{}
	for i := max(1, s.N-9); i <= s.N; i++ {
		want = append(want, fmt.Sprintf("%s=%d", logKey(i), i))
	}
	slices.Sort(want)
	if n != s.N || !slices.Equal(got, want) {
		return rpc.DataLoss.Errorf("the state has %d, the storage %d and %q", s.N, n, got)
	}
	return nil
}

// Turns read what others have written whose commit is under way, and views read
// state and storage of one commit.
func TestStorageUnderLoad(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	stepping := x.prepare(func(s *box, ctx Context) (any, error) { return s.N, step(s, ctx) })
	const writers, readers, each = 16, 4, 40
	var writing, reading sync.WaitGroup
	written := make(chan struct{})
	for range writers {
		writing.Go(func() {
			for range each {
				if _, err := prepared[int](x, "a", stepping); err != nil {
					t.Errorf("turn: %v", err)
					return
				}
			}
		})
	}
	views := make([]int, readers)
	for i := range readers {
		reading.Go(func() {
			for {
				_, err := look(x, "a", func(s box, ctx ReadContext) (bool, error) { return true, inStep(s, ctx.Storage()) })
				if err != nil {
					t.Errorf("view %d: %v", views[i], err)
					return
				}
				views[i]++
				select {
				case <-written:
					return
				default:
				}
			}
		})
	}
	writing.Wait()
	close(written)
	reading.Wait()
	t.Logf("views: %v", views)
	if n, err := look(x, "a", func(s box, _ ReadContext) (int, error) { return s.N, nil }); n != writers*each || err != nil {
		t.Errorf("%d turns were stored, %v, want %d", n, err, writers*each)
	}
}

// A view's snapshot can't be read from a storage that has moved on, but is when
// nothing of what it reads has changed.
func TestViewAgainstLaterCommits(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	x.do("a", step)
	tries := 0
	_, err := look(x, "a", func(s box, ctx ReadContext) (bool, error) {
		tries++
		if tries == 1 {
			for range 7 { // more than the bucket keeps of the record
				if err := x.try("a", func(s *box, ctx Context) error { s.Text += "x"; return nil }); err != nil {
					return false, err
				}
			}
		}
		return true, inStep(s, ctx.Storage())
	})
	if err != nil || tries != 1 {
		t.Errorf("after commits that left the storage alone: %d tries, %v", tries, err)
	}
	for name, change := range map[string]func(*box, Context) error{
		"step":    step,
		"delete":  func(s *box, ctx Context) error { return ctx.Storage().Delete("count") },
		"destroy": func(s *box, ctx Context) error { ctx.Destroy(); return nil },
	} {
		x.do(name, step)
		tries := 0
		_, err := look(x, name, func(s box, ctx ReadContext) (bool, error) {
			tries++
			if tries == 1 {
				if err := x.try(name, change); err != nil {
					return false, err
				}
			}
			n, _, err := Get[int](ctx.Storage(), "count")
			if tries > 1 && (name == "delete") == (n == s.N) {
				return false, fmt.Errorf("again: the state has %d, the storage %d", s.N, n)
			}
			return true, err
		})
		if err != nil || tries < 2 {
			t.Errorf("%s: %d tries, %v", name, tries, err)
		}
	}
}

// 3,000 entries, more than the server returns at once.
func TestManyEntries(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	const entries = 3000
	want := model{}
	for at := 0; at < entries; at += maxTurnWrites {
		x.do("a", func(_ *box, ctx Context) error {
			for i := at; i < min(at+maxTurnWrites, entries); i++ {
				key := fmt.Sprintf("%04d.%s", i, strings.Repeat("ö", 100))
				want[key] = i
				if err := ctx.Storage().Put(key, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	x.do("a", func(_ *box, ctx Context) error {
		for i := 0; i < entries; i += 100 {
			key := fmt.Sprintf("%04d.%s", i, strings.Repeat("ö", 100))
			delete(want, key)
			if err := ctx.Storage().Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
	options := []ListOptions{
		{}, {Reverse: true}, {Limit: 1}, {Limit: 1500}, {Limit: 1500, Reverse: true}, {Prefix: "10"}, {Prefix: "none"},
		{Start: "2000", End: "2100"}, {Start: "0500", Limit: 1200}, {End: "2500", Limit: 1200, Reverse: true},
	}
	for _, opts := range options {
		if got := x.list("a", opts); !slices.Equal(got, want.list(opts)) {
			t.Errorf("view: list %+v: %d entries, want %d", opts, len(got), len(want.list(opts)))
		}
	}
	err := x.try("a", func(_ *box, ctx Context) error {
		turned := maps.Clone(want)
		for i := range 50 {
			key := fmt.Sprintf("%04d.%s", i, strings.Repeat("ö", 100))
			if i%2 == 0 {
				turned[key] = -i
				if err := ctx.Storage().Put(key, -i); err != nil {
					return err
				}
			} else {
				delete(turned, key)
				if err := ctx.Storage().Delete(key); err != nil {
					return err
				}
			}
		}
		for _, opts := range options {
			if got, err := listed(ctx.Storage(), opts); err != nil || !slices.Equal(got, turned.list(opts)) {
				return fmt.Errorf("turn: list %+v: %d entries, %v, want %d", opts, len(got), err, len(turned.list(opts)))
			}
		}
		return rpc.Canceled.Errorf("that was all")
	})
	x.want(err, rpc.Canceled)
}

// Values of nearly a whole message, more than an answer of the server holds.
func TestLargeEntries(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	size := int(x.bus.MaxPayload()) - room - len(`""`)
	value := strings.Repeat("v", size)
	const entries = 12
	for at := 0; at < entries; at += 6 {
		x.do("a", func(s *box, ctx Context) error {
			s.Text = strings.Repeat("t", size/2)
			for i := range 6 {
				if err := ctx.Storage().Put(fmt.Sprintf("%02d", at+i), value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	check := func(s ReadStorage) (string, error) {
		all, err := s.List(ListOptions{})
		if err != nil || len(all) != entries {
			return "", fmt.Errorf("%d entries, %w", len(all), err)
		}
		for i, e := range all {
			if e.Key != fmt.Sprintf("%02d", i) || len(e.Value) != size+len(`""`) {
				return "", fmt.Errorf("entry %d is %q with %d bytes", i, e.Key, len(e.Value))
			}
		}
		return "fine", nil
	}
	if _, err := look(x, "a", func(_ box, ctx ReadContext) (string, error) { return check(ctx.Storage()) }); err != nil {
		t.Error("view:", err)
	}
	x.do("a", func(_ *box, ctx Context) error { _, err := check(ctx.Storage()); return err })
}

// What one turn may write is bounded, and nothing of a turn that wants more is
// stored.
func TestStorageBounds(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	x.do("a", func(s *box, ctx Context) error { s.N = 1; return ctx.Storage().Put("k0", "before") })
	many := func(n int) func(*box, Context) error {
		return func(s *box, ctx Context) error {
			s.N++
			for i := range n {
				if err := ctx.Storage().Put(fmt.Sprint("k", i), i); err != nil {
					return err
				}
			}
			return nil
		}
	}
	x.want(x.try("a", many(maxTurnWrites+1)), rpc.ResourceExhausted, "400 entries")
	value := strings.Repeat("v", 1<<19)
	x.want(x.try("a", func(s *box, ctx Context) error {
		s.N++
		for i := range 40 {
			if err := ctx.Storage().Put(fmt.Sprint("k", i), value); err != nil {
				return err
			}
		}
		return nil
	}), rpc.ResourceExhausted, "stored at once")
	if got := x.list("a", ListOptions{}); !slices.Equal(got, []string{`k0="before"`}) {
		t.Errorf("got %.200q", got)
	}
	x.do("a", func(s *box, ctx Context) error { // what is overwritten does not count
		for range 40 {
			if err := ctx.Storage().Put("k", value); err != nil {
				return err
			}
		}
		return ctx.Storage().Delete("k")
	})
	x.do("a", many(maxTurnWrites))
	if got := x.list("a", ListOptions{}); len(got) != maxTurnWrites {
		t.Errorf("%d entries", len(got))
	}
	if n, err := look(x, "a", func(s box, _ ReadContext) (int, error) { return s.N, nil }); n != 2 || err != nil {
		t.Errorf("the state has %d, %v", n, err)
	}
}

// Turns that share a commit don't make it larger than the server takes.
func TestCommitOfManyLargeTurns(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	number := x.prepare(func(s *box, ctx Context) (any, error) {
		s.N++
		for i := range maxTurnWrites {
			if err := ctx.Storage().Put(fmt.Sprint(s.N, "/", i), i); err != nil {
				return nil, err
			}
		}
		for range maxTurnEvents {
			if err := ctx.Emit("Box.filled", s.N); err != nil {
				return nil, err
			}
		}
		return s.N, nil
	})
	small := x.prepare(func(s *box, ctx Context) (any, error) {
		s.N++
		for i := range 100 {
			if err := ctx.Storage().Put(fmt.Sprint(s.N, "/", i), i); err != nil {
				return nil, err
			}
		}
		return s.N, nil
	})
	var wg sync.WaitGroup
	const calls = 30
	for i := range calls {
		n := small
		if i%5 == 4 {
			n = number
		}
		wg.Go(func() {
			if _, err := prepared[int](x, "a", n); err != nil {
				t.Errorf("turn: %v", err)
			}
		})
	}
	wg.Wait()
	if n, err := look(x, "a", func(s box, _ ReadContext) (int, error) { return s.N, nil }); n != calls || err != nil {
		t.Errorf("the state has %d, %v", n, err)
	}
	if got := len(x.events()); got != calls/5*maxTurnEvents {
		t.Errorf("%d events", got)
	}
}

var replicated = bustest.WithConfig(func(cfg *bus.Config) { cfg.Replicas = 3 })

// Commits on a cluster are read by whichever replica answers: what it says may
// be old, what the storage says is not.
func TestStorageOnACluster(t *testing.T) {
	t.Parallel()
	members := bustest.Cluster(t, 3)
	x := boxesOn(t, members[0], replicated)
	first, second := x.instanceOn(members[1], replicated), x.instanceOn(members[2], replicated)
	first.serve(Config{})
	for i := range 40 {
		id := fmt.Sprint("o", i%4)
		x.do(id, step)
		if _, err := look(x, id, func(s box, ctx ReadContext) (bool, error) { return true, inStep(s, ctx.Storage()) }); err != nil {
			t.Fatalf("view after turn %d: %v", i, err)
		}
	}
	second.serve(Config{}) // takes its share
	first.stop()           // and the rest
	for i := range 40 {
		x.do(fmt.Sprint("o", i%4), step)
	}
	for i := range 4 {
		if n, err := look(x, fmt.Sprint("o", i), func(s box, ctx ReadContext) (int, error) { return s.N, inStep(s, ctx.Storage()) }); err != nil || n != 20 {
			t.Errorf("%d, %v", n, err)
		}
	}
}
