package durable_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// What a view does to its copy reaches nobody: neither the turns nor other views.
func TestViewGetsACopy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	look := func(p page, _ durable.ReadContext, _ string) (string, error) { return show(p), nil }
	l.serve(durable.Config{}, turns{
		"fill": func(p *page, _ durable.Context, _ string) (string, error) {
			p.Value++
			p.Lines = []string{"one", "two"}
			p.Marks = map[string][]int{"a": {1}}
			p.Inner = &page{Lines: []string{"inner"}, Marks: map[string][]int{"b": {2}}}
			return "", nil
		},
		"touch": func(p *page, _ durable.Context, _ string) (string, error) {
			p.Value++
			p.Lines[1], p.Marks["a"][0], p.Inner.Marks["b"][0] = "two", 1, 2 // the race detector looks on
			return "", nil
		},
		"look": func(p *page, _ durable.Context, _ string) (string, error) { return show(*p), nil },
	}, views{
		"spoil": func(p page, _ durable.ReadContext, _ string) (string, error) {
			p.Value = 99
			p.Lines[0] = "spoilt"
			slices.Reverse(p.Lines)
			_ = append(p.Lines[:0], "spoilt")
			p.Marks["a"][0] = 99
			p.Marks["new"] = nil
			delete(p.Inner.Marks, "b")
			p.Inner.Lines[0] = "spoilt"
			p.Inner = nil
			return "", nil
		},
		"view": look,
	})
	l.want("", "alice", "fill", "")
	before, err := l.call("alice", "look", "")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l.want("", "alice", "spoil", "")
		l.want(before, "alice", "look", "")
		l.want(before, "alice", "view", "")
	}
	var wg sync.WaitGroup
	for _, method := range []string{"spoil", "touch", "view", "spoil", "touch"} {
		for _, c := range []*client.Client{l.far, l.near} {
			wg.Go(func() {
				for range 30 {
					if _, err := l.method(method).Call(t.Context(), c, "alice", ""); err != nil {
						t.Errorf("%s: %v", method, err)
					}
				}
			})
		}
	}
	wg.Wait()
	l.want(fmt.Sprint("121", before[1:]), "alice", "look", "")
}

// A view that fails harms nobody.
func TestFailedView(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, views{"read": read,
		"error":  func(page, durable.ReadContext, string) (string, error) { return "", rpc.NotFound.Errorf("no") },
		"panic":  func(page, durable.ReadContext, string) (string, error) { panic("odd") },
		"goexit": func(page, durable.ReadContext, string) (string, error) { runtime.Goexit(); return "", nil },
		"wait": func(_ page, ctx durable.ReadContext, _ string) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		},
	})
	for i, c := range []*client.Client{l.far, l.near} {
		for method, code := range map[string]rpc.Code{
			"error": rpc.NotFound, "panic": rpc.Internal, "goexit": rpc.Internal, "wait": rpc.DeadlineExceeded,
		} {
			for range 3 { // the first of all waits for the activation
				_, err := l.method(method).Call(t.Context(), c, fmt.Sprint(method, i), "", rpc.WithTimeout(100*time.Millisecond))
				l.coded(err, code)
			}
			l.want("1", fmt.Sprint(method, i), "add", "1")
			l.want("1", fmt.Sprint(method, i), "read", "")
		}
	}
}

// Views run while a turn does, beside each other, and see what is stored.
func TestViewBesideATurn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	inTurn, inView := l.barrier(), l.barrier()
	l.serve(durable.Config{}, turns{
		"add": func(p *page, ctx durable.Context, by string) (string, error) {
			result, err := add(p, ctx, by)
			inTurn.pass()
			return result, err
		},
	}, views{"read": func(p page, ctx durable.ReadContext, param string) (string, error) {
		inView.pass()
		return read(p, ctx, param)
	}})
	l.want("1", "alice", "add", "1")
	inTurn.shut.Store(true)
	adding := l.begin("alice", "add", "1", rpc.WithTimeout(labPatience))
	l.reached("the turn", inTurn.arrived)
	l.want("1", "alice", "read", "")
	inView.shut.Store(true)
	var viewing []<-chan answer
	for range 10 {
		viewing = append(viewing, l.begin("alice", "read", "", rpc.WithTimeout(labPatience)))
	}
	for range viewing {
		l.reached("all views at once", inView.arrived)
	}
	inTurn.release()
	if a := l.end(adding); a.err != nil || a.result != "2" { // views hold no turn up
		t.Fatalf("%+v", a)
	}
	inView.release()
	for _, c := range viewing {
		if a := l.end(c); a.err != nil || a.result != "1" { // what they began with
			t.Errorf("%+v", a)
		}
	}
	l.want("2", "alice", "read", "")
}

// A view never sees what is older than something it has been told of: neither
// the turn's own caller nor anybody it tells.
func TestViewSeesWhatWasAnswered(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add}, views{"read": read})
	var told atomic.Int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				least := told.Load()
				got, err := l.call("hot", "read", "")
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				var n int64
				if fmt.Sscan(got, &n); n < least {
					t.Errorf("read %d when %d had been answered", n, least)
				}
			}
		})
	}
	var adding sync.WaitGroup
	for range 8 {
		adding.Go(func() {
			for range 50 {
				got, err := l.call("hot", "add", "1")
				if err != nil {
					t.Errorf("add: %v", err)
					return
				}
				var n int64
				fmt.Sscan(got, &n)
				for old := told.Load(); n > old && !told.CompareAndSwap(old, n); old = told.Load() {
				}
			}
		})
	}
	adding.Wait()
	close(done)
	wg.Wait()
	l.want("400", "hot", "read", "")
}

// A view sees what is stored and nothing else, be the state copied or decoded.
func TestViewSeesNoUnstoredFields(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	svc := server.New(l.bus, "secrets", server.Config{})
	look := rpc.NewObjectMethod[rpc.None, string]("secret.look")
	set := rpc.NewObjectMethod[rpc.None, string]("secret.set")
	secrets := durable.Serve[secret](svc, "secret", durable.Config{})
	durable.Handle(secrets, set, func(s *secret, _ durable.Context, _ rpc.None) (string, error) {
		s.Stored++
		s.Skipped++
		s.unexported++
		return s.show(), nil
	})
	durable.View(secrets, look, func(s secret, _ durable.ReadContext, _ rpc.None) (string, error) { return s.show(), nil })
	run(t, svc)
	for i := 1; i <= 2; i++ {
		if got, err := set.Call(t.Context(), l.far, "x", rpc.None{}); err != nil || got != fmt.Sprint(i, i, i) {
			t.Errorf("the turn saw %s, %v", got, err)
		}
		if got, err := look.Call(t.Context(), l.far, "x", rpc.None{}); err != nil || got != fmt.Sprint(i, 0, 0) {
			t.Errorf("the view saw %s, %v", got, err)
		}
	}
}

type secret struct {
	Stored     int
	Skipped    int `json:"-"`
	unexported int
}

func (s secret) show() string { return fmt.Sprint(s.Stored, s.Skipped, s.unexported) }
