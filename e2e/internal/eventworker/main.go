// Command eventworker is the process that the end-to-end tests of events start,
// stop and kill: one instance of a service with the handlers that it is told to
// have. It prints "ready" when it serves.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/e2e/internal/eventwork"
	"rpc.do/e2e/internal/linear"
	"rpc.do/pipeline"
	"rpc.do/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "eventworker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	url := flag.String("server", bus.DefaultURL, "the bus")
	name := flag.String("service", "items", "name of the service")
	id := flag.String("id", "eventworker", "what the instance calls itself")
	path := flag.String("journal", "journal", "file to note attempts in")
	var handlers []eventwork.Handler
	flag.Func("handle", "a handler, as JSON; may be given several times", func(text string) error {
		var h eventwork.Handler
		if err := json.Unmarshal([]byte(text), &h); err != nil {
			return err
		}
		handlers = append(handlers, h)
		return nil
	})
	flag.Parse()

	journal, err := eventwork.OpenJournal(*path)
	if err != nil {
		return err
	}
	log := zerolog.New(os.Stderr).Level(zerolog.ErrorLevel).With().Timestamp().Logger()
	b, err := bus.Connect(ctx, bus.Config{URLs: strings.Split(*url, ","), Name: *id, Logger: &log})
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := b.Close(); err == nil {
			err = closeErr
		}
	}()
	svc := server.New(b, *name, server.Config{Version: "1.0.0", DrainTimeout: 15 * time.Second})
	for _, h := range handlers {
		register(svc, &worker{h: h, journal: journal, events: pipeline.New(b, pipeline.Config{})})
	}
	served := make(chan error, 1)
	go func() { served <- svc.Run(ctx) }()
	select {
	case err := <-served:
		return err
	case <-svc.Ready():
	}
	say("ready")
	return <-served
}

// say prints one line in one write.
func say(format string, args ...any) {
	if _, err := fmt.Fprintf(os.Stdout, format+"\n", args...); err != nil {
		os.Exit(1) // the test that reads the lines is gone
	}
}

// worker is one handler.
type worker struct {
	h       eventwork.Handler
	journal *eventwork.Journal
	events  *pipeline.Pipeline
}

// timeout is that of an attempt: also how it tells when it began.
const timeout = time.Minute

func register(svc *server.Service, w *worker) {
	opts := []pipeline.HandlerOption{pipeline.From(pipeline.StartAll()), pipeline.Timeout(timeout)}
	if w.h.Concurrency > 0 {
		opts = append(opts, pipeline.Concurrency(w.h.Concurrency))
	}
	if w.h.Attempts > 0 {
		opts = append(opts, pipeline.Attempts(w.h.Attempts))
	}
	if w.h.Backoff > 0 {
		opts = append(opts, pipeline.Backoff(w.h.Backoff))
	}
	if w.h.Ordered {
		opts = append(opts, pipeline.OrderBy(func(e pipeline.RawEvent) string { return item(e).Key }))
	}
	pattern := w.h.Pattern
	if pattern == "" {
		pattern = eventwork.Added.Name()
	}
	pipeline.OnPattern(svc, pattern, w.h.Name, w.handle, opts...)
}

// item reads an item; what foreign events have is none.
func item(e pipeline.RawEvent) eventwork.Item {
	var i eventwork.Item
	if json.Unmarshal(e.Data, &i) != nil {
		return eventwork.Item{N: -1}
	}
	return i
}

var errByChance = errors.New("failed by chance")

func (w *worker) handle(ctx context.Context, e pipeline.RawEvent) error {
	deadline, _ := ctx.Deadline()
	// The process may have been stopped since the attempt began. (In this order
	// what comes between makes it a little later, never earlier.)
	since := timeout - time.Until(deadline)
	began := linear.Now() - int64(since)
	i := item(e)
	run, err := w.journal.Begin(eventwork.Attempt{
		Handler: w.h.Name, Sequence: e.Sequence, N: i.N, Number: e.Attempt, Again: e.Again, Key: i.Key, Begin: began,
	})
	if err != nil {
		return rpc.Terminal(err) // the test sees that the event is missing
	}
	err = w.work(ctx, e, i)
	if noted := w.journal.End(run, err == nil); noted != nil {
		return rpc.Terminal(noted)
	}
	return err
}

func (w *worker) work(ctx context.Context, e pipeline.RawEvent, i eventwork.Item) error {
	chance := rand.New(rand.NewPCG(w.h.Seed^uint64(i.N), uint64(e.Attempt)))
	took := w.h.Takes + time.Duration(i.Ms)*time.Millisecond
	if w.h.Work > 0 {
		took += time.Duration(chance.Int64N(int64(w.h.Work)))
	}
	if took > 0 {
		select {
		case <-time.After(took):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch {
	case i.Deadly:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case i.Bad && !w.h.Fixed:
		return errors.New(eventwork.BadError)
	case chance.Float64() < w.h.Fails:
		return errByChance
	case w.h.Show:
		text, err := json.Marshal(e)
		if err != nil {
			return err
		}
		say("event %s %s", w.h.Name, text)
	case w.h.Echo:
		_, err := w.events.Send(ctx, e.Type, i)
		return err
	}
	return nil
}
