package durable

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"rpc.do"
	"rpc.do/bus"
)

// 3,000 entries, more than the server returns at once.
func TestManyEntries(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	const entries = 3000
	want := model{}
	for at := 0; at < entries; at += maxTurnWrites {
		x.do("a", func(_ *box, ctx Context) error {
			for i := at; i < min(at+maxTurnWrites, entries); i++ {
				key := fmt.Sprintf("%04d.%s", i, strings.Repeat("ö", 30))
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
			key := fmt.Sprintf("%04d.%s", i, strings.Repeat("ö", 30))
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
			key := fmt.Sprintf("%04d.%s", i, strings.Repeat("ö", 30))
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

// The longest keys of the longest id are asked for in requests that fit into a
// message.
func TestPages(t *testing.T) {
	t.Parallel()
	i := newBoxes(t).serve(Config{})
	o := newObject(i.class, &i.class.slots[0], strings.Repeat("€", 85))
	keys := make([]string, 3*pageSize)
	for i := range keys {
		keys[i] = o.key + "." + bus.Escape(fmt.Sprintf("%04d", i)+strings.Repeat("€", 84))
	}
	pages := 0
	for left := keys; len(left) > 0; pages++ {
		n := o.page(left)
		size := 0
		for _, key := range left[:n] {
			size += len(i.class.journal.Subject(key)) + len(`"",`)
		}
		if n == 0 || n > pageSize || int64(size) > i.bus.MaxPayload()-room {
			t.Fatalf("a page of %d keys with %d bytes", n, size)
		}
		left = left[n:]
	}
	if short := o.page(slices.Repeat([]string{"k"}, 3*pageSize)); short != pageSize || o.page(nil) != 0 || pages > 25 {
		t.Errorf("%d pages, %d short keys", pages, short)
	}
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
