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

	// Pinned is called when the puller may have got the pin, or lost it: Pin says
	// which.
	Pinned func()

	// Warn is told what keeps the puller from its work.
	Warn func(text string)
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
		c.Pinned = none
	}
	if c.Warn == nil {
		c.Warn = func(string) {}
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

	mu     sync.Mutex // guards what follows
	closed bool
	asked  int    // messages that are still to come
	last   uint64 // number of the last pull
	heard  time.Time
	pause  time.Duration
	wait   time.Time // nothing is asked for before

	// Bounds that the operator has set for pulls; 0 for none.
	maxBatch   int
	maxBytes   int64
	maxExpires time.Duration

	pin      string
	pinFrom  uint64               // the last pull before the pin was got: those say nothing of it
	keeps    map[uint64]time.Time // pulls that keep the pin, without an answer yet
	kept     time.Time            // when the last one that was answered was sent
	keptLast time.Time            // when the last one was sent
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
	r := request{
		Expires: expires, Batch: n, MaxBytes: max(maxBytes, 2*p.hub.bus.MaxPayload()), Heartbeat: heartbeat,
		Group: p.cfg.Group, ID: p.pin,
	}
	if p.maxBytes > 0 {
		r.MaxBytes = min(r.MaxBytes, p.maxBytes)
	}
	if p.maxExpires > 0 {
		r.Expires = min(r.Expires, p.maxExpires)
		r.Heartbeat = min(r.Heartbeat, r.Expires/2)
	}
	if !p.send(r) {
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
	wait := p.cfg.PinFor / keepExpires
	if p.maxExpires > 0 {
		wait = min(wait, p.maxExpires)
	}
	if p.send(request{Expires: wait, Batch: 1, MaxBytes: 1, Group: p.cfg.Group, ID: p.pin}) {
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
		if pin := m.Pin(); pin != p.pin && pin != "" {
			p.pin, p.pinFrom, p.keeps, p.kept, got = pin, p.last, map[uint64]time.Time{}, time.Time{}, true
			p.asked = 0 // pulls without the pin bring nothing now, and which of them has got it is not known
			p.keep(p.heard)
		}
	}
	p.mu.Unlock()
	if got {
		p.cfg.Pinned()
	}
	p.cfg.Message(m)
}

// Holds reports whether the puller surely holds the pin now, with a margin.
func (p *Puller) Holds(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pin != "" && now.Sub(p.kept) < p.cfg.PinFor-p.cfg.PinFor/4
}

// Forgo makes the puller one without that pin, which somebody has taken from the
// consumer.
func (p *Puller) Forgo(pin string) {
	p.mu.Lock()
	had := p.pin == pin
	if had {
		p.pin, p.keeps = "", nil
	}
	p.mu.Unlock()
	if had {
		p.cfg.Pinned()
	}
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
	text = strings.ToLower(text)
	if keeps {
		if code == "408" || code == "409" && (text == tooLarge || text == completed) { // the pin was right when the pull was taken in
			if sent.After(p.kept) {
				p.kept = sent
			}
			p.mu.Unlock()
			return
		}
	} else if left, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages")); err == nil {
		p.asked = max(p.asked-left, 0)
	} else { // it does not say: nothing more comes of any pull
		p.asked = 0
	}
	lost, gone, warn := p.ended(now, pull, code, text)
	p.mu.Unlock()
	if lost {
		p.cfg.Pinned()
	}
	if gone {
		p.cfg.Gone()
	}
	if warn != "" {
		p.cfg.Warn(warn)
	}
	p.cfg.Again()
}

// What the server says of a pull that has ended, in lower case.
const (
	tooLarge      = "message size exceeds maxbytes"
	completed     = "batch completed"
	overBatch     = "exceeded maxrequestbatch of "
	overExpires   = "exceeded maxrequestexpires of "
	overBytes     = "exceeded maxrequestmaxbytes of "
	deleted       = "consumer deleted"
	changedLeader = "leadership change"
	shutdown      = "server shutdown"
)

// ended takes in how a pull has ended. The puller is locked.
func (p *Puller) ended(now time.Time, pull uint64, code, text string) (lost, gone bool, warn string) {
	after := func(prefix string) (rest string, ok bool) { return strings.CutPrefix(text, prefix) }
	switch {
	case code == "404", code == "408", code == "409" && (text == tooLarge || text == completed):
		p.pause = 0
		if text == tooLarge && p.maxBytes > 0 { // the operator's bound is below the size of a message, it may be
			p.delay(now)
		}
		return
	case code == "423":
		if lost = p.pin != "" && pull > p.pinFrom; lost {
			p.pin, p.keeps = "", nil
		}
		return
	}
	p.delay(now)
	if rest, ok := after(overBatch); ok {
		p.maxBatch, _ = strconv.Atoi(rest)
		return
	}
	if rest, ok := after(overExpires); ok {
		p.maxExpires, _ = time.ParseDuration(rest)
		return
	}
	if rest, ok := after(overBytes); ok {
		p.maxBytes, _ = strconv.ParseInt(rest, 10, 64)
		return
	}
	p.asked = 0
	switch {
	case code == "409" && (text == changedLeader || text == shutdown):
	case code == "409" && text == deleted, code == "503":
		gone = true
	default:
		warn = code + " " + text
	}
	return
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
		p.cfg.Pinned()
	}
	if silent {
		p.cfg.Gone()
	}
	if again {
		p.cfg.Again()
	}
}
