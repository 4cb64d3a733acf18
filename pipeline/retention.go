package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
)

// Retention says how long the stream EVENTS keeps events: the oldest go when one
// of the limits is passed, whether handlers have had them or not. Zero is no
// limit.
type Retention struct {
	// MaxAge is not less than the time within which the stream recognises an event
	// that is sent again, 2 minutes.
	MaxAge    time.Duration `json:"maxAge"` // in nanoseconds
	MaxBytes  int64         `json:"maxBytes"`
	MaxEvents int64         `json:"maxEvents"`
}

// Usage says what the stream EVENTS has.
type Usage struct {
	Events uint64 `json:"events"`
	// Bytes is what the events take in the store of one server.
	Bytes uint64 `json:"bytes"`
	// FirstSequence is that of the oldest event, or, when there is none, the one
	// that the next event will have. LastSequence is the last that an event has had.
	FirstSequence uint64 `json:"firstSequence"`
	LastSequence  uint64 `json:"lastSequence"`
	// FirstTime and LastTime are when the oldest and the newest event were stored,
	// and zero when there is none.
	FirstTime time.Time `json:"firstTime"`
	LastTime  time.Time `json:"lastTime"`
}

// Retention returns the limits of the stream EVENTS, and what it has.
func (p *Pipeline) Retention(ctx context.Context) (Retention, Usage, error) {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	info, err := p.look(ctx)
	if err != nil {
		return Retention{}, Usage{}, coded(ctx, err)
	}
	cfg, state := &info.Config, &info.State
	usage := Usage{
		Events: state.Msgs, Bytes: state.Bytes,
		FirstSequence: state.FirstSeq, LastSequence: state.LastSeq,
	}
	if state.Msgs > 0 {
		usage.FirstTime, usage.LastTime = state.FirstTime, state.LastTime
	} else {
		usage.FirstSequence = state.LastSeq + 1
	}
	return Retention{MaxAge: cfg.MaxAge, MaxBytes: max(cfg.MaxBytes, 0), MaxEvents: max(cfg.MaxMsgs, 0)}, usage, nil
}

// SetRetention sets the limits of the stream EVENTS, all three, for all who use
// it. What is beyond them is removed at once. It changes nothing else of the
// stream, and takes turns with other processes that change it.
//
// It fails with InvalidArgument for limits that are negative, and for an age that
// is too small, and with ResourceExhausted for more bytes than the server may store.
func (p *Pipeline) SetRetention(ctx context.Context, r Retention) error {
	switch {
	case r.MaxAge < 0:
		return rpc.InvalidArgument.Errorf("the age %v is negative: want 0 for no limit, or how long events are kept", r.MaxAge)
	case r.MaxBytes < 0:
		return rpc.InvalidArgument.Errorf("%d bytes are negative: want 0 for no limit, or how many are kept", r.MaxBytes)
	case r.MaxEvents < 0:
		return rpc.InvalidArgument.Errorf("%d events are negative: want 0 for no limit, or how many are kept", r.MaxEvents)
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	_, err := p.bus.AmendEvents(ctx, func(cfg *jetstream.StreamConfig) (bool, error) { return r.apply(cfg) })
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == codeNoStorage {
		return rpc.ResourceExhausted.Errorf("%d bytes are more than the server may store: %w", r.MaxBytes, err)
	}
	if err != nil {
		return coded(ctx, err)
	}
	return nil
}

// apply reports whether it had to change something.
func (r Retention) apply(cfg *jetstream.StreamConfig) (bool, error) {
	if r.MaxAge > 0 && r.MaxAge < cfg.Duplicates {
		return false, rpc.InvalidArgument.Errorf("the age %v is less than the %v in which the stream recognises an event that is sent again: "+
			"want that at least, or 0 for no limit", r.MaxAge, cfg.Duplicates)
	}
	limit := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	was := Retention{MaxAge: cfg.MaxAge, MaxBytes: max(cfg.MaxBytes, 0), MaxEvents: max(cfg.MaxMsgs, 0)}
	cfg.MaxAge, cfg.MaxBytes, cfg.MaxMsgs = r.MaxAge, limit(r.MaxBytes), limit(r.MaxEvents)
	return was != r, nil
}
