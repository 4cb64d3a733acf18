package bustest

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rpc.do/bus"
	"rpc.do/bus/natsd"
)

// What is ended in the background has this long to end.
const (
	leakPatience = 2 * time.Second
	leakInterval = 5 * time.Millisecond
)

// settingUpSource is a goroutine of the server's own: one that is shut down while a
// stream sets up a source lets it end by itself, within half a minute.
const settingUpSource = "github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"

// Main runs the tests of a package and fails when goroutines are left after
// the last one. It does not return.
func Main(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreTopFunction(settingUpSource)) }

// subscriptionCheck finds the subscriptions that are left on a bus when it
// begins to close.
type subscriptionCheck struct {
	bus    *bus.Bus
	server *natsd.Server

	wanted       atomic.Bool // the test has ended: what is left is a leak
	wasConnected bool
	left         []string
}

func (c *subscriptionCheck) run() {
	if !c.wanted.Load() || !c.bus.Connected() {
		return
	}
	c.wasConnected = true
	c.left = settled(c.list)
}

// list returns the subscriptions, as the server sees them.
func (c *subscriptionCheck) list() []string {
	nc := c.bus.Conn()
	if err := nc.FlushTimeout(leakPatience); err != nil {
		return nil // disconnected meanwhile: nothing is left
	}
	if nc.ConnectedServerId() != c.server.NATS().ID() {
		// Another server of the cluster knows; here one subscription may be
		// that of nats.go's requests.
		if n := nc.NumSubscriptions(); n > 1 {
			return []string{fmt.Sprintf("%d subscriptions", n)}
		}
		return nil
	}
	id, err := nc.GetClientID()
	if err != nil {
		return []string{err.Error()}
	}
	left, err := c.server.Subscriptions(id)
	if err != nil {
		return []string{err.Error()}
	}
	inbox := nc.NewRespInbox()
	requests := inbox[:strings.LastIndexByte(inbox, '.')] + ".*"
	return slices.DeleteFunc(left, func(subject string) bool { return subject == requests })
}

// checkConsumers fails the test when consumers without a durable name are left
// on s.
func checkConsumers(t testing.TB, s *natsd.Server) {
	t.Helper()
	left := settled(func() []string {
		names, err := s.EphemeralConsumers()
		if err != nil {
			return []string{err.Error()}
		}
		return names
	})
	if len(left) > 0 {
		t.Errorf("bustest: consumers without a durable name left when the test ended: %q", left)
	}
}

// settled asks until nothing is left or patience ends, and returns the last
// answer.
func settled(list func() []string) []string {
	deadline := time.Now().Add(leakPatience)
	for {
		left := list()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(leakInterval)
	}
}
