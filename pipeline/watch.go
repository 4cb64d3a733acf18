package pipeline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"rpc.do"
	"rpc.do/pipeline/internal/read"
)

// WatchOptions say what a watch shows. The zero value is every event from now on.
type WatchOptions struct {
	// Patterns say which types, as ParsePattern reads them. Defaults to all.
	Patterns []string

	// From says where to begin. To go on after an event that was seen, begin with
	// StartSequence of the sequence after its own. Defaults to StartNew.
	From Start
}

// GapError says that retention has removed events before a watch could show them.
type GapError struct {
	// First and Last are the sequences of what is not there any more. Those of them
	// that the patterns match are missing.
	First, Last uint64
}

// Error says which events are missing.
func (e *GapError) Error() string {
	return fmt.Sprintf("the events %d to %d were removed from the stream before they could be shown", e.First, e.Last)
}

// Unwrap returns the error with its code, DataLoss.
func (e *GapError) Unwrap() error { return rpc.DataLoss.Errorf("%s", e.Error()) }

const (
	// watchBatch is how many events a watch has on their way at most.
	watchBatch = 500

	// watchLook is how often a watch with patterns that is behind looks whether
	// retention has overtaken it.
	watchLook = time.Second
)

// Watch returns the events that match as they are stored, in the order of the
// stream, each once and none left out: also when the connection is lost, or the
// bus restarts, which the watch waits for. StartNew is where the stream ends when
// Watch is called. What can't be read as an event comes with what can be read of
// it.
//
// The sequence ends without an error when ctx does. It holds nothing before it is
// ranged over, and leaves nothing behind when the loop ends. A loop that is slow
// holds up nobody.
//
// Of the errors in it, a *GapError goes before the event that follows the gap,
// and the watch goes on; every other one is the last. It is DataLoss when the
// stream was made anew, so that the sequences begin again.
//
// A gap is found when it is at the start of the watch or at a reconnect; later, at
// once without patterns, and with them when the loop is behind for a second.
//
// Watch fails with InvalidArgument for a pattern that is malformed, and with
// OutOfRange for a sequence that the stream has not reached.
func (p *Pipeline) Watch(ctx context.Context, opts WatchOptions) (iter.Seq2[RawEvent, error], error) {
	patterns, err := parsePatterns(opts.Patterns)
	if err != nil {
		return nil, err
	}
	started, cancel := p.withTimeout(ctx)
	defer cancel()
	after, err := p.startAfter(started, opts.From)
	if err != nil {
		return nil, coded(started, err)
	}
	return func(yield func(RawEvent, error) bool) {
		w := &watch{
			p: p, history: history{p: p, q: Query{Since: opts.From.time}, patterns: patterns},
			reader: read.New(p.bus, after, read.Config{Filters: filters(patterns), Batch: watchBatch, Wait: true}),
		}
		defer w.reader.Close()
		w.run(ctx, yield)
	}, nil
}

// startAfter returns the last sequence before the start.
func (p *Pipeline) startAfter(ctx context.Context, from Start) (uint64, error) {
	info, err := p.look(ctx)
	if err != nil {
		return 0, err
	}
	state := info.State
	switch {
	case from.all:
		return max(state.FirstSeq, 1) - 1, nil
	case from.sequence > state.LastSeq+1:
		return 0, rpc.OutOfRange.Errorf("sequence %d: the stream ends with %d: it was made anew, or the number is of another one", from.sequence, state.LastSeq)
	case from.sequence > 0:
		return from.sequence - 1, nil
	case !from.time.IsZero():
		seq, err := read.SequenceAt(ctx, p.bus, from.time, info)
		return max(seq, 1) - 1, err
	}
	return state.LastSeq, nil
}

// watch is one range over what Watch returns.
type watch struct {
	p       *Pipeline
	history history // what events are asked for
	reader  *read.Reader
	looked  time.Time
	behind  bool // there was more when the last event was delivered
}

func (w *watch) run(ctx context.Context, yield func(RawEvent, error) bool) {
	for try := 1; ctx.Err() == nil; {
		missing, err := w.open(ctx)
		if missing != nil && !yield(RawEvent{}, missing) {
			return
		}
		if err == nil {
			var ended bool
			if ended, err = w.show(ctx, yield, &try); ended {
				return
			}
		}
		w.reader.Close()
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, read.ErrLost) && !read.Temporary(err) {
			yield(RawEvent{}, coded(ctx, err))
			return
		}
		if read.Pause(ctx, try) != nil {
			return
		}
		try++
	}
}

// open makes the consumer, and returns what is missing at its start.
func (w *watch) open(ctx context.Context) (*GapError, error) {
	if err := w.p.bus.WaitConnected(ctx); err != nil {
		return nil, err
	}
	attempt, cancel := context.WithTimeout(ctx, w.p.cfg.Timeout)
	defer cancel()
	info, err := w.p.look(attempt)
	if err != nil {
		return nil, err
	}
	w.looked = time.Now()
	if last := info.State.LastSeq; last < w.reader.Position {
		return nil, rpc.DataLoss.Errorf("the stream ends with %d, and had %d: it was made anew, or has lost events", last, w.reader.Position)
	}
	missing := gap(w.reader.Position, info.State.FirstSeq)
	if missing != nil {
		w.reader.Position = missing.Last
	}
	return missing, w.reader.Open(attempt)
}

// gap returns what was removed after a sequence when the stream begins with first.
func gap(after, first uint64) *GapError {
	if first <= after+1 {
		return nil
	}
	return &GapError{First: after + 1, Last: first - 1}
}

// show shows events until the consumer is lost, or the loop has ended.
func (w *watch) show(ctx context.Context, yield func(RawEvent, error) bool, try *int) (ended bool, err error) {
	for {
		m, err := w.reader.Receive(ctx)
		if err != nil {
			return false, err
		}
		*try = 1
		missing, err := w.overtaken(ctx, m)
		if err != nil {
			w.reader.Position = m.After // once more
			return false, err
		}
		w.behind = m.Pending > 0
		if missing != nil && !yield(RawEvent{}, missing) {
			return true, nil
		}
		if e, ok := w.history.event(m); ok && !yield(e, nil) {
			return true, nil
		}
	}
}

// overtaken returns what retention has removed between an event and the one
// before it.
func (w *watch) overtaken(ctx context.Context, m read.Message) (*GapError, error) {
	if m.Stored.Sequence == m.After+1 || len(w.history.patterns) > 0 && (!w.behind || time.Since(w.looked) < watchLook) {
		return nil, nil
	}
	attempt, cancel := context.WithTimeout(ctx, w.p.cfg.Timeout)
	defer cancel()
	info, err := w.p.look(attempt)
	if err != nil {
		return nil, err
	}
	w.looked = time.Now()
	return gap(m.After, min(info.State.FirstSeq, m.Stored.Sequence)), nil
}
