package durable

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/durable/internal/journal"
)

// fill makes an object with everything that an object can have.
func (x *boxes) fill(id string, entries int) {
	x.Helper()
	for at := 0; at < entries || at == 0; at += maxTurnWrites {
		x.do(id, func(s *box, ctx Context) error {
			s.N++
			ctx.SetAlarm(time.Now().Add(time.Hour))
			for i := at; i < min(at+maxTurnWrites, entries); i++ {
				if err := ctx.Storage().Put(fmt.Sprint(i), i); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// gone reports what is left of an object that was destroyed.
func (x *boxes) gone(id string) {
	x.Helper()
	if left := x.count(id + ".>"); len(left) > 0 {
		x.Errorf("%s: %d keys are left of the storage: %.200q", id, len(left), fmt.Sprint(left))
	}
	if m := x.last(alarmPrefix + id); m != nil && !m.Deleted() {
		x.Errorf("%s: the alarm is left: %v", id, m.Header)
	}
	m := x.last(id)
	if m == nil || !m.Deleted() || len(m.Data) > 0 || m.Header.Get(journal.HeaderTTL) != deletedTTL {
		x.Errorf("%s: the record is %v", id, m)
	}
	if n := x.count(id)[id]; n != 1 {
		x.Errorf("%s: %d messages of the record are left", id, n)
	}
	_, err := look(x, id, func(s box, ctx ReadContext) (bool, error) {
		_, set := ctx.Alarm()
		if all, err := listed(ctx.Storage(), ListOptions{}); err != nil || len(all) > 0 || set || s != (box{}) {
			return false, fmt.Errorf("a view finds %v, %q, %v, %w", s, all, set, err)
		}
		return true, nil
	})
	if err != nil {
		x.Errorf("%s: %v", id, err)
	}
}

// A destroyed object has nothing left; its events are sent, and whoever sends the
// call again gets its result.
func TestDestroy(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string]int{"state": 0, "storage": 3, "large-storage": 2500} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newBoxes(t)
			first := x.serve(Config{})
			id := name
			x.fill(id, entries)
			destroying := x.prepare(func(s *box, ctx Context) (any, error) {
				n := s.N
				s.N = 99
				if err := ctx.Storage().Put("before", 1); err != nil {
					return nil, err
				}
				ctx.Destroy()
				ctx.SetAlarm(time.Now().Add(time.Hour))
				if err := ctx.Storage().Put("after", 1); err != nil {
					return nil, err
				}
				s.Text = "after"
				return n, ctx.Emit("Box.destroyed", n)
			})
			again := rpc.WithID("the-one")
			n, err := prepared[int](x, id, destroying, again)
			if err != nil || n != max(1, (entries+maxTurnWrites-1)/maxTurnWrites) {
				t.Fatalf("destroy: %d, %v", n, err)
			}
			x.gone(id)
			if got, err := prepared[int](x, id, destroying, again); got != n || err != nil {
				t.Errorf("the same call: %d, %v", got, err)
			}
			x.serve(Config{})
			first.stop()
			if got, err := prepared[int](x, id, destroying, again); got != n || err != nil {
				t.Errorf("the same call at the next owner: %d, %v", got, err)
			}
			x.gone(id)
			if all := x.events(); len(all) != 1 || string(all[0].Data) != fmt.Sprint(n) {
				t.Errorf("events: %v", all)
			}
			x.do(id, func(s *box, ctx Context) error { // and it can be made anew
				s.N++
				return ctx.Storage().Put("new", s.N)
			})
			if got := x.list(id, ListOptions{}); !slices.Equal(got, []string{"new=1"}) {
				t.Errorf("made anew: %q", got)
			}
		})
	}
}

// An object that has never been, and a turn that fails, destroy nothing.
func TestDestroyNothing(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	x.do("none", func(_ *box, ctx Context) error { ctx.Destroy(); return nil })
	x.gone("none")
	x.fill("a", 3)
	err := x.try("a", func(_ *box, ctx Context) error {
		ctx.Destroy()
		return rpc.Canceled.Errorf("as planned")
	})
	x.want(err, rpc.Canceled)
	if got := x.list("a", ListOptions{}); len(got) != 3 {
		t.Errorf("left: %q", got)
	}
	if n, err := look(x, "a", func(s box, ctx ReadContext) (int, error) { return s.N, nil }); n != 1 || err != nil {
		t.Errorf("left: %d, %v", n, err)
	}
}

// Turns that come while the object is destroyed see it before or after, nothing
// in between: of each life of the object every number is given out once.
func TestDestroyUnderLoad(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	stepping := x.prepare(func(s *box, ctx Context) (any, error) {
		err := step(s, ctx)
		return s.N, err
	})
	destroying := x.prepare(func(s *box, ctx Context) (any, error) {
		n := s.N
		s.N += 1000
		ctx.Destroy()
		return n, inStep(box{N: n}, ctx.Storage())
	})
	reading := x.prepare(func(s *box, ctx Context) (any, error) { return s.N, inStep(*s, ctx.Storage()) })
	var mu sync.Mutex
	given, lives := map[int]int{}, map[int]int{} // how often
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 20 {
				number, counts := stepping, given
				if i == 0 {
					number, counts = destroying, lives
				} else if n%5 == 4 {
					number, counts = reading, map[int]int{}
				}
				got, err := prepared[int](x, "a", number)
				if rpc.CodeOf(err) == rpc.Aborted {
					continue // it was sent again, and what would tell whether it had run was destroyed
				}
				if err != nil {
					t.Errorf("turn: %v", err)
					return
				}
				mu.Lock()
				counts[got]++
				mu.Unlock()
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 20 {
				if _, err := look(x, "a", func(s box, ctx ReadContext) (bool, error) { return true, inStep(s, ctx.Storage()) }); err != nil {
					t.Errorf("view: %v", err)
				}
			}
		})
	}
	wg.Wait()
	last, err := prepared[int](x, "a", destroying)
	if err != nil {
		t.Fatal(err)
	}
	lives[last]++
	want := map[int]int{}
	for n, times := range lives {
		for i := 1; i <= n; i++ {
			want[i] += times
		}
	}
	if fmt.Sprint(given) != fmt.Sprint(want) {
		t.Errorf("numbers given out: %v, want %v, from lives of %v", given, want, lives)
	}
	x.gone("a")
}
