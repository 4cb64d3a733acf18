//go:build unix

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
	"rpc.do/client"
)

// handedOut are the ports that freePort has returned.
var handedOut sync.Map

// freePort returns a port on which nobody listens, each only once. It is not one
// that the system gives to those who don't care, so that nobody is given it
// meanwhile.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 12_000 + rand.IntN(20_000)
		if _, taken := handedOut.LoadOrStore(port, true); taken {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return port
		}
	}
	t.Fatal("no free port found")
	return 0
}

// until waits for a condition that nothing announces.
func until(t testing.TB, what string, met func() bool) {
	t.Helper()
	limit := time.After(patience)
	for !met() {
		select {
		case <-limit:
			t.Fatalf("waited %v in vain until %s", patience, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// busProcess is a bus in a process of its own.
type busProcess struct {
	*process
	url  string
	args []string
}

// startBus runs rpcdo bus on a free port, with its store in a temporary
// directory, and waits until it is ready.
func startBus(t testing.TB, args ...string) *busProcess {
	t.Helper()
	b := &busProcess{args: append([]string{
		"bus", "--port", fmt.Sprint(freePort(t)), "--store", t.TempDir(), "--sync", "interval",
	}, args...)}
	b.begin(t)
	return b
}

// begin starts the process; also again, at the same address and on the same
// store, after it has ended.
func (b *busProcess) begin(t testing.TB) {
	t.Helper()
	b.process = start(t, "bus", nil, programs.rpcdo, b.args...)
	b.url = strings.TrimPrefix(b.line(t, "ready "), "ready ")
}

// startWorker runs a worker and waits until it serves.
func startWorker(t testing.TB, url, id string, args ...string) *process {
	t.Helper()
	p := start(t, id, nil, programs.worker, append([]string{"-server", url, "-id", id}, args...)...)
	p.line(t, "ready")
	return p
}

// newClient connects a caller of this process.
func newClient(t testing.TB, url string, cfg client.Config) *client.Client {
	t.Helper()
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{url}, Name: "e2e", DrainTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // the server may be gone
	return client.New(b, cfg)
}

// plainClient connects without this library.
func plainClient(t testing.TB, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
