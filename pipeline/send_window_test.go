package pipeline

import (
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// inDoubt is an event that an attempt may have stored that long ago.
func inDoubt(t *testing.T, p *Pipeline, age time.Duration, opts ...SendOption) *outgoing {
	t.Helper()
	o, err := p.outgoing(origin{}, "Account.opened", 1, opts)
	if err != nil {
		t.Fatal(err)
	}
	o.unsure, o.since, o.attempts = true, time.Now().Add(-age), 1
	o.last = rpc.Unavailable.Errorf("%w", errLost)
	return o
}

// An event in doubt is not sent again when the stream may have forgotten its id.
func TestResendWindow(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.InProcess())
	p := New(b, Config{})
	events, err := b.EnsureEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if window := events.CachedInfo().Config.Duplicates; resendWindow+20*time.Second > window {
		t.Errorf("events are sent again for %v, the stream knows their ids for %v", resendWindow, window)
	}
	_, err = p.deliver(t.Context(), inDoubt(t, p, resendWindow+time.Second))
	if rpc.CodeOf(err) != rpc.DeadlineExceeded && rpc.CodeOf(err) != rpc.Unavailable {
		t.Errorf("got %v", err)
	}
	if info, err := events.Info(t.Context()); err != nil || info.State.Msgs != 0 {
		t.Errorf("%d events are stored: %v", info.State.Msgs, err)
	}
	if _, err := p.deliver(t.Context(), inDoubt(t, p, time.Second)); err != nil {
		t.Error(err)
	}
}

// An event in doubt that was to follow another is known again by its id, though
// it is now the one that it would have to come before.
func TestInDoubtWithExpectedSequence(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.InProcess())
	p := New(b, Config{})
	send := func(o *outgoing) (Receipt, error) { return p.deliver(t.Context(), o) }
	mine := []SendOption{WithID("mine"), WithExpectedSequence(0)}
	first, err := p.Send(t.Context(), "Account.opened", 1, mine...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Send(t.Context(), "Account.opened", 1); err != nil {
		t.Fatal(err)
	}
	if receipt, err := send(inDoubt(t, p, 0, mine...)); err != nil || receipt != first {
		t.Errorf("%+v, %v, want %+v", receipt, err, first)
	}
	if _, err := send(inDoubt(t, p, 0, WithExpectedSequence(0))); rpc.CodeOf(err) != rpc.Aborted {
		t.Errorf("another one: %v", err)
	}
}

func TestParseAnswer(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]answer{
		`{"stream":"EVENTS","seq":12}`:                                  {Stream: bus.EventsStream, Sequence: 12},
		`{"stream":"EVENTS","seq":12,"duplicate": true}`:                {Stream: bus.EventsStream, Sequence: 12, Duplicate: true},
		`{"stream":"EVENTS","domain":"hub","seq":18446744073709551615}`: {Stream: bus.EventsStream, Sequence: 1<<64 - 1},
		` {"seq":3, "stream":"OTHER"}`:                                  {Stream: "OTHER", Sequence: 3},
	} {
		if got, err := parseAnswer([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "OK", `{"stream":"EVENTS","seq":}`, `{"stream":"EVENTS","seq":1.5}`, `{"stream":"EVENTS","seq":-1}`} {
		if got, err := parseAnswer([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
}
