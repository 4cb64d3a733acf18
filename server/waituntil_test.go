package server_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

var mailSend = rpc.NewMethod[string, string]("mail.send")

// mail is a service whose one handler leaves work behind.
func mail(t *testing.T, cfg server.Config, handler func(ctx context.Context, p string) (string, error)) (*server.Service, *client.Client, *logbook) {
	t.Helper()
	log := newLogbook()
	srv := bustest.Server(t)
	svc := server.New(bustest.Connect(t, srv, log.option(zerolog.InfoLevel)), "mail", cfg)
	server.Handle(svc, mailSend, handler)
	return svc, client.New(bustest.Connect(t, srv), client.Config{MaxAttempts: 1}), log
}

func TestWaitUntilGoesOnAfterTheReply(t *testing.T) {
	t.Parallel()
	replied := make(chan struct{})
	done := make(chan error, 1)
	svc, c, _ := mail(t, server.Config{}, func(ctx context.Context, p string) (string, error) {
		ctx = context.WithValue(ctx, userKey{}, "alice")
		server.WaitUntil(ctx, func(work context.Context) error {
			<-replied
			if ctx.Err() == nil { // the call's own context ends with it
				<-ctx.Done()
			}
			info, ok := rpc.CallInfoFrom(work)
			_, bounded := work.Deadline()
			switch {
			case work.Err() != nil:
				done <- errors.New("the work's context has ended")
			case bounded:
				done <- errors.New("the work's context has a deadline")
			case work.Value(userKey{}) != "alice":
				done <- errors.New("the work's context lacks the call's values")
			case !ok || info.ID != "id-1" || info.Method != "send":
				done <- errors.New("the work's context lacks the call's info")
			default:
				done <- nil
			}
			return nil
		})
		return "sent", nil
	})
	start(t, svc)
	got, err := mailSend.Call(t.Context(), c, "x", rpc.WithID("id-1"), rpc.WithTimeout(time.Second*slowdown))
	if err != nil || got != "sent" {
		t.Fatalf("got %q, %v", got, err)
	}
	close(replied)
	if err := receive(t, "the work", done); err != nil {
		t.Error(err)
	}
}

// The work may leave work behind itself, and may call.
func TestWaitUntilInWaitUntil(t *testing.T) {
	t.Parallel()
	done := make(chan string, 1)
	var c *client.Client
	svc, c, _ := mail(t, server.Config{}, func(ctx context.Context, p string) (string, error) {
		if p == "inner" {
			return "from " + p, nil
		}
		server.WaitUntil(ctx, func(ctx context.Context) error {
			server.WaitUntil(ctx, func(ctx context.Context) error {
				got, err := mailSend.Call(ctx, c, "inner")
				done <- got
				return err
			})
			return nil
		})
		return "sent", nil
	})
	start(t, svc)
	if _, err := mailSend.Call(t.Context(), c, "outer"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, "the inner work", done); got != "from inner" {
		t.Errorf("got %q", got)
	}
}

func TestShutdownWaitsForWaitUntil(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}), make(chan struct{})
	svc, c, _ := mail(t, server.Config{}, func(ctx context.Context, _ string) (string, error) {
		server.WaitUntil(ctx, func(ctx context.Context) error {
			close(begun)
			<-finish
			return ctx.Err()
		})
		return "sent", nil
	})
	stop := run(t, svc)
	if _, err := mailSend.Call(t.Context(), c, ""); err != nil {
		t.Fatal(err)
	}
	receive(t, "the work", begun)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("Run returned %v while work goes on", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	if err := receive(t, "the end of Run", stopped); err != nil {
		t.Error(err)
	}
}

// A failure of the work is the log's, and nobody else's.
func TestWaitUntilFailure(t *testing.T) {
	t.Parallel()
	svc, c, log := mail(t, server.Config{}, func(ctx context.Context, p string) (string, error) {
		server.WaitUntil(ctx, func(context.Context) error {
			switch p {
			case "panic":
				panic(errors.New("the printer burns"))
			case "exit":
				runtime.Goexit()
			}
			return errors.New("no paper")
		})
		return "sent", nil
	})
	start(t, svc)
	for range 3 {
		for _, how := range []string{"panic", "exit", "error"} {
			if got, err := mailSend.Call(t.Context(), c, how, rpc.WithID("id-"+how)); err != nil || got != "sent" {
				t.Errorf("%s: %q, %v", how, got, err)
			}
		}
	}
	failed := log.await(t, "the failure", func(l logLine) bool { return l.has("error", "no paper") })
	if failed["level"] != "warn" || failed["id"] != "id-error" || failed["method"] != "send" {
		t.Errorf("the log line is %v", failed)
	}
	panicked := log.await(t, "the panic", func(l logLine) bool { return l.has("panic", "the printer burns") })
	if panicked["level"] != "error" || panicked["id"] != "id-panic" || !panicked.has("stack", "waituntil_test.go") {
		t.Errorf("the log line is %v", panicked)
	}
	exited := log.await(t, "the end of a goroutine", func(l logLine) bool { return l["id"] == "id-exit" })
	if exited["level"] != "error" {
		t.Errorf("the log line is %v", exited)
	}
}

// When too much goes on already, work runs before the reply.
func TestWaitUntilIsBounded(t *testing.T) {
	t.Parallel()
	const places = 2
	release := make(chan struct{})
	inBackground := make(chan struct{}, places)
	svc, c, log := mail(t, server.Config{Concurrency: places}, func(ctx context.Context, p string) (string, error) {
		inline := true
		server.WaitUntil(ctx, func(context.Context) error {
			switch p {
			case "block":
				inBackground <- struct{}{}
				<-release
			case "panic":
				panic("inline")
			}
			inline = false // read below only when the work has run inline
			return nil
		})
		if p == "inline" && inline {
			return "", rpc.FailedPrecondition.Errorf("the work did not run inline")
		}
		return "sent", nil
	})
	start(t, svc)
	defer close(release)
	for range places {
		if _, err := mailSend.Call(t.Context(), c, "block"); err != nil {
			t.Fatal(err)
		}
		receive(t, "the work", inBackground)
	}
	for _, p := range []string{"inline", "panic", "inline"} {
		if got, err := mailSend.Call(t.Context(), c, p); err != nil || got != "sent" {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	log.await(t, "the panic", func(l logLine) bool { return l["panic"] == "inline" })
}

// A unit test of a handler needs no service.
func TestWaitUntilOutsideACall(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), userKey{}, "bob"))
	cancel()
	ran := false
	server.WaitUntil(ctx, func(ctx context.Context) error {
		ran = ctx.Value(userKey{}) == "bob" && ctx.Err() == nil
		return errors.New("nobody hears this")
	})
	if !ran {
		t.Error("the work did not run before WaitUntil returned, with the values and without the end of its context")
	}
}

// The work's context ends when a shutdown runs out of time, and then only.
func TestWaitUntilAtTheEndOfTheDrainTimeout(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 1)
	cause := make(chan error, 1)
	svc, c, _ := mail(t, server.Config{DrainTimeout: 50 * time.Millisecond}, func(ctx context.Context, _ string) (string, error) {
		server.WaitUntil(ctx, func(ctx context.Context) error {
			begun <- struct{}{}
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return ctx.Err()
		})
		return "sent", nil
	})
	stop := run(t, svc)
	if _, err := mailSend.Call(t.Context(), c, ""); err != nil {
		t.Fatal(err)
	}
	receive(t, "the work", begun)
	begin := time.Now()
	if err := stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if took := time.Since(begin); took < 50*time.Millisecond {
		t.Errorf("the work had %v", took)
	}
	if err := receive(t, "the end of the work's context", cause); err == nil || !strings.Contains(err.Error(), "shut down") {
		t.Errorf("the cause is %v", err)
	}
}

// Work that ignores its context is named in what Run returns.
func TestWaitUntilIgnoresItsContext(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}, 2), make(chan struct{})
	ended := make(chan struct{}, 2)
	svc, c, _ := mail(t, server.Config{DrainTimeout: time.Millisecond}, func(ctx context.Context, _ string) (string, error) {
		server.WaitUntil(ctx, func(context.Context) error {
			begun <- struct{}{}
			<-release
			ended <- struct{}{}
			return nil
		})
		return "sent", nil
	})
	stop := run(t, svc)
	for range 2 {
		if _, err := mailSend.Call(t.Context(), c, ""); err != nil {
			t.Fatal(err)
		}
		receive(t, "the work", begun)
	}
	err := stop()
	if err == nil {
		t.Fatal("Run returned nil")
	}
	contains(t, err.Error(), "0 calls", "2 functions", "WaitUntil")
	close(release)
	receive(t, "the end of the work", ended)
	receive(t, "the end of the work", ended)
}
