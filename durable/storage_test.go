package durable

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"rpc.do"
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

// The bucket forgets a deleted entry, and what it was before does not come back.
func TestDeletedEntryIsForgotten(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	for i := range 3 {
		x.do("a", func(_ *box, ctx Context) error { return ctx.Storage().Put("k", i) })
	}
	x.do("a", func(_ *box, ctx Context) error { return ctx.Storage().Delete("k") })
	if n := x.count("a.>")["a.k"]; n != 1 {
		t.Errorf("%d messages of the entry are left", n)
	}
	x.until("the deletion to be forgotten", func() bool { return len(x.count("a.>")) == 0 })
	if got := x.list("a", ListOptions{}); len(got) > 0 {
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
	for step := range 100 {
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
