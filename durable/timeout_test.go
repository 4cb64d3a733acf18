package durable_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/durable"
)

// labLog collects what a class logs.
type labLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *labLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// has reports whether a line has all of texts.
func (l *labLog) has(texts ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
lines:
	for line := range strings.Lines(l.text.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		return true
	}
	return false
}

func (l *labLog) logger() *zerolog.Logger {
	logger := zerolog.New(l)
	return &logger
}

// The turn's own limit ends its context, and the turn that heeds it.
func TestTurnTimeout(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var log labLog
	ended := make(chan error, 1)
	l.serve(durable.Config{TurnTimeout: 50 * time.Millisecond, Logger: log.logger()}, turns{
		"add": add,
		"wait": func(p *page, ctx durable.Context, _ string) (string, error) {
			p.Value = 99
			<-ctx.Done()
			ended <- ctx.Err()
			return "", ctx.Err()
		},
	}, views{"read": read})
	l.want("1", "alice", "add", "1")
	for _, c := range []*client.Client{l.far, l.near} {
		start := time.Now()
		_, err := l.method("wait").Call(t.Context(), c, "alice", "", rpc.WithTimeout(labPatience))
		l.coded(err, rpc.DeadlineExceeded, "page.wait", "alice", "50ms", "nothing was changed")
		if took := time.Since(start); took < 50*time.Millisecond || took > labPatience/2 {
			t.Errorf("took %v", took)
		}
		if err := <-ended; err != context.DeadlineExceeded {
			t.Errorf("the context ended with %v", err)
		}
		l.want("1", "alice", "read", "")
	}
	l.want("2", "alice", "add", "1", rpc.WithTimeout(labPatience))
	if !log.has(`"level":"error"`, "alice", "wait", "time limit") {
		t.Errorf("the log does not tell: %s", log.text.String())
	}
}

// A turn that ignores its limit keeps its object from others until it ends, and
// can't commit then.
func TestTurnIgnoresItsTimeout(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hold := l.barrier()
	hold.shut.Store(true)
	var log labLog
	var tries atomic.Int32
	l.serve(durable.Config{TurnTimeout: 100 * time.Millisecond, Logger: log.logger()}, turns{
		"add": func(p *page, ctx durable.Context, by string) (string, error) {
			tries.Add(1)
			return add(p, ctx, by)
		},
		"ignore": func(p *page, ctx durable.Context, _ string) (string, error) {
			p.Value = 99
			hold.pass()
			return "late", nil
		},
	}, views{"read": read})
	l.want("1", "alice", "add", "1")
	before := l.last()
	ignoring := l.begin("alice", "ignore", "", rpc.WithTimeout(labPatience))
	l.reached("the turn", hold.arrived)
	type refusal struct {
		err  *rpc.Error
		took time.Duration
	}
	refusals := make(chan refusal, 3)
	begun := time.Now()
	for range cap(refusals) { // wait in the mailbox when the limit is over
		go func() {
			_, err := l.request(bus.ObjectSubject("page", "alice", "add"), `"1"`)
			refusals <- refusal{err, time.Since(begun)}
		}()
	}
	a := l.end(ignoring)
	l.coded(a.err, rpc.DeadlineExceeded, "100ms", "nothing was changed")
	for range cap(refusals) {
		r := <-refusals
		e := l.coded(r.err, rpc.Unavailable, "alice", "stuck", "100ms")
		if !e.Retryable || e.RetryAfter <= 0 {
			t.Errorf("the refusal does not say to come back: %+v", e)
		}
		if r.took > labPatience/2 {
			t.Errorf("refused after %v", r.took)
		}
	}
	if _, err := l.request(bus.ObjectSubject("page", "alice", "add"), `"1"`); err == nil || err.Code != rpc.Unavailable || !err.Retryable {
		t.Errorf("a turn of the stuck object: %v", err)
	}
	l.want("1", "alice", "read", "") // views go on
	l.want("1", "bob", "add", "1")   // and so do other objects
	patient := l.begin("alice", "add", "1", rpc.WithTimeout(labPatience))
	if !log.has(`"level":"error"`, "alice", "ignore", "time limit") {
		t.Errorf("the log does not tell: %s", log.text.String())
	}
	if n := tries.Load(); n != 2 { // alice's first and bob's
		t.Errorf("%d turns ran, want 2", n)
	}
	hold.release()
	if a := l.end(patient); a.err != nil || a.result != "2" {
		t.Errorf("the call that could wait: %+v", a)
	}
	l.want("2", "alice", "read", "")
	if got := l.stored("alice"); got != `{"value":2}` {
		t.Errorf("stored: %s", got)
	}
	if n := l.last() - before; n != 3 { // bob's fence and commit, alice's commit
		t.Errorf("%d messages were written, want 3", n)
	}
}

// The caller's deadline and the caller's change of mind end the context too.
// What a turn does nevertheless within its own limit counts.
func TestCallerStopsWaiting(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	begun, ended := make(chan struct{}, 1), make(chan error, 1)
	l.serve(durable.Config{}, turns{
		"heed": func(p *page, ctx durable.Context, _ string) (string, error) {
			p.Value = 99
			begun <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			return "", ctx.Err()
		},
		"ignore": func(p *page, ctx durable.Context, _ string) (string, error) {
			p.Value++
			begun <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			return "", nil
		},
	}, views{"read": read})
	for name, c := range map[string]*client.Client{"bus": l.far, "shortcut": l.near} {
		for method, want := range map[string]string{"heed": "0", "ignore": "1"} {
			id := name + " deadline " + method
			_, err := l.method(method).Call(t.Context(), c, id, "", rpc.WithTimeout(50*time.Millisecond))
			if method == "heed" || err != nil { // the other may answer just in time
				l.coded(err, rpc.DeadlineExceeded)
			}
			<-begun
			if err := <-ended; err != context.DeadlineExceeded {
				t.Errorf("%s: the context ended with %v", id, err)
			}
			l.until(id, func() bool { got, err := l.call(id, "read", ""); return err == nil && got == want })

			id = name + " cancel " + method
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := l.method(method).Call(ctx, c, id, "", rpc.WithTimeout(labPatience))
				done <- err
			}()
			l.reached("the turn", begun)
			cancel()
			if err := <-done; method == "heed" || err != nil {
				l.coded(err, rpc.Canceled)
			}
			if err := <-ended; err != context.Canceled {
				t.Errorf("%s: the context ended with %v", id, err)
			}
			l.until(id, func() bool { got, err := l.call(id, "read", ""); return err == nil && got == want })
		}
	}
}

// A call whose time is over while it waits for the object is not run.
func TestCallExpiresInTheMailbox(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hold := l.barrier()
	hold.shut.Store(true)
	l.serve(durable.Config{}, turns{"add": add, "block": func(*page, durable.Context, string) (string, error) {
		hold.pass()
		return "", nil
	}}, views{"read": read})
	blocking := l.begin("alice", "block", "", rpc.WithTimeout(labPatience))
	l.reached("the turn", hold.arrived)
	for _, c := range []*client.Client{l.far, l.near} {
		_, err := l.method("add").Call(t.Context(), c, "alice", "1", rpc.WithTimeout(50*time.Millisecond))
		l.coded(err, rpc.DeadlineExceeded)
	}
	_, err := l.request(bus.ObjectSubject("page", "alice", "add"), `"1"`, "Rpc-Timeout", "50")
	l.coded(err, rpc.DeadlineExceeded, "page.add")
	_, err = l.request(bus.ObjectSubject("page", "alice", "add"), `"1"`, "Rpc-Timeout", "0")
	l.coded(err, rpc.DeadlineExceeded)
	hold.release()
	l.end(blocking)
	l.want("10", "alice", "add", "10")
}
