package durable

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

// valve is between an instance and the server. While it is shut, what both send
// stays on the way; while it is deaf, what the server sends is lost.
type valve struct {
	url  string
	deaf atomic.Bool

	mu    sync.Mutex
	open  chan struct{} // closed when it is open
	pairs map[net.Conn]net.Conn
}

func newValve(t *testing.T, to *natsd.Server) *valve {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{url: "nats://" + l.Addr().String(), open: make(chan struct{}), pairs: map[net.Conn]net.Conn{}}
	close(v.open)
	ctx, cancel := context.WithCancel(context.Background())
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to.Address())
			if err != nil {
				_ = client.Close()
				continue
			}
			v.mu.Lock()
			v.pairs[client] = server
			v.mu.Unlock()
			pumps.Go(func() { v.pump(ctx, client, server, nil) })
			pumps.Go(func() { v.pump(ctx, server, client, &v.deaf) })
		}
	})
	t.Cleanup(func() { // after the bus has closed
		cancel()
		_ = l.Close()
		v.cut()
		pumps.Wait()
	})
	return v
}

func (v *valve) pump(ctx context.Context, from, to net.Conn, lose *atomic.Bool) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		v.mu.Lock()
		open := v.open
		v.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
			return
		}
		if lose != nil && lose.Load() {
			n = 0
		}
		if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
			return
		}
	}
}

func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open = make(chan struct{})
}

func (v *valve) reopen() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.open)
}

// cut ends the connections. New ones can be made.
func (v *valve) cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for client, server := range v.pairs {
		_, _ = client.Close(), server.Close()
		delete(v.pairs, client)
	}
}

// behind is the option of an instance that is connected by the valve.
func (v *valve) behind() bustest.Option {
	return bustest.WithConfig(func(cfg *bus.Config) { cfg.URLs = []string{v.url} })
}

// The answers to commits are lost, and the connection with them: the owner finds
// out that they were stored, and nothing happens twice.
func TestLostAcks(t *testing.T) {
	t.Parallel()
	x := newBoxes(t)
	x.newClient(impatient)
	v := newValve(t, x.server)
	owner := x.instance(v.behind())
	const times = 4
	deaf, over := make(chan struct{}, times), make(chan struct{})
	var commits atomic.Int32
	owner.serve(Config{faults: func(point string) {
		if point != "commit" {
			return
		}
		if n := commits.Add(1); n%5 == 4 && n < 5*times {
			v.deaf.Store(true)
			deaf <- struct{}{}
		}
	}})
	calls := x.callFull(1, 3, 10, over)
	for n := range times {
		x.reached("a commit", deaf)
		x.until("the commit to be stored", func() bool { return readRecord(x.last("o0")).count >= uint64(5*n+4) })
		v.cut()
		v.deaf.Store(false)
	}
	close(over)
	turns, err := calls()
	if err == nil {
		err = x.agreed(turns)
	}
	if err != nil {
		t.Error(err)
	}
}
