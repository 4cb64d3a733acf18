// Package pull takes messages from consumers of JetStream by the pull protocol
// (ADR-13, ADR-37): as many at a time as there is room for, so that what a
// process holds is bounded, and with one subscription for all consumers of a
// process, so that one at rest costs no goroutine.
//
// It does not acknowledge, and knows nothing of what the messages are for.
package pull

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do/bus"
)

// Hub has the subscription through which the messages of all its pullers come.
type Hub struct {
	bus   *bus.Bus
	inbox string
	sub   *nats.Subscription
	stop  func() // of OnDisconnect

	mu       sync.RWMutex // guards what follows
	last     uint64
	byNumber map[uint64]*Puller
	byName   map[string]*Puller // "<stream>.<consumer>"
}

// Open returns a hub without pullers. It holds a subscription until Close.
func Open(b *bus.Bus) (*Hub, error) {
	h := &Hub{
		bus: b, inbox: b.InboxPrefix() + ".pull-" + nuid.Next() + ".",
		byNumber: map[uint64]*Puller{}, byName: map[string]*Puller{},
	}
	sub, err := b.Conn().Subscribe(h.inbox+"*.*", h.receive)
	if err != nil {
		return nil, fmt.Errorf("pull: %w", err)
	}
	// What comes was asked for: the pulls bound it.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		_ = sub.Unsubscribe()
		return nil, fmt.Errorf("pull: %w", err)
	}
	h.sub = sub
	h.stop = b.OnDisconnect(h.disconnected)
	return h, nil
}

// closeTime is how long Close waits for what is on its way.
const closeTime = 2 * time.Second

// Close ends the subscription: the server delivers nothing more to it. What it has
// delivered before is handed on when Close returns, unless the bus is away.
func (h *Hub) Close() {
	h.stop()
	closed := make(chan struct{})
	h.sub.SetClosedHandler(func(string) { close(closed) })
	if !h.bus.Connected() || h.sub.Drain() != nil {
		_ = h.sub.Unsubscribe() // fails only when the connection is gone, and the subscription with it
		return
	}
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
		_ = h.sub.Unsubscribe()
	}
}

// Puller returns a puller for a consumer, which does nothing until Fill. A
// consumer has one at a time.
func (h *Hub) Puller(cfg Config) *Puller {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	p := &Puller{
		hub: h, number: h.last, cfg: cfg.withDefaults(h.bus.MaxPayload()), reply: h.inbox + strconv.FormatUint(h.last, 36) + ".",
		subject: "$JS.API.CONSUMER.MSG.NEXT." + cfg.Stream + "." + cfg.Consumer,
	}
	h.byNumber[p.number] = p
	h.byName[cfg.Stream+"."+cfg.Consumer] = p
	return p
}

func (h *Hub) remove(p *Puller) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byNumber, p.number)
	if name := p.cfg.Stream + "." + p.cfg.Consumer; h.byName[name] == p {
		delete(h.byName, name)
	}
}

func (h *Hub) all() []*Puller {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]*Puller, 0, len(h.byNumber))
	for _, p := range h.byNumber {
		all = append(all, p)
	}
	return all
}

// receive is called for one message after the other. A message of the stream
// comes with the subject it was stored under, and its own reply subject tells
// the consumer; what the server says of a pull comes on the pull's reply
// subject.
func (h *Hub) receive(msg *nats.Msg) {
	if rest, ok := strings.CutPrefix(msg.Subject, h.inbox); ok {
		to, number, _ := strings.Cut(rest, ".")
		n, err := strconv.ParseUint(to, 36, 64)
		pull, err2 := strconv.ParseUint(number, 36, 64)
		if err != nil || err2 != nil {
			return
		}
		h.mu.RLock()
		p := h.byNumber[n]
		h.mu.RUnlock()
		if p != nil {
			p.status(pull, msg)
		}
		return
	}
	m, ok := readMeta(msg)
	if !ok {
		return
	}
	h.mu.RLock()
	p := h.byName[m.name]
	h.mu.RUnlock()
	if p != nil {
		p.message(m)
	}
}

// disconnected forgets what is asked for: the server may have dropped it.
func (h *Hub) disconnected() {
	for _, p := range h.all() {
		p.forget()
	}
}

// Tick looks after pulls that get no answer, and asks again for pullers that had
// to wait. It is to be called a few times a second.
func (h *Hub) Tick(now time.Time) {
	for _, p := range h.all() {
		p.tick(now)
	}
}
