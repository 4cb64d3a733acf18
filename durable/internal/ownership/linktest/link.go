// Package linktest gives tests a connection to a server that they can cut or
// freeze. It stands in for the network between one bus and a server in the same
// process:
//
//	link := linktest.New(server)
//	b := bustest.Connect(t, server, link.Option())
//	link.Freeze() // nothing goes through, and nobody is told
//	link.Cut()    // connections break, and none can be made
//	link.Mend()
package linktest

import (
	"errors"
	"net"
	"sync"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// Link is what one bus connects through. Its methods may be called by many
// goroutines at once.
type Link struct {
	server nats.InProcessConnProvider

	mu    sync.Mutex
	cut   bool
	open  chan struct{} // closed when what is sent goes through
	conns map[*conn]struct{}
}

// New returns a link to a server, which works.
func New(server nats.InProcessConnProvider) *Link {
	l := &Link{server: server, open: make(chan struct{}), conns: map[*conn]struct{}{}}
	close(l.open)
	return l
}

// Option makes a bus connect through the link.
func (l *Link) Option() bustest.Option {
	return bustest.WithConfig(func(c *bus.Config) { c.URLs, c.InProcess = nil, l })
}

var errCut = errors.New("linktest: the link is cut")

// InProcessConn connects to the server.
func (l *Link) InProcessConn() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errCut
	}
	inner, err := l.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, link: l, closed: make(chan struct{})}
	l.conns[c] = struct{}{}
	return c, nil
}

// Cut breaks the connections. None can be made until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	l.cut = true
	conns := l.conns
	l.conns = map[*conn]struct{}{}
	l.mu.Unlock()
	for c := range conns {
		_ = c.Close() // it may have been closed by its user
	}
}

// Freeze holds up all that is sent in either direction until Mend.
func (l *Link) Freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
		l.open = make(chan struct{})
	default:
	}
}

// Mend makes the link work again.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
	select {
	case <-l.open:
	default:
		close(l.open)
	}
}

// gate is closed when what is sent goes through.
func (l *Link) gate() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

type conn struct {
	net.Conn
	link   *Link
	once   sync.Once
	closed chan struct{}
}

func (c *conn) pass() error {
	select {
	case <-c.link.gate():
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err := c.pass(); err != nil {
		return 0, err
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
