package durable

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

// WatchOptions says what to watch. The zero value watches all objects of the
// class from now on.
type WatchOptions struct {
	// ID is the object to watch. Empty means all.
	ID string
	// Current begins with the states that there are.
	Current bool
	// After goes on after the change with that revision, in place of now. It is
	// not used with Current.
	After uint64
}

// Change is a commit of an object.
type Change struct {
	ID string `json:"id"`
	// State is nil when the object was deleted.
	State    json.RawMessage `json:"state,omitempty"`
	Deleted  bool            `json:"deleted,omitempty"`
	Revision uint64          `json:"revision"`
	Modified time.Time       `json:"modified"`
	// Commit identifies it; see Info. It comes twice when the object was taken
	// from an owner by force: the new one writes the record again.
	Commit string `json:"commit,omitempty"`
}

// Watch tells the changes of objects as they are stored. It is for one
// goroutine, but for Stop.
type Watch struct {
	catalogue *Catalogue
	ctx       context.Context
	cancel    context.CancelCauseFunc
	what      journal.Follow

	mu       sync.Mutex
	follower *journal.Follower // nil after the connection was lost
}

// Watch watches one object or all. It is in place when Watch returns: no change
// that is made then is missed. It must be stopped, and ends with ctx.
//
// A watch whose connection was lost goes on where it was. It misses a commit only
// when the bucket has it no more by the time that the server sends it, because
// the object was deleted or has had more commits since than are kept; it never
// misses the last one. On its way to a watch that does not keep up are 32 MiB at
// most.
func (c *Catalogue) Watch(ctx context.Context, opts WatchOptions) (*Watch, error) {
	w := &Watch{catalogue: c, what: journal.Follow{Match: "*", Name: "watch", From: opts.After + 1}}
	if opts.ID != "" {
		var err error
		if w.what.Match, err = c.key(opts.ID); err != nil {
			return nil, err
		}
	}
	if opts.Current || opts.After == 0 {
		size, err := c.journal.LeaderSize(ctx)
		if err != nil {
			return nil, c.failed(ctx, err)
		}
		switch {
		case !opts.Current:
			w.what.From = size.LastSequence + 1
		case opts.ID == "" && size.Subjects > manyKeys:
			w.what.From = 1
		default:
			w.what.From = 0
		}
	}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	err := c.add(w)
	if err == nil {
		err = w.follow()
	}
	if err != nil {
		w.Stop()
		return nil, c.failed(ctx, err)
	}
	return w, nil
}

// follow begins to read, unless the watch has ended.
func (w *Watch) follow() error {
	f, err := w.catalogue.journal.Follow(w.ctx, w.what)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		f.Close()
		return context.Cause(w.ctx)
	}
	w.follower = f
	return nil
}

// Next waits for the next change. The error is ctx's when the watch has ended,
// NotFound when the class is gone, and Unavailable when the catalogue was closed.
func (w *Watch) Next() (Change, error) {
	for {
		w.mu.Lock()
		f := w.follower
		w.mu.Unlock()
		if f == nil {
			if err := w.again(); err != nil {
				return Change{}, err
			}
			continue
		}
		m, err := f.Next()
		switch {
		case err != nil:
			w.lost(f)
		case m != nil:
			if change, ok := newChange(m); ok {
				return change, nil
			}
		}
	}
}

// newChange reads a message; ok is false for those that change no object.
func newChange(m *journal.Stored) (_ Change, ok bool) {
	if m.Key[0] == '_' {
		return Change{}, false
	}
	id, err := bus.Unescape(m.Key)
	rec := readRecord(m)
	if err != nil || !rec.exists && rec.commit == "" && m.Header.Get(headerEpoch) != "" { // an owner made sure that there is none
		return Change{}, false
	}
	return Change{ID: id, State: rec.state, Deleted: !rec.exists, Revision: rec.rev, Modified: rec.time, Commit: rec.commit}, true
}

// lost ends a follower that misses something.
func (w *Watch) lost(f *journal.Follower) {
	w.what.From = f.Last() + 1 // what was current may have older states by now, so all from the beginning
	w.mu.Lock()
	w.follower = nil
	w.mu.Unlock()
	f.Close()
}

// again goes on where the watch was when the connection was lost.
func (w *Watch) again() error {
	const first, most = 50 * time.Millisecond, 2 * time.Second
	c := w.catalogue
	for pause := first; ; pause = min(2*pause, most) {
		if w.ctx.Err() != nil {
			return c.failed(w.ctx, context.Cause(w.ctx))
		}
		err := c.bus.WaitConnected(w.ctx)
		if err == nil {
			err = w.follow()
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return c.failed(w.ctx, err)
		}
		select {
		case <-time.After(pause):
		case <-w.ctx.Done():
		}
	}
}

// Stop ends the watch: Next returns an error.
func (w *Watch) Stop() {
	w.catalogue.remove(w)
	w.end(context.Canceled)
}

func (w *Watch) end(cause error) {
	w.cancel(cause)
	w.mu.Lock()
	f := w.follower
	w.mu.Unlock()
	if f != nil {
		f.Close()
	}
}
