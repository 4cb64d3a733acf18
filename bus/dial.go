package bus

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// dialer makes the connections of one bus, and gives up when told to: nats.go
// knows timeouts, but no contexts.
type dialer struct {
	net       net.Dialer
	inProcess nats.InProcessConnProvider

	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	greeting net.Conn // the connection being set up, until established is called
	settled  bool
}

func newDialer(timeout time.Duration, inProcess nats.InProcessConnProvider) *dialer {
	ctx, cancel := context.WithCancel(context.Background())
	return &dialer{net: net.Dialer{Timeout: timeout}, inProcess: inProcess, ctx: ctx, cancel: cancel}
}

// Dial connects to one address; nats.go calls it.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.net.DialContext(d.ctx, network, address)
	return d.keep(conn, err)
}

// InProcessConn connects to the server in this process; nats.go calls it.
func (d *dialer) InProcessConn() (net.Conn, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := d.inProcess.InProcessConn()
	if err != nil {
		return nil, err
	}
	return d.keep(&pipe{Conn: conn}, nil)
}

func (d *dialer) keep(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ctx.Err(); err != nil {
		conn.Close()
		return nil, err
	}
	if !d.settled {
		d.greeting = conn
	}
	return conn, nil
}

// established says that the first connection is set up: it outlives abort.
func (d *dialer) established() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.greeting, d.settled = nil, true
}

// abort ends what is being dialled or set up; nothing is dialled after it.
func (d *dialer) abort() {
	d.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.greeting != nil {
		d.greeting.Close()
	}
}
