package durable

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/durable/internal/journal"
)

// alarmBase is the moment to which full adds a second for each turn.
var alarmBase = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// full is a turn that changes everything that an object has: the state, two
// entries, the alarm, and it emits an event. It returns which one it was.
func full(s *box, ctx Context) (any, error) {
	s.N++
	ctx.SetAlarm(alarmBase.Add(time.Duration(s.N) * time.Second))
	for key, value := range map[string]int{"count": s.N, fmt.Sprintf("log/%04d", s.N): s.N} {
		if err := ctx.Storage().Put(key, value); err != nil {
			return nil, err
		}
	}
	return s.N, ctx.Emit("Box.moved", emitted{ctx.ID(), s.N})
}

// agreed compares everything that is stored of objects with the number of full
// turns that their callers have been told of.
func (x *boxes) agreed(turns map[string]int) error {
	x.Helper()
	moved := map[string][]int{}
	for _, m := range x.events() {
		var e emitted
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return err
		}
		moved[e.ID] = append(moved[e.ID], e.N)
	}
	for id, n := range turns {
		var log []string
		var one []int
		for i := 1; i <= n; i++ {
			log, one = append(log, fmt.Sprintf("log/%04d=%d", i, i)), append(one, i)
		}
		if !slices.Equal(moved[id], one) {
			return fmt.Errorf("%s: %d turns, the events are %v", id, n, moved[id])
		}
		m := x.last(id)
		var s box
		if m == nil || json.Unmarshal(m.Data, &s) != nil || s.N != n {
			return fmt.Errorf("%s: %d turns, the record is %v", id, n, m)
		}
		if got, want := readRecord(m).alarm.at, alarmBase.Add(time.Duration(n)*time.Second); !got.Equal(want) {
			return fmt.Errorf("%s: %d turns, the record has the alarm %v", id, n, got)
		}
		armed := x.last(alarmPrefix + id)
		if want := "@at " + alarmBase.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano); armed == nil || armed.Header.Get(journal.HeaderSchedule) != want {
			return fmt.Errorf("%s: %d turns, armed is %v, want %s", id, n, armed, want)
		}
		for _, how := range []func() ([]string, error){
			func() ([]string, error) {
				return look(x, id, func(_ box, ctx ReadContext) ([]string, error) { return listed(ctx.Storage(), ListOptions{}) })
			},
			func() ([]string, error) {
				return act(x, id, func(_ *box, ctx Context) ([]string, error) { return listed(ctx.Storage(), ListOptions{}) })
			},
		} {
			got, err := how()
			if want := append([]string{fmt.Sprintf("count=%d", n)}, log...); err != nil || !slices.Equal(got, want) {
				return fmt.Errorf("%s: %d turns, the storage is %q, %w", id, n, got, err)
			}
		}
	}
	return nil
}

// stopAt tells where an instance is to be stopped.
type stopAt struct {
	point string
	after int  // how often the point is passed before
	later bool // another instance has served the objects before
}

// dieAt has the instance die when the point is reached: its connection is cut, and
// whoever has reached it stays there until the test ends.
func (i *boxInstance) dieAt(cfg Config, at stopAt) (faulty Config, died <-chan struct{}) {
	var passed atomic.Int32
	there, over := make(chan struct{}), make(chan struct{})
	i.ended = func() { close(over) }
	cfg.faults = func(point string) {
		if point == at.point && passed.Add(1) == int32(at.after)+1 {
			i.kill()
			close(there)
			<-over
		}
	}
	return cfg, there
}

// shortLease is for instances that others are to succeed soon. Retries find what
// had its effect however many calls there were since.
var shortLease = Config{Lease: minLease, History: 64}

// An owner dies at each step of a turn, with calls of several objects and callers
// under way. The next owner goes on where it was: what is stored agrees, and
// every call that is sent again until it is answered has had one effect.
func TestOwnerDies(t *testing.T) {
	t.Parallel()
	for _, at := range []stopAt{
		{"activation", 0, false}, {"activation", 2, false}, {"activation", 0, true}, {"activation", 2, true},
		{"commit", 0, false}, {"commit", 5, false}, {"commit", 11, false}, {"commit", 0, true},
		{"committed", 0, false}, {"committed", 5, false}, {"committed", 11, false}, {"committed", 0, true},
		{"hand-over", 0, false}, {"hand-over", 60, false},
	} {
		name := fmt.Sprint(at.point, " ", at.after)
		if at.later {
			name += " later"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := mortal(t)
			dying := x.instance()
			cfg, dead := dying.dieAt(shortLease, at)
			var first *boxInstance
			if at.later {
				first = x.serve(shortLease)
			} else {
				dying.serve(cfg)
			}
			const objects = 4
			callers := x.callFull(objects, 2, 5, dead)
			if at.later {
				x.until("each object has a record", func() bool { return len(x.count("*")) == objects })
				first.stop()
				dying.serve(cfg)
			}
			if at.point != "hand-over" {
				x.reached("the owner's death", dead)
			}
			x.serve(shortLease)
			x.reached("the owner's death", dead)
			turns, err := callers()
			if err == nil {
				err = x.agreed(turns)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// callFull makes several callers for each of several objects, who call full at
// least each times and until the signal comes. The function that it returns waits
// for them and returns how many turns each object has had, or what they were told
// that can't be.
func (x *boxes) callFull(objects, callers, each int, until <-chan struct{}) (turns func() (map[string]int, error)) {
	number := x.prepare(full)
	var mu sync.Mutex
	told := map[string][]int{}
	var wg sync.WaitGroup
	for o := range objects {
		id := fmt.Sprint("o", o)
		for range callers {
			wg.Go(func() {
				for n, over := 0, false; n < each || !over; n++ {
					got, err := prepared[int](x, id, number)
					if err != nil {
						x.Errorf("turn of %s: %v", id, err)
						return
					}
					mu.Lock()
					told[id] = append(told[id], got)
					mu.Unlock()
					select {
					case <-until:
						over = true
					default:
					}
				}
			})
		}
	}
	return func() (map[string]int, error) {
		wg.Wait()
		turns := map[string]int{}
		for id, numbers := range told {
			turns[id] = len(numbers)
			slices.Sort(numbers)
			for i, n := range numbers {
				if n != i+1 {
					return nil, fmt.Errorf("%s: its callers were told %v", id, numbers)
				}
			}
		}
		return turns, nil
	}
}

// An owner dies when it has destroyed an object and not yet removed the storage.
// Whoever makes the object anew never sees an entry of before, and the call that
// destroyed it gets its result.
func TestOwnerDiesWhileDestroying(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"commit", "committed"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			x := mortal(t)
			dying := x.instance()
			cfg, dead := dying.dieAt(shortLease, stopAt{point: point, after: 3})
			dying.serve(cfg)
			const id = "a"
			x.fill(id, 3*maxTurnWrites) // three commits
			destroying := x.prepare(func(s *box, ctx Context) (any, error) {
				ctx.Destroy()
				return s.N, ctx.Emit("Box.destroyed", s.N)
			})
			var wg sync.WaitGroup
			wg.Go(func() {
				if n, err := prepared[int](x, id, destroying, rpc.WithID("the-one")); n != 3 || err != nil {
					t.Errorf("destroy: %d, %v", n, err)
				}
			})
			x.reached("the owner's death", dead)
			x.serve(shortLease)
			wg.Wait()
			if n, err := prepared[int](x, id, destroying, rpc.WithID("the-one")); n != 3 || err != nil {
				t.Errorf("the same call: %d, %v", n, err)
			}
			x.gone(id)
			if all := x.events(); len(all) != 1 {
				t.Errorf("%d events", len(all))
			}
			x.do(id, func(s *box, ctx Context) error { return ctx.Storage().Put("new", 1) })
			if got := x.list(id, ListOptions{}); strings.Join(got, " ") != "new=1" {
				t.Errorf("made anew: %.200q", got)
			}
		})
	}
}

// An object that was destroyed can't be made anew while its storage can't be
// removed.
func TestStorageIsNotRemoved(t *testing.T) {
	t.Parallel()
	x := newBoxes(t)
	i := x.serve(Config{})
	j := x.open()
	for _, m := range []journal.Message{
		{Key: "a", Data: []byte(`{"n":7}`), Header: nats.Header{headerKeys: {"1"}}},
		{Key: "a.old", Data: []byte("1")},
		{Key: "a", Header: nats.Header{headerKeys: {"1"}, journal.HeaderOperation: {"PURGE"}, journal.HeaderRollup: {"sub"}, headerCommit: {"2-x"}}},
	} {
		if _, err := j.Write(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	last := x.last("a")
	o := newObject(i.class, &i.class.slots[0], "a")
	if err := o.begin(ctx, readRecord(last), last.Sequence); err == nil || o.rev != 0 {
		t.Errorf("the object begins: %v", err)
	}
	if m := x.last("a.old"); m == nil {
		t.Error("the entry is gone")
	}
	if got := x.list("a", ListOptions{}); len(got) > 0 {
		t.Errorf("a view finds %q", got)
	}
	x.gone("a")
}
