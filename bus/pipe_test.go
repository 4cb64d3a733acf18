package bus

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pipes returns both ends of a connection, of which one holds what is written.
func pipes(t *testing.T) (*pipe, net.Conn) {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return &pipe{Conn: near}, far
}

func TestPipeHolds(t *testing.T) {
	t.Parallel()
	p, far := pipes(t)
	var sent []byte
	chunk := make([]byte, 1000)
	for n := range pipeRoom / len(chunk) { // nobody reads
		for i := range chunk {
			chunk[i] = byte(n + i)
		}
		if _, err := p.Write(chunk); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, chunk...)
	}
	if err := p.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	more := make([]byte, pipeRoom+1)
	for range 2 { // the first may be what the one that writes has taken
		if n, err := p.Write(more[:pipeRoom/2+1]); err == nil {
			sent = append(sent, more[:n]...)
		} else if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a write into a full pipe took %d bytes: %v", n, err)
		}
	}
	if err := p.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := p.Write(more) // more than it holds
		written <- err
	}()
	got := make([]byte, len(sent)+len(more))
	if _, err := io.ReadFull(far, got); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append(sent, more...)) {
		t.Error("what was read is not what was written")
	}
}

// What was written before Close is there to be read, and a reader that does not
// read holds nobody up.
func TestPipeCloses(t *testing.T) {
	t.Parallel()
	p, far := pipes(t)
	if _, err := p.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(far)
		got <- string(data)
	}()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if data := <-got; data != "the end" {
		t.Errorf("read %q", data)
	}
	idle, _ := pipes(t)
	if _, err := idle.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- idle.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Close waits for a reader that does not read")
	}
}
