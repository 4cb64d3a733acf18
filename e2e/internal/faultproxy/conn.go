package faultproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// conn is the connection of one client.
type conn struct {
	p      *Proxy
	number uint64
	client net.Conn

	ctx    context.Context // ends when the connection is cut
	cancel context.CancelFunc

	mu     sync.Mutex
	server net.Conn // nil until connected
	gone   bool
}

func newConn(p *Proxy, number uint64, client net.Conn) *conn {
	ctx, cancel := context.WithCancel(context.Background())
	return &conn{p: p, number: number, client: client, ctx: ctx, cancel: cancel}
}

// serve passes on what comes until both sides have ended, or the connection is
// cut.
func (c *conn) serve() {
	defer c.p.forget(c)
	defer c.end(func(side net.Conn) { _ = side.Close() })
	if !c.gate() {
		c.swallow(c.client)
		return
	}
	server, err := c.p.dial(c.ctx)
	if err != nil || !c.connected(server) {
		return
	}
	var wg sync.WaitGroup
	for _, way := range []struct {
		from    Side
		in, out net.Conn
	}{{Client, c.client, server}, {Server, server, c.client}} {
		wg.Go(func() { c.pass(newFlow(c, way.from, way.in, way.out), way.in, way.out) })
	}
	wg.Wait()
}

// pass runs one direction to its end.
func (c *conn) pass(f *flow, in, out net.Conn) {
	err := f.run()
	switch {
	case errors.Is(err, errSwallowed):
		c.swallow(in)
	case errors.Is(err, errNotTaken):
		// Whoever does not listen any more may have said why: the other
		// direction ends this.
		_, _ = io.Copy(io.Discard, in)
	case errors.Is(err, io.EOF):
		if tcp, ok := out.(*net.TCPConn); ok {
			_ = tcp.CloseWrite() // the other side may have ended as well
		}
	default:
		c.end(func(side net.Conn) { _ = side.Close() })
	}
}

// connected notes the connection to the server. It is closed if the client's
// has been cut meanwhile.
func (c *conn) connected(server net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		_ = server.Close()
		return false
	}
	c.server = server
	return true
}

// cut ends the connection on both sides at once.
func (c *conn) cut() {
	if c.end(reset) {
		c.p.stats.cut.Add(1)
	}
}

// end closes both sides, once.
func (c *conn) end(closeSide func(net.Conn)) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return false
	}
	c.gone = true
	c.cancel()
	closeSide(c.client)
	if c.server != nil {
		closeSide(c.server)
	}
	return true
}

// open reports whether what comes may be passed on now.
func (c *conn) open() bool {
	m := c.p.mode.Load()
	return !m.held && !m.black && c.ctx.Err() == nil
}

// gate waits while the proxy holds back what comes. It returns false when
// nothing more is to be passed on: the connection was cut, or its bytes are
// being swallowed.
func (c *conn) gate() bool {
	for {
		m := c.p.mode.Load()
		switch {
		case m.black || c.ctx.Err() != nil:
			return false
		case !m.held:
			return true
		}
		select {
		case <-m.changed:
		case <-c.ctx.Done():
		}
	}
}

// swallow reads on, and waits until the connection is cut.
func (c *conn) swallow(in net.Conn) {
	_, _ = io.Copy(io.Discard, in) // it ends when the connection is cut
	<-c.ctx.Done()
}
