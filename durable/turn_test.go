package durable_test

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// A turn that does not return nil changes nothing, wherever it has written.
func TestFailedTurnChangesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	scribble := func(p *page) {
		p.Value = 99
		p.Lines[0] = "spoilt"
		p.Lines = append(p.Lines, "more")
		p.Marks["a"][0] = 99
		p.Marks["new"] = nil
		delete(p.Marks, "b")
		p.Inner.Lines[0] = "spoilt"
		p.Inner = &page{Value: 99}
	}
	failures := turns{
		"error":    func(*page, durable.Context, string) (string, error) { return "", rpc.NotFound.Errorf("no such thing") },
		"uncoded":  func(*page, durable.Context, string) (string, error) { return "", fmt.Errorf("odd") },
		"nilError": func(*page, durable.Context, string) (string, error) { var e *rpc.Error; return "", e },
		"panic":    func(*page, durable.Context, string) (string, error) { panic("odd") },
		"goexit":   func(*page, durable.Context, string) (string, error) { runtime.Goexit(); return "", nil },
		"state":    func(p *page, _ durable.Context, _ string) (string, error) { p.Weight = math.NaN(); return "", nil },
		"trap":     func(p *page, _ durable.Context, _ string) (string, error) { p.Odd = 13; return "", nil },
		"huge": func(*page, durable.Context, string) (string, error) {
			return strings.Repeat("x", int(l.bus.MaxPayload())), nil
		},
	}
	codes := map[string]rpc.Code{
		"error": rpc.NotFound, "uncoded": rpc.Internal, "nilError": rpc.Internal, "panic": rpc.Internal, "goexit": rpc.Internal,
		"state": rpc.Internal, "trap": rpc.Internal, "huge": rpc.ResourceExhausted,
	}
	all := turns{
		"fill": func(p *page, _ durable.Context, _ string) (string, error) {
			p.Value, p.Lines, p.Marks = 1, []string{"one"}, map[string][]int{"a": {1}, "b": {2}}
			p.Inner = &page{Lines: []string{"inner"}}
			return "", nil
		},
		"look": func(p *page, _ durable.Context, _ string) (string, error) { return show(*p), nil },
		"add":  add,
	}
	for name, fn := range failures {
		all[name] = func(p *page, ctx durable.Context, param string) (string, error) {
			scribble(p)
			return fn(p, ctx, param)
		}
	}
	l.serve(durable.Config{}, all, views{
		"view": func(p page, _ durable.ReadContext, _ string) (string, error) { return show(p), nil },
	})
	for name := range failures {
		for how, c := range map[string]*client.Client{"bus": l.far, "shortcut": l.near} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				l := &lab{T: t, bus: l.bus, far: c}
				id := name + how
				l.want("", id, "fill", "")
				before, err := l.call(id, "look", "")
				if err != nil {
					t.Fatal(err)
				}
				stored := l.stored(bus.Escape(id))
				for range 3 {
					l.refused(codes[name], id, name, "")
				}
				l.want(before, id, "look", "")
				l.want(before, id, "view", "")
				if now := l.stored(bus.Escape(id)); now != stored {
					t.Errorf("stored %s, then %s", stored, now)
				}
				l.want("2", id, "add", "1")
				if now, want := l.stored(bus.Escape(id)), strings.Replace(stored, `"value":1`, `"value":2`, 1); now != want {
					t.Errorf("stored after the next turn: %s, want %s", now, want)
				}
			})
		}
	}
}

// show writes all of a page.
func show(p page) string {
	inner := "none"
	if p.Inner != nil {
		inner = show(*p.Inner)
	}
	return fmt.Sprint(p.Value, p.Weight, p.Lines, p.Marks, "(", inner, ")")
}

// A turn that changes nothing writes nothing.
func TestTurnThatChangesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{
		"add": add,
		"there-and-back": func(p *page, _ durable.Context, _ string) (string, error) {
			p.Value++
			p.Value--
			p.Marks = map[string][]int{}
			return fmt.Sprint(p.Value), nil
		},
		"fail": func(*page, durable.Context, string) (string, error) { return "", rpc.NotFound.Errorf("no") },
	}, views{"read": read})
	l.want("5", "alice", "add", "5")
	l.want("0", "nobody", "there-and-back", "") // in memory now
	before := l.last()
	for range 10 {
		l.want("5", "alice", "there-and-back", "")
		l.want("5", "alice", "add", "0")
		l.want("5", "alice", "read", "")
		l.refused(rpc.NotFound, "alice", "fail", "")
		l.want("0", "nobody", "there-and-back", "")
	}
	if now := l.last(); now != before {
		t.Errorf("%d messages were written", now-before)
	}
	if got := l.stored("nobody"); got != "" {
		t.Errorf("an object that nothing has changed is stored: %s", got)
	}
}

// Two turns of an object never overlap, whichever way they come, and none is
// lost.
func TestTurnsNeverOverlap(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var inside, overlaps atomic.Int32
	l.serve(durable.Config{}, turns{
		"add": func(p *page, ctx durable.Context, by string) (string, error) {
			if inside.Add(1) != 1 {
				overlaps.Add(1)
			}
			defer inside.Add(-1)
			p.Lines = append(p.Lines[:0], by) // the race detector looks on
			runtime.Gosched()
			if by == "13" {
				panic("13")
			}
			return add(p, ctx, by)
		},
	}, views{"read": read})
	const callers, each = 64, 30
	var wg sync.WaitGroup
	var sum atomic.Int64
	for i := range callers {
		c := l.far
		if i%2 == 0 {
			c = l.near
		}
		wg.Go(func() {
			for n := range each {
				by := (i + n) % 14
				_, err := l.method("add").Call(t.Context(), c, "hot", strconv.Itoa(by))
				switch {
				case err == nil:
					sum.Add(int64(by))
				case by != 13 || rpc.CodeOf(err) != rpc.Internal:
					t.Errorf("add %d: %v", by, err)
				}
				if _, err := l.method("read").Call(t.Context(), c, "hot", ""); err != nil {
					t.Errorf("read: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := overlaps.Load(); n != 0 {
		t.Errorf("%d turns overlapped others", n)
	}
	l.want(fmt.Sprint(sum.Load()), "hot", "read", "")
}

// Turns that come while a commit is on its way share the next one. Each gets
// its own result, and none before its commit is stored.
func TestTurnsShareACommit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hold := l.barrier()
	var ran atomic.Int32
	l.serve(hold.atCommit(durable.Config{}), turns{
		"add": func(p *page, ctx durable.Context, by string) (string, error) {
			defer ran.Add(1)
			return add(p, ctx, by)
		},
		"look": func(p *page, _ durable.Context, _ string) (string, error) {
			defer ran.Add(1)
			return fmt.Sprint(p.Value), nil
		},
		"fail": func(p *page, _ durable.Context, _ string) (string, error) {
			defer ran.Add(1)
			return "", rpc.OutOfRange.Errorf("the value is %d", p.Value)
		},
	}, views{"read": read})
	l.want("0", "hot", "look", "") // in memory
	before := l.last()
	ran.Store(0)
	hold.shut.Store(true)
	first := l.begin("hot", "add", "1")
	l.reached("the first commit", hold.arrived)
	const others = 100
	var waiting []<-chan answer
	for range others {
		waiting = append(waiting, l.begin("hot", "add", "1"))
	}
	l.until("all turns have run", func() bool { return ran.Load() == others+1 })
	reads := l.begin("hot", "look", "") // changes nothing, but has seen what is not stored
	fails := l.begin("hot", "fail", "") // as well
	l.until("the reading turns have run", func() bool { return ran.Load() == others+3 })
	l.want("0", "hot", "read", "") // a view sees what is stored
	for i, c := range append(waiting, first, reads, fails) {
		select {
		case a := <-c:
			t.Fatalf("call %d is answered before its commit is stored: %+v", i, a)
		default:
		}
	}
	if now := l.last(); now != before {
		t.Fatalf("%d messages are stored already", now-before)
	}
	hold.release()
	if a := l.end(first); a.err != nil || a.result != "1" {
		t.Errorf("first: %+v", a)
	}
	seen := map[string]bool{}
	for _, c := range waiting {
		a := l.end(c)
		if a.err != nil || seen[a.result] {
			t.Errorf("%+v, after %v", a, seen)
		}
		seen[a.result] = true
	}
	if a := l.end(reads); a.err != nil || a.result != fmt.Sprint(others+1) {
		t.Errorf("the turn that reads: %+v", a)
	}
	l.coded(l.end(fails).err, rpc.OutOfRange, fmt.Sprint("the value is ", others+1))
	if n := l.last() - before; n != 2 {
		t.Errorf("%d messages were written for %d turns, want 2", n, others+1)
	}
	l.want(fmt.Sprint(others+1), "hot", "read", "")
}

// Identities and results that don't fit into one commit go into several.
func TestLargeIdentitiesShareCommits(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hold := l.barrier()
	hold.shut.Store(true)
	ts := turns{"add": func(p *page, ctx durable.Context, by string) (string, error) {
		result, err := add(p, ctx, by)
		return result + strings.Repeat(" ", 200), err
	}}
	stop := l.serve(hold.atCommit(durable.Config{}), ts, views{"read": read})
	identity := func(i int) string { return fmt.Sprintf("%03d%s", i, strings.Repeat("<", 253)) }
	before := l.last()
	var waiting []<-chan answer
	const calls = 60
	for i := range calls {
		waiting = append(waiting, l.begin("alice", "add", "1", rpc.WithID(identity(i)), rpc.WithTimeout(labPatience)))
	}
	l.reached("the first commit", hold.arrived)
	hold.release()
	for _, c := range waiting {
		if a := l.end(c); a.err != nil {
			t.Error(a.err)
		}
	}
	n := l.last() - before
	t.Logf("%d messages for %d turns", n, calls)
	if n < calls*1500/(8<<10) || n > calls/2 {
		t.Errorf("%d messages for %d turns", n, calls)
	}
	stop()
	l.serve(durable.Config{}, ts, views{"read": read})
	for i := range calls { // kept with its result, kept without, or too old
		_, err := l.retry("alice", "add", "1", identity(i), time.Hour)
		if err != nil && err.Code != rpc.Aborted {
			t.Error(err)
		}
	}
	l.want(fmt.Sprint(calls), "alice", "read", "")
}

// A hot object has far fewer commits than turns.
func TestHotObject(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, views{"read": read})
	l.want("0", "hot", "add", "0")
	before := l.last()
	const callers, each = 64, 25
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				if _, err := l.call("hot", "add", "1"); err != nil {
					t.Errorf("add: %v", err)
				}
			}
		})
	}
	wg.Wait()
	n := l.last() - before
	t.Logf("%d messages for %d turns", n, callers*each)
	if n > callers*each/2 {
		t.Errorf("%d messages for %d turns", n, callers*each)
	}
	l.want(fmt.Sprint(callers*each), "hot", "read", "")
	if got, want := l.stored("hot"), fmt.Sprintf(`{"value":%d}`, callers*each); got != want {
		t.Errorf("stored %s, want %s", got, want)
	}
}

// A result may be a part of the state: it is the turn's, whatever later turns do
// to that.
func TestResultIsPartOfTheState(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	svc := server.New(l.bus, "pages", server.Config{})
	pages := durable.Serve[page](svc, "page", durable.Config{})
	marks := rpc.NewObjectMethod[string, map[string][]int]("page.marks")
	durable.Handle(pages, marks, func(p *page, _ durable.Context, _ string) (map[string][]int, error) {
		if p.Marks == nil {
			p.Marks = map[string][]int{"n": {0}}
		}
		p.Marks["n"][0]++
		n := p.Marks["n"][0]
		p.Marks[fmt.Sprint(n%50)] = []int{n}
		return p.Marks, nil
	})
	run(t, svc)
	var wg sync.WaitGroup
	var results sync.Map
	for i := range 32 {
		c := l.far
		if i%2 == 0 {
			c = l.near
		}
		wg.Go(func() {
			for range 30 {
				got, err := marks.Call(t.Context(), c, "hot", "")
				if err != nil {
					t.Errorf("marks: %v", err)
					return
				}
				n := got["n"][0]
				if at := got[fmt.Sprint(n%50)]; len(at) != 1 || at[0] != n {
					t.Errorf("a result of turn %d has the mark %d of another", n, at)
				}
				if _, taken := results.Swap(n, true); taken {
					t.Errorf("two turns returned %d", n)
				}
			}
		})
	}
	wg.Wait()
}
