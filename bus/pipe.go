package bus

import (
	"net"
	"os"
	"sync"
	"time"
)

const (
	// pipeRoom is how many bytes a pipe holds for its reader before a write waits.
	pipeRoom = 1 << 20
	// pipeLinger is how long Close waits for a reader to take what is held.
	pipeLinger = 250 * time.Millisecond
)

// pipe is a connection within the process. The one below holds no data: a write
// waits until the server has read all of it, in as many pieces as it likes.
// Nats.go writes with its lock held, so whoever publishes would wait as well. And
// a server that refuses the credentials writes so before it has read the ping
// behind them, and both sides would wait for each other until the server's write
// times out. So Write takes the data, and a goroutine of the pipe's writes them.
//
// That goroutine ends when it has written everything, at the latest when either
// side closes the connection. What could not be written shows in the next write,
// and in the read that waits for the answer.
type pipe struct {
	net.Conn

	mu       sync.Mutex
	held     []byte
	spare    []byte
	writing  bool
	taken    chan struct{} // closed when held gets empty or err is set; nil while nobody waits
	err      error
	deadline time.Time
}

// Write takes data to be written soon. When the pipe holds as much as it can it
// waits, until the write deadline.
func (p *pipe) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && len(p.held) > 0 && len(p.held)+len(data) > pipeRoom {
		if !p.waitLocked(p.deadline) {
			return 0, os.ErrDeadlineExceeded
		}
	}
	if p.err != nil {
		return 0, p.err
	}
	p.held = append(p.held, data...)
	if !p.writing && len(p.held) > 0 {
		p.writing = true
		go p.writeOut()
	}
	return len(data), nil
}

// waitLocked waits until held has been taken or writing has failed. It reports
// false at the deadline, if there is one.
func (p *pipe) waitLocked(deadline time.Time) bool {
	if p.taken == nil {
		p.taken = make(chan struct{})
	}
	taken := p.taken
	p.mu.Unlock()
	defer p.mu.Lock()
	var over <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-taken:
		return true
	case <-over:
		return false
	}
}

func (p *pipe) takenLocked() {
	if p.taken != nil {
		close(p.taken)
		p.taken = nil
	}
}

// writeOut writes what is held, until that is nothing.
func (p *pipe) writeOut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.held) > 0 && p.err == nil {
		data := p.held
		p.held, p.spare = p.spare[:0], nil
		p.takenLocked()
		p.mu.Unlock()
		_, err := p.Conn.Write(data)
		p.mu.Lock()
		p.err = err
		if cap(data) <= pipeRoom {
			p.spare = data[:0]
		}
	}
	p.writing = false
	p.takenLocked()
}

// SetWriteDeadline is when a Write ends that waits.
func (p *pipe) SetWriteDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	return nil
}

func (p *pipe) SetDeadline(t time.Time) error {
	_ = p.SetWriteDeadline(t)
	return p.Conn.SetReadDeadline(t)
}

// Close lets the server read what is held, if it does so soon, and closes the
// connection.
func (p *pipe) Close() error {
	end := time.Now().Add(pipeLinger)
	p.mu.Lock()
	for p.writing && p.err == nil && p.waitLocked(end) {
	}
	p.mu.Unlock()
	return p.Conn.Close()
}
