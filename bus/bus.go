package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// A peer that went away without a word is noticed after pingInterval times
// maxPings.
const (
	pingInterval = 20 * time.Second
	maxPings     = 2
)

// Bus is one connection to NATS, shared by the clients and services of a
// program. Its methods may be called by many goroutines at once.
type Bus struct {
	cfg    Config
	conn   *nats.Conn
	dialer *dialer
	local  *Local

	onDisconnect hooks[struct{}]
	onClose      hooks[struct{}]
	onDenied     hooks[Denial]

	closing   atomic.Bool
	closeOnce sync.Once
	closeErr  error
	closed    chan struct{} // nats.go has made its last callback
}

// Connect connects to a server. It fails when none can be reached now: waiting
// for a server that is yet to come is the caller's to decide. Once connected,
// the bus connects again whenever the connection is lost, without end, and
// meanwhile keeps up to 8 MiB of what is published.
//
// Connect returns within ctx. Its errors say what is wrong with cfg, or which
// server could not be reached, why, and what to do; they hold no credentials.
func Connect(ctx context.Context, cfg Config) (*Bus, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Bus{
		cfg:    cfg,
		dialer: newDialer(cfg.ConnectTimeout, cfg.InProcess),
		local:  newLocal(),
		closed: make(chan struct{}),
	}
	opts, err := b.options()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, connectError(ctx, &cfg, ctx.Err())
	}
	stop := context.AfterFunc(ctx, b.dialer.abort)
	b.conn, err = opts.Connect()
	if !stop() && err == nil {
		b.closing.Store(true) // connected, but ctx ended first
		b.conn.Close()
		<-b.closed
		err = ctx.Err()
	}
	if err != nil {
		b.dialer.cancel()
		return nil, connectError(ctx, &cfg, err)
	}
	b.dialer.established()
	cfg.Logger.Debug().Str("server", b.conn.ConnectedAddr()).Msg("bus connected")
	return b, nil
}

func (b *Bus) options() (nats.Options, error) {
	credentials, err := b.cfg.credentials()
	if err != nil {
		return nats.Options{}, err
	}
	opts := nats.GetDefaultOptions()
	opts.Servers = b.cfg.URLs
	with := []nats.Option{
		credentials,
		nats.Name(b.cfg.Name),
		nats.CustomInboxPrefix(b.cfg.InboxPrefix),
		nats.Timeout(b.cfg.ConnectTimeout),
		nats.DrainTimeout(b.cfg.DrainTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),

		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(reconnectDelay),
		// Credentials that are refused today may be put right tomorrow.
		nats.IgnoreAuthErrorAbort(),
		// A write that stopped half way has spoilt the connection.
		nats.ReconnectOnFlusherError(),

		nats.DisconnectErrHandler(b.handleDisconnect),
		nats.ReconnectHandler(b.handleReconnect),
		nats.ReconnectErrHandler(b.handleReconnectError),
		nats.ErrorHandler(b.handleError),
		nats.ClosedHandler(b.handleClosed),
	}
	if b.cfg.InProcess != nil {
		with = append(with, nats.InProcessServer(b.dialer))
	} else {
		with = append(with, nats.SetCustomDialer(b.dialer), nats.SkipHostLookup())
	}
	if b.cfg.TLS != nil {
		with = append(with, nats.Secure(b.cfg.TLS))
	}
	for _, opt := range with {
		if err := opt(&opts); err != nil {
			return nats.Options{}, fmt.Errorf("bus: %w", err)
		}
	}
	return opts, nil
}

// reconnectDelay is how long to wait after the n-th time, from 1, that all
// servers were tried in vain: between half of 100 ms and all of it, doubling
// up to 2 s. The randomness keeps the clients of a server that restarts apart.
func reconnectDelay(n int) time.Duration {
	const first, last = 100 * time.Millisecond, 2 * time.Second
	d := last
	if n = max(n, 1); n <= 5 {
		d = min(first<<(n-1), last)
	}
	return d/2 + rand.N(d/2)
}

// Conn returns the connection, for what this package has no method for. It
// must not be closed or drained: that is Close's.
func (b *Bus) Conn() *nats.Conn { return b.conn }

// Name returns the name that requests carry.
func (b *Bus) Name() string { return b.cfg.Name }

// InboxPrefix returns what reply subjects begin with, without the dot after it.
func (b *Bus) InboxPrefix() string { return b.cfg.InboxPrefix }

// Replicas returns how many servers keep each stream and bucket that is made
// through this bus.
func (b *Bus) Replicas() int { return b.cfg.Replicas }

// Logger returns the logger for what happens on the bus. It is never nil.
func (b *Bus) Logger() *zerolog.Logger { return b.cfg.Logger }

// MaxPayload returns the size in bytes of the largest message that the server
// takes, headers included.
func (b *Bus) MaxPayload() int64 { return b.conn.MaxPayload() }

// Local returns the services of this process.
func (b *Bus) Local() *Local { return b.local }

// OnClose has fn called once, when Close begins and the connection still
// works: clients and services end there what they have on the bus. The last
// registered is called first. Fn must not call Close. When Close has already
// begun, OnClose calls fn itself, at once.
//
// Stop takes the registration back. It does not wait for a call of fn.
func (b *Bus) OnClose(fn func()) (stop func()) {
	stop, ok := b.onClose.add(func(struct{}) { fn() })
	if !ok {
		fn()
	}
	return stop
}

// Close calls the functions given to OnClose, lets subscriptions handle what
// they have received, within the drain timeout, sends what is buffered,
// within 5 seconds, and closes the connection. The functions given to
// OnDisconnect have been called when it returns.
//
// An error says what was left undone; the bus is closed all the same. Close
// may be called again, also at the same time: each call waits for the end and
// returns the same.
func (b *Bus) Close() error {
	b.closeOnce.Do(func() { b.closeErr = b.close() })
	return b.closeErr
}

func (b *Bus) close() error {
	b.closing.Store(true)
	for _, k := range slices.Backward(b.onClose.snapshot(true)) {
		k.run(struct{}{})
	}
	b.dialer.cancel()
	earlier := b.conn.LastError()
	unsent, _ := b.conn.Buffered()
	switch err := b.conn.Drain(); {
	case errors.Is(err, nats.ErrConnectionReconnecting):
		<-b.closed
		if unsent > 0 {
			return fmt.Errorf("bus: closed while disconnected: %d bytes were not sent", unsent)
		}
		return nil
	case errors.Is(err, nats.ErrConnectionClosed):
		<-b.closed
		return nil
	case err != nil:
		b.conn.Close()
		<-b.closed
		return fmt.Errorf("bus: draining: %w", err)
	}
	<-b.closed
	switch err := b.conn.LastError(); {
	case errors.Is(err, earlier): // also when there is none
		return nil
	case errors.Is(err, io.EOF) && len(b.cfg.URLs) > 0 && strings.HasPrefix(b.cfg.URLs[0], "ws"): // they do not mix with others
		return nil // the server answers the closing of a web socket by closing it
	case errors.Is(err, nats.ErrDrainTimeout):
		return fmt.Errorf("bus: subscriptions were still busy after %v: %w", b.cfg.DrainTimeout, err)
	default:
		return fmt.Errorf("bus: draining: %w", err)
	}
}
