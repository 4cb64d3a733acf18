package bus

import (
	"net"
	"slices"
)

// greetingWrites is how many writes nats.go makes before it reads the answer
// to them: its credentials and a ping.
const greetingWrites = 2

// pipe is a connection within the process, which holds no data: a write waits
// for its reader. A server that refuses the credentials writes so before it
// has read the ping behind them, and without more both sides would wait for
// each other until the server's write times out. So the greeting is written in
// the background.
//
// nats.go writes from one goroutine at a time.
type pipe struct {
	net.Conn
	writes  int
	pending chan struct{} // the last write in the background, until it has ended
}

func (p *pipe) Write(data []byte) (int, error) {
	if p.writes < greetingWrites {
		p.writes++
		p.writeBehind(p.pending, slices.Clone(data))
		return len(data), nil
	}
	if p.pending != nil {
		<-p.pending
		p.pending = nil
	}
	return p.Conn.Write(data)
}

// writeBehind writes data when the write before it has ended. The goroutine
// ends at the latest when either side closes the connection. A failed write
// shows in the read that waits for the answer.
func (p *pipe) writeBehind(before <-chan struct{}, data []byte) {
	done := make(chan struct{})
	p.pending = done
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		_, _ = p.Conn.Write(data)
	}()
}
