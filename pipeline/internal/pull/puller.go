package pull

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Config says what a puller pulls.
type Config struct {
	Stream, Consumer string

	// Group makes the server deliver to one puller of the consumer at a time,
	// which holds the pin of this priority group (ADR-42). The consumer's policy
	// must be pinned_client. Empty for none.
	Group string

	// PinFor is the consumer's priority timeout: the pin is lost when no pull is
	// sent for so long.
	PinFor time.Duration

	// Message gets what was pulled, and Again is called when there may be
	// something to ask for: both from goroutines of the hub that must not be held
	// up, and which hold no lock.
	Message func(Message)
	Again   func()

	// Gone is called when the consumer, or its stream, does not seem to be there,
	// or does not answer. It must not be held up either.
	Gone func()

	// Pinned is called when the puller has got the pin, and when it has lost it.
	Pinned func(bool)
}

func (c Config) withDefaults(maxPayload int64) Config {
	none := func() {}
	if c.Again == nil {
		c.Again = none
	}
	if c.Gone == nil {
		c.Gone = none
	}
	if c.Pinned == nil {
		c.Pinned = func(bool) {}
	}
	return c
}

const (
	// expires is how long the server keeps a pull, and heartbeat how often it
	// says that it does.
	expires   = 60 * time.Second
	heartbeat = 5 * time.Second

	// keepEvery and keepExpires are the parts of the time that a pin stays by
	// itself after which a pull is sent that only keeps it, and after which that is
	// answered.
	keepEvery   = 4
	keepExpires = 12

	// maxBytes bounds what one pull may bring, whatever the number of messages.
	maxBytes = 16 << 20

	// After an answer that says that there is none now.
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// Puller asks a consumer for messages.
type Puller struct {
	hub     *Hub
	number  uint64
	cfg     Config
	reply   string
	subject string

	mu       sync.Mutex // guards what follows
	closed   bool
	asked    int    // messages that are still to come
	last     uint64 // number of the last pull
	heard    time.Time
	pause    time.Duration
	wait     time.Time // nothing is asked for before
	maxBatch int       // the consumer's own bound, 0 for none

	pin       string
	keeps     map[uint64]time.Time // pulls that keep the pin, without an answer yet
	kept      time.Time            // when the last one that was answered was sent
	keptLast  time.Time            // when the last one was sent
	announced bool
}

// Close ends the puller. The server may still deliver what was asked for, which
// nobody gets.
func (p *Puller) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.hub.remove(p)
}

// request is what a pull asks for.
type request struct {
	Expires   time.Duration `json:"expires"`
	Batch     int           `json:"batch"`
	MaxBytes  int64         `json:"max_bytes"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
	Group     string        `json:"group,omitempty"`
	ID        string        `json:"id,omitempty"`
}

// Fill asks for as many messages as there is room for, of a capacity, less those
// that are to come already, unless that is few for a pull of its own.
func (p *Puller) Fill(room, capacity int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := room - p.asked
	if n < (capacity+3)/4 || n <= 0 || p.closed || !p.hub.bus.Connected() {
		return
	}
	now := time.Now()
	if now.Before(p.wait) {
		return
	}
	if p.maxBatch > 0 {
		n = min(n, p.maxBatch)
	}
	p.asked += n
	p.heard = now
	if !p.send(request{
		Expires: expires, Batch: n, MaxBytes: max(maxBytes, 2*p.hub.bus.MaxPayload()), Heartbeat: heartbeat,
		Group: p.cfg.Group, ID: p.pin,
	}) {
		p.asked = 0
		p.delay(now)
	}
}

// send sends a pull. The puller is locked.
func (p *Puller) send(r request) bool {
	body, err := json.Marshal(r)
	if err != nil {
		return false // it has nothing that JSON can't write
	}
	p.last++
	return p.hub.bus.Conn().PublishRequest(p.subject, p.reply+strconv.FormatUint(p.last, 36), body) == nil
}

// keep sends a pull that no message fits into: it keeps the pin and is answered
// in any case. The puller is locked.
func (p *Puller) keep(now time.Time) {
	if len(p.keeps) >= 16 {
		clear(p.keeps)
	}
	p.keptLast = now
	if p.send(request{Expires: p.cfg.PinFor / keepExpires, Batch: 1, MaxBytes: 1, Group: p.cfg.Group, ID: p.pin}) {
		p.keeps[p.last] = now
	}
}

// delay makes the next pull wait, longer each time. The puller is locked.
func (p *Puller) delay(now time.Time) {
	p.pause = min(max(2*p.pause, minPause), maxPause)
	p.wait = now.Add(p.pause)
}

// message takes in a message of the stream.
func (p *Puller) message(m Message) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.asked = max(p.asked-1, 0)
	p.heard, p.pause = time.Now(), 0
	got := false
	if p.cfg.Group != "" {
		if pin := m.Header.Get("Nats-Pin-Id"); pin != p.pin && pin != "" {
			p.pin, p.keeps, p.kept, got = pin, map[uint64]time.Time{}, time.Time{}, true
			p.asked = 0 // pulls without the pin bring nothing now, and which of them has got it is not known
			p.keep(p.heard)
		}
	}
	p.mu.Unlock()
	if got {
		p.announce(true)
	}
	p.cfg.Message(m)
}

// announce tells of a pin that was got or lost, each once.
func (p *Puller) announce(pinned bool) {
	p.mu.Lock()
	again := p.announced && pinned
	tell := p.announced != pinned
	p.announced = pinned
	p.mu.Unlock()
	if again { // another pin: between the two somebody else may have had it
		p.cfg.Pinned(false)
		tell = true
	}
	if tell {
		p.cfg.Pinned(pinned)
	}
}

// Holds reports whether the puller surely holds the pin now, with a margin.
func (p *Puller) Holds(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pin != "" && now.Sub(p.kept) < p.cfg.PinFor-p.cfg.PinFor/4
}

// Forgo makes the puller one without the pin, which somebody has taken from the
// consumer.
func (p *Puller) Forgo() {
	p.mu.Lock()
	p.pin, p.keeps = "", nil
	p.mu.Unlock()
	p.announce(false)
}

// Pin returns the id of the pin, empty for none.
func (p *Puller) Pin() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pin
}

// status takes in what the server says of a pull.
func (p *Puller) status(pull uint64, msg *nats.Msg) {
	code, text := msg.Header.Get("Status"), msg.Header.Get("Description")
	now := time.Now()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	sent, keeps := p.keeps[pull]
	delete(p.keeps, pull)
	if !keeps { // which says nothing of the others
		p.heard = now
	}
	if code == "100" {
		p.mu.Unlock()
		return
	}
	if keeps && code != "423" { // the pin was right when the pull was taken in
		if sent.After(p.kept) {
			p.kept = sent
		}
		p.mu.Unlock()
		return
	}
	left, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages"))
	switch {
	case keeps:
		left = 0
	case err != nil: // it does not say: nothing more comes of any pull
		left = p.asked
	}
	p.asked = max(p.asked-left, 0)
	gone, lost := false, false
	switch code {
	case "404", "408":
		p.pause = 0
	case "423":
		lost = p.pin != ""
		p.pin, p.keeps = "", nil
	case "409":
		text = strings.ToLower(text)
		switch {
		case strings.Contains(text, "batch completed"), strings.Contains(text, "maxbytes"):
		case strings.HasPrefix(text, "exceeded maxrequestbatch of "):
			p.maxBatch, _ = strconv.Atoi(text[len("exceeded maxrequestbatch of "):])
			p.delay(now)
		case strings.Contains(text, "consumer deleted"):
			p.asked = 0
			p.delay(now)
			gone = true
		default: // a change of the leader, a server that shuts down, too many pulls
			p.asked = 0
			p.delay(now)
		}
	default: // 503: nobody answers for the consumer
		p.asked = 0
		p.delay(now)
		gone = true
	}
	p.mu.Unlock()
	if lost {
		p.announce(false)
	}
	if gone {
		p.cfg.Gone()
	}
	p.cfg.Again()
}

// forget drops what is asked for.
func (p *Puller) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.pause = 0, 0
	p.kept = time.Time{} // a server that was restarted knows no pins
}

// tick drops what is asked for when nothing has been heard of it for too long.
func (p *Puller) tick(now time.Time) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	silent := p.asked > 0 && now.Sub(p.heard) > 2*heartbeat+time.Second
	if silent {
		p.asked = 0
	}
	lost := p.pin != "" && now.Sub(p.kept) > 2*p.cfg.PinFor && now.Sub(p.keptLast) > p.cfg.PinFor // as when the bus is away
	switch {
	case lost:
		p.pin, p.keeps = "", nil
	case p.pin != "" && now.Sub(p.keptLast) >= p.cfg.PinFor/keepEvery && p.hub.bus.Connected():
		p.keep(now)
	}
	again := p.asked == 0 && !now.Before(p.wait)
	p.mu.Unlock()
	if lost {
		p.announce(false)
	}
	if silent {
		p.cfg.Gone()
	}
	if again {
		p.cfg.Again()
	}
}
