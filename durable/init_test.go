package durable_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable"
	"rpc.do/server"
)

// initialised serves pages that begin with fn.
func (l *lab) initialised(cfg durable.Config, fn func(*page, durable.Context) error, ts turns, vs views) (stop func()) {
	l.Helper()
	svc := server.New(l.bus, "pages", server.Config{})
	pages := durable.Serve[page](svc, "page", cfg)
	l.methods(pages, ts, vs)
	durable.OnInit(pages, fn)
	return run(l.T, svc)
}

// What begins an object runs before anything else, once, and what it changes of
// the state is stored.
func TestOnInit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hold := l.barrier()
	hold.shut.Store(true)
	var begun atomic.Int32
	stop := l.initialised(durable.Config{}, func(p *page, ctx durable.Context) error {
		begun.Add(1)
		hold.pass()
		p.Lines = append(p.Lines, "begun "+ctx.ID())
		return nil
	}, turns{"add": add, "lines": func(p *page, _ durable.Context, _ string) (string, error) {
		return fmt.Sprintf("%q", p.Lines), nil
	}}, views{"read": read, "view": func(p page, _ durable.ReadContext, _ string) (string, error) {
		return fmt.Sprintf("%q", p.Lines), nil
	}})
	const want = `["begun alice"]`
	var waiting []<-chan answer
	for range 5 {
		waiting = append(waiting, l.begin("alice", "lines", ""), l.begin("alice", "view", ""))
	}
	l.reached("OnInit", hold.arrived)
	for i, c := range waiting {
		select {
		case a := <-c:
			t.Errorf("call %d was answered before the object had begun: %+v", i, a)
		default:
		}
	}
	hold.release()
	for _, c := range waiting {
		if a := l.end(c); a.err != nil || a.result != want {
			t.Errorf("%+v, want %s", a, want)
		}
	}
	if n := begun.Load(); n != 1 {
		t.Errorf("OnInit ran %d times", n)
	}
	if got := l.stored("alice"); got != `{"value":0,"lines":["begun alice"]}` {
		t.Errorf("stored %s", got)
	}
	l.want("1", "alice", "add", "1")
	stop()
	l.initialised(durable.Config{}, func(p *page, _ durable.Context) error {
		if len(p.Lines) != 1 {
			t.Errorf("OnInit of the next activation sees %q", p.Lines)
		}
		begun.Add(1)
		return nil
	}, nil, views{"read": read})
	before := l.last()
	l.want("1", "alice", "read", "")
	l.want("1", "alice", "read", "")
	if n := begun.Load(); n != 2 {
		t.Errorf("OnInit ran %d times, want once more", n)
	}
	if n := l.last() - before; n != 1 { // that proves the record to be current
		t.Errorf("%d messages were written for an activation that changes nothing", n)
	}
}

// While an object can't begin its calls fail, say why, and try it again.
func TestOnInitFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fail func(p *page) error
		text string
	}{
		"error":   {func(*page) error { return rpc.OutOfRange.Errorf("the moon is full") }, "the moon is full"},
		"uncoded": {func(*page) error { return errors.New("secret") }, "log"},
		"panic":   {func(*page) error { panic("secret") }, "OnInit"},
		"goexit":  {func(*page) error { runtime.Goexit(); return nil }, "log"},
		"state":   {func(p *page) error { p.Odd = 13; return nil }, "log"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			var tries atomic.Int32
			var healthy atomic.Bool
			l.initialised(durable.Config{}, func(p *page, _ durable.Context) error {
				tries.Add(1)
				p.Value = 10
				if !healthy.Load() {
					return test.fail(p)
				}
				return nil
			}, turns{"add": add}, views{"read": read})
			for i, method := range []string{"add", "read", "add"} {
				_, err := l.request(bus.ObjectSubject("page", "alice", method), `"1"`)
				e := l.coded(err, rpc.Unavailable, "alice", test.text)
				if !e.Retryable || e.RetryAfter <= 0 || strings.Contains(e.Message, "secret") {
					t.Errorf("the error is %+v", e)
				}
				if n := tries.Load(); n != int32(i+1) {
					t.Errorf("OnInit was tried %d times for %d calls", n, i+1)
				}
			}
			if got := l.stored("alice"); got != "" {
				t.Errorf("stored %s", got)
			}
			patient := l.begin("alice", "add", "1", rpc.WithTimeout(labPatience))
			l.until("it is tried again", func() bool { return tries.Load() > 3 })
			healthy.Store(true)
			if a := l.end(patient); a.err != nil || a.result != "11" {
				t.Errorf("the call that waited: %+v", a)
			}
		})
	}
}

// An OnInit that can't succeed by being tried again says so.
func TestOnInitRefuses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.initialised(durable.Config{}, func(*page, durable.Context) error {
		return rpc.FailedPrecondition.Errorf("the moon is full")
	}, turns{"add": add}, views{"read": read})
	for _, method := range []string{"add", "read"} {
		a := l.end(l.begin("alice", method, "1", rpc.WithTimeout(labPatience)))
		l.coded(a.err, rpc.FailedPrecondition, "the moon is full")
		if a.took > labPatience/2 {
			t.Errorf("%s took %v", method, a.took)
		}
	}
}

// What OnInit sets up beside the stored state is there again after a turn that
// failed, since the state is read anew then.
func TestOnInitAfterAFailedTurn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	svc := server.New(l.bus, "secrets", server.Config{})
	secrets := durable.Serve[secret](svc, "secret", durable.Config{})
	durable.OnInit(secrets, func(s *secret, _ durable.Context) error { s.unexported = 7; return nil })
	next := rpc.NewObjectMethod[bool, string]("secret.next")
	durable.Handle(secrets, next, func(s *secret, _ durable.Context, fail bool) (string, error) {
		s.Stored++
		if s.unexported++; fail {
			return "", rpc.Aborted.Errorf("not now")
		}
		return s.show(), nil
	})
	run(t, svc)
	for i, step := range []struct {
		fail bool
		want string
	}{{false, "1 0 8"}, {false, "2 0 9"}, {true, ""}, {false, "3 0 8"}} {
		got, err := next.Call(t.Context(), l.far, "x", step.fail)
		if got != step.want || (err != nil) != step.fail {
			t.Errorf("step %d: %q, %v; want %q", i, got, err, step.want)
		}
	}
}

// States of earlier versions go through all steps; what can't be brought to the
// version of the class is left alone, and says so.
func TestMigrate(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	type step = func(json.RawMessage) (json.RawMessage, error)
	var migrated sync.Map // what the steps got
	note := func(from int, next step) step {
		return func(state json.RawMessage) (json.RawMessage, error) {
			migrated.Store(from, string(state))
			return next(state)
		}
	}
	serve := func(schema int, steps map[int]step) (stop func()) {
		svc := server.New(l.bus, "pages", server.Config{})
		pages := durable.Serve[page](svc, "page", durable.Config{Schema: schema})
		l.methods(pages, turns{"add": add}, views{"read": read})
		for from, fn := range steps {
			durable.Migrate(pages, from, note(from, fn))
		}
		return run(l.T, svc)
	}
	double := func(state json.RawMessage) (json.RawMessage, error) {
		var v map[string]int
		err := json.Unmarshal(state, &v)
		for i := range state {
			state[i] = 'x' // it is the function's own
		}
		return fmt.Appendf(nil, `{"value":%d}`, 2*v["value"]), err
	}
	stop := serve(0, nil)
	l.want("5", "alice", "add", "5")
	l.want("6", "bob", "add", "6")
	stop()

	stop = serve(2, map[int]step{1: double})
	_, err := l.request(bus.ObjectSubject("page", "alice", "read"), `""`)
	l.coded(err, rpc.FailedPrecondition, "alice", "schema version 0", "no Migrate from version 0")
	l.want("1", "new", "add", "1") // has no earlier state
	stop()

	for name, broken := range map[string]step{
		"fails":           func(json.RawMessage) (json.RawMessage, error) { return nil, errors.New("secret") },
		"panics":          func(json.RawMessage) (json.RawMessage, error) { panic("secret") },
		"ends":            func(json.RawMessage) (json.RawMessage, error) { runtime.Goexit(); return nil, nil },
		"returns nothing": func(json.RawMessage) (json.RawMessage, error) { return nil, nil },
		"returns rubbish": func(json.RawMessage) (json.RawMessage, error) { return json.RawMessage(`{"value":"x"}`), nil },
	} {
		stop = serve(2, map[int]step{0: double, 1: broken})
		_, err := l.request(bus.ObjectSubject("page", "alice", "read"), `""`)
		if err == nil || strings.Contains(err.Message, "secret") || !strings.Contains(err.Message, "alice") {
			t.Errorf("a step %s: %v", name, err)
		}
		stop()
		if got := l.stored("alice"); got != `{"value":5}` {
			t.Fatalf("stored after a step that %s: %s", name, got)
		}
	}

	stop = serve(2, map[int]step{0: double, 1: double})
	migrated.Clear()
	l.want("20", "alice", "read", "")
	if got := l.stored("alice"); got != `{"value":5}` {
		t.Errorf("stored before the first change: %s", got)
	}
	l.want("21", "alice", "add", "1")
	if got := l.stored("alice"); got != `{"value":21}` {
		t.Errorf("stored: %s", got)
	}
	for from, want := range map[int]string{0: `{"value":5}`, 1: `{"value":10}`} {
		if got, _ := migrated.Load(from); got != want {
			t.Errorf("step %d got %v, want %s", from, got, want)
		}
	}
	l.want("1", "new", "read", "")
	stop()

	migrated.Clear()
	stop = serve(2, map[int]step{0: double, 1: double})
	l.want("21", "alice", "read", "") // has the version now
	if _, again := migrated.Load(0); again {
		t.Error("a state that has the version was migrated")
	}
	stop()

	serve(1, map[int]step{0: double}) // an instance that is older
	_, err = l.request(bus.ObjectSubject("page", "alice", "add"), `"1"`)
	if e := l.coded(err, rpc.Unavailable, "alice", "version 2", "up to 1", "newer"); !e.Retryable || e.RetryAfter < 10*time.Millisecond {
		t.Errorf("%+v", e)
	}
	l.want("12", "bob", "read", "")
	if got := l.stored("alice"); got != `{"value":21}` {
		t.Errorf("stored: %s", got)
	}
}
