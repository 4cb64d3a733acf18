package durable

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

// idle waits until the instance has nothing to do any more and has sent all that
// it had to say.
func (i *boxInstance) idle() {
	x := i.boxes
	x.Helper()
	x.until("the old owner to end its calls", func() bool { return i.class.calls.Load() == 0 })
	for _, b := range []*bus.Bus{i.bus, x.bus} {
		if err := b.Conn().FlushTimeout(boxPatience); err != nil {
			x.Fatal(err)
		}
	}
}

// lateCommit has an owner cut off when it commits, until others have taken over
// and gone on; then what it has sent arrives, or it goes on. It returns how what
// is stored disagrees.
func (x *boxes) lateCommit(sent, unfenced bool) error {
	x.Helper()
	v := newValve(x.T, x.server)
	cfg := shortLease
	cfg.unfenced = unfenced
	stuck, release, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	old := x.instance(v.behind())
	faulty := cfg
	commits := 0
	faulty.faults = func(point string) { // of one object: one after the other
		if point != "commit" {
			return
		}
		if commits++; commits == 4 {
			v.shut()
			close(stuck)
			if !sent {
				<-release
			}
		}
	}
	old.ended = sync.OnceFunc(func() { close(release) })
	old.serve(faulty)
	callers := x.callFull(1, 2, 5, over)
	x.reached("a commit", stuck)
	x.serve(cfg)
	_, err := look(x, "o0", func(s box, _ ReadContext) (int, error) {
		if s.N < 7 {
			return 0, rpc.Unavailable.Errorf("not yet").NotExecuted()
		}
		return s.N, nil
	})
	close(over)
	turns, told := callers()
	v.reopen()
	old.ended()
	old.idle()
	return errors.Join(err, told, x.agreed(turns))
}

// An owner that was paused until its lease had ended, or whose commit was on the
// way for so long, changes nothing any more.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	for _, sent := range []bool{false, true} {
		t.Run(fmt.Sprint("sent ", sent), func(t *testing.T) {
			t.Parallel()
			if err := mortal(t).lateCommit(sent, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// A commit that is on the way when another owner takes over is refused, though
// that owner has only read: what it reads stays true.
func TestLateCommitAfterARead(t *testing.T) {
	t.Parallel()
	x := mortal(t)
	v := newValve(x.T, x.server)
	cfg := shortLease
	stuck := make(chan struct{})
	commits := 0
	cfg.faults = func(point string) {
		if point == "commit" {
			if commits++; commits == 4 {
				v.shut()
				close(stuck)
			}
		}
	}
	old := x.instance(v.behind())
	old.serve(cfg)
	number := x.prepare(full)
	for range 3 {
		if _, err := prepared[int](x, "a", number); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody waits for the fourth, so nobody asks again.
	if err := x.bus.Conn().PublishRequest(bus.ObjectSubject("box", "a", "turn"), x.bus.Conn().NewRespInbox(), fmt.Append(nil, number)); err != nil {
		t.Fatal(err)
	}
	x.reached("a commit", stuck)
	x.serve(shortLease)
	current := func(s box, _ ReadContext) (int, error) { return s.N, nil }
	if n, err := look(x, "a", current); n != 3 || err != nil {
		t.Errorf("before: %d, %v", n, err)
	}
	v.reopen()
	old.idle()
	if err := x.agreed(map[string]int{"a": 3}); err != nil {
		t.Error(err)
	}
}

// readTooEarly has a commit of an earlier owner arrive when the next one has read
// the object and not proved yet that it is current. It returns what a view and
// then a turn, which adds one, see: the commit made one into two.
func (x *boxes) readTooEarly(forced, unfenced bool) (viewed, counted int) {
	x.Helper()
	count := x.prepare(func(s *box, _ Context) (any, error) { s.N++; return s.N, nil })
	first := x.serve(shortLease)
	if n, err := prepared[int](x, "a", count); n != 1 || err != nil {
		x.Fatalf("turn: %d, %v", n, err)
	}
	if forced {
		first.kill()
	} else {
		first.stop()
	}
	cfg := shortLease
	cfg.unfenced = unfenced
	late := x.open()
	cfg.faults = func(point string) {
		if point != "activation" {
			return
		}
		last := x.last("a")
		if string(last.Data) != `{"n":1}` {
			return
		}
		rec := readRecord(last)
		rec.count++
		if _, err := late.Write(x.Context(), journal.Message{Key: "a", Header: rec.header(rec.rev), Data: []byte(`{"n":2}`)}); err != nil {
			x.Errorf("late commit: %v", err)
		}
	}
	x.serve(cfg)
	viewed, err := look(x, "a", func(s box, _ ReadContext) (int, error) { return s.N, nil })
	if err != nil {
		x.Fatal(err)
	}
	counted, err = prepared[int](x, "a", count)
	if err != nil {
		x.Fatal(err)
	}
	return viewed, counted
}

// What an owner has read of an object counts only if it is the latest, however
// the owner came to it.
func TestLateCommitDuringActivation(t *testing.T) {
	t.Parallel()
	for name, forced := range map[string]bool{"handed over": false, "taken by force": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if viewed, counted := mortal(t).readTooEarly(forced, false); viewed != 2 || counted != 3 {
				t.Errorf("a view sees %d, then a turn makes it %d, want 2 and 3", viewed, counted)
			}
		})
	}
}

// lateAnswers has an owner cut off while it serves calls, until another has taken
// over and changed the object; then it goes on. It returns the calls to which the
// old owner gave an answer that it had no right to give.
func (x *boxes) lateAnswers(unfenced bool) (wrong []string) {
	x.Helper()
	v := newValve(x.T, x.server)
	cfg := shortLease
	cfg.unfenced = unfenced
	release := make(chan struct{})
	old := x.instance(v.behind())
	old.ended = sync.OnceFunc(func() { close(release) })
	const calls = 5
	stuck := make(chan struct{}, calls)
	wait := func() { stuck <- struct{}{}; <-release }
	faulty := cfg
	faulty.faults = func(point string) {
		if point == "committed" {
			wait()
		}
	}
	old.serve(faulty)

	turn := func(fn func(s *box, ctx Context) (any, error)) int { return x.prepare(fn) }
	view := func(fn func(s box, ctx ReadContext) (any, error)) int {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.views = append(x.views, fn)
		return len(x.views) - 1
	}
	answers := map[string]*nats.Subscription{}
	for name, number := range map[string]int{
		"turn":         turn(func(s *box, _ Context) (any, error) { s.N = 1; return s.N, nil }), // waits when it is stored
		"reading turn": turn(func(s *box, _ Context) (any, error) { wait(); return s.N, nil }),
		"failing turn": turn(func(s *box, _ Context) (any, error) { wait(); return nil, rpc.NotFound.Errorf("nothing is in it") }),
		"view":         view(func(s box, _ ReadContext) (any, error) { wait(); return s.N, nil }),
		"failing view": view(func(s box, _ ReadContext) (any, error) { wait(); return nil, rpc.NotFound.Errorf("nothing is in it") }),
	} {
		method := "turn"
		if name == "view" || name == "failing view" {
			method = "view"
		}
		sub, err := x.bus.Conn().SubscribeSync(x.bus.Conn().NewRespInbox())
		if err != nil {
			x.Fatal(err)
		}
		x.Cleanup(func() { _ = sub.Unsubscribe() })
		answers[name] = sub
		if err := x.bus.Conn().PublishRequest(bus.ObjectSubject("box", name, method), sub.Subject, fmt.Append(nil, number)); err != nil {
			x.Fatal(err)
		}
	}
	for range calls {
		x.reached("a call", stuck)
	}
	v.shut()
	x.serve(cfg)
	for name := range answers {
		x.do(name, func(s *box, _ Context) error { s.N += 100; return nil })
	}
	old.ended()
	x.until("the old owner to end its calls", func() bool { return old.class.calls.Load() == 0 })
	v.reopen()
	old.idle()
	for name, sub := range answers {
		msg, err := sub.NextMsg(boxPatience)
		if err != nil {
			x.Fatalf("%s: %v", name, err)
		}
		if err := bus.DecodeError(msg); err == nil || err.Code != rpc.Unavailable {
			wrong = append(wrong, fmt.Sprintf("%s: %s %v", name, msg.Data, msg.Header))
		}
	}
	return wrong
}

// An owner whose lease has ended while it served a call does not answer it, be it
// with a result or with an error that depends on the state.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	if wrong := mortal(t).lateAnswers(false); len(wrong) > 0 {
		t.Errorf("answers of an owner that is none: %q", wrong)
	}
}

// Without the fence the same goes wrong, and these tests notice.
func TestWithoutFence(t *testing.T) {
	t.Parallel()
	for _, sent := range []bool{false, true} {
		t.Run(fmt.Sprint("late commit, sent ", sent), func(t *testing.T) {
			t.Parallel()
			if err := mortal(t).lateCommit(sent, true); err == nil {
				t.Error("a late commit did no harm")
			} else {
				t.Log(err)
			}
		})
	}
	t.Run("late commit during activation", func(t *testing.T) {
		t.Parallel()
		if viewed, _ := mortal(t).readTooEarly(false, true); viewed != 1 {
			t.Errorf("a view sees %d, want 1, which is old", viewed)
		}
	})
	t.Run("late answer", func(t *testing.T) {
		t.Parallel()
		if wrong := mortal(t).lateAnswers(true); len(wrong) != 5 {
			t.Errorf("of 5 late answers, these were wrong: %q", wrong)
		}
	})
}
