package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// Connected reports whether the connection is up.
func (b *Bus) Connected() bool { return b.conn.IsConnected() }

// WaitConnected waits until the connection is up. It fails when ctx ends, with
// an error that wraps ctx's, and when the bus is closed, with one that wraps
// nats.ErrConnectionClosed.
func (b *Bus) WaitConnected(ctx context.Context) error {
	if b.conn.IsConnected() {
		return nil
	}
	changed := b.conn.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer b.conn.RemoveStatusListener(changed)
	for {
		switch {
		case b.conn.IsConnected():
			return nil
		case b.conn.IsClosed():
			return fmt.Errorf("bus: %w", nats.ErrConnectionClosed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("bus: not connected to %s: %w", b.cfg.where(), context.Cause(ctx))
		}
	}
}

// OnDisconnect has fn called each time the connection is lost, and once when
// the bus closes. Calls come one after the other, in a goroutine of the bus:
// fn must be quick and must not call Close. After the bus has closed it is
// never called.
//
// Stop takes the registration back. It does not wait for a call of fn.
// Registering and stopping are cheap, however many there are.
func (b *Bus) OnDisconnect(fn func()) (stop func()) {
	stop, _ = b.onDisconnect.add(func(struct{}) { fn() })
	return stop
}

// The handlers below are called by nats.go, one at a time.

func (b *Bus) handleDisconnect(_ *nats.Conn, err error) {
	if b.closing.Load() {
		return // handleClosed is next
	}
	b.cfg.Logger.Warn().Err(err).Msg("bus disconnected")
	for _, k := range b.onDisconnect.snapshot(false) {
		k.run(struct{}{})
	}
}

func (b *Bus) handleReconnect(nc *nats.Conn) {
	b.cfg.Logger.Info().Str("server", nc.ConnectedAddr()).Msg("bus reconnected")
}

func (b *Bus) handleReconnectError(_ *nats.Conn, err error) {
	b.cfg.Logger.Debug().Err(err).Msg("bus could not reconnect yet")
}

func (b *Bus) handleClosed(*nats.Conn) {
	for _, k := range b.onDisconnect.snapshot(true) {
		k.run(struct{}{})
	}
	b.cfg.Logger.Debug().Msg("bus closed")
	close(b.closed)
}

// Denial says what the bus did not let this connection do.
type Denial struct {
	// Subscribe is set for a subscription, not for a message.
	Subscribe bool
	Subject   string
}

// OnDenied has fn called each time the bus does not permit a message or a
// subscription, under the same rules as the functions of OnDisconnect.
func (b *Bus) OnDenied(fn func(Denial)) (stop func()) {
	stop, _ = b.onDenied.add(fn)
	return stop
}

// Denied returns an error when the last thing that the bus did not permit was
// to subscribe to subject. After a flush it knows of every subscription that
// was made before.
func (b *Bus) Denied(subject string) error {
	d, denied := parseDenial(b.conn.LastError())
	if !denied || !d.Subscribe || d.Subject != subject {
		return nil
	}
	return fmt.Errorf("the bus does not permit this user to subscribe to %s", subject)
}

// parseDenial reads the error that the server sends when it denies something.
func parseDenial(err error) (Denial, bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return Denial{}, false
	}
	text := err.Error()
	for _, kind := range []struct {
		before    string
		subscribe bool
	}{{`Permissions Violation for Publish to "`, false}, {`Permissions Violation for Subscription to "`, true}} {
		if _, rest, ok := strings.Cut(text, kind.before); ok {
			if subject, _, ok := strings.Cut(rest, `"`); ok {
				return Denial{kind.subscribe, subject}, true
			}
		}
	}
	return Denial{}, false
}

// handleError logs errors that no call returns.
func (b *Bus) handleError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if d, denied := parseDenial(err); denied {
		for _, k := range b.onDenied.snapshot(false) {
			k.run(d)
		}
	}
	event := b.cfg.Logger.Error().Err(err)
	if sub != nil {
		event = event.Str("subject", sub.Subject)
		if sub.Queue != "" {
			event = event.Str("queue", sub.Queue)
		}
		if errors.Is(err, nats.ErrSlowConsumer) {
			if dropped, err := sub.Dropped(); err == nil {
				event = event.Int("dropped", dropped)
			}
		}
	}
	event.Msg("bus error")
}
