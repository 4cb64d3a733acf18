package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// dialTimeout bounds connecting to the server.
const dialTimeout = 5 * time.Second

// Config says what a proxy stands before.
type Config struct {
	// Target is the server's host and port. Required.
	Target string

	// Address is where clients connect. Defaults to a free port of 127.0.0.1.
	Address string

	// Seed is what chance depends on, see Determinism above.
	Seed uint64
}

// Proxy is a proxy that Start has started. Its methods may be called by many
// goroutines at once.
type Proxy struct {
	cfg      Config
	listener net.Listener
	wg       sync.WaitGroup
	mode     atomic.Pointer[mode]
	rules    atomic.Pointer[[]*Active]
	stats    stats

	mu      sync.Mutex // for what follows, and for changing mode and rules
	added   uint64     // rules
	serial  uint64     // connections
	conns   map[*conn]bool
	closing bool
}

// mode is what happens to whole connections.
type mode struct {
	held, black, refusing bool
	changed               chan struct{} // closed when another mode follows
}

// Stats counts what went through a proxy.
type Stats struct {
	Accepted int // connections
	Refused  int // connections
	Cut      int // connections, also those cut at the end of a Blackhole
	Open     int // connections

	FromClients Count
	FromServer  Count
}

// Count counts messages.
type Count struct {
	Messages int // all that were seen
	Dropped  int // by rules
	Delayed  int
	Unread   int // connections on which messages could no longer be told apart, and pass unseen
}

type stats struct {
	accepted, refused, cut atomic.Int64
	side                   [Server + 1]struct{ messages, dropped, delayed, unread atomic.Int64 }
}

// Start starts a proxy. It does not try to reach the server: it connects once
// for each client, when that connects.
func Start(cfg Config) (*Proxy, error) {
	if _, _, err := net.SplitHostPort(cfg.Target); err != nil {
		return nil, fmt.Errorf("faultproxy: Config.Target: %w", err)
	}
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("faultproxy: %w", err)
	}
	p := &Proxy{cfg: cfg, listener: listener, conns: map[*conn]bool{}}
	p.mode.Store(&mode{changed: make(chan struct{})})
	p.rules.Store(&[]*Active{})
	p.wg.Go(p.accept)
	return p, nil
}

// Address returns the host and port where clients connect.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// URL returns what clients connect to, such as nats://127.0.0.1:40123.
func (p *Proxy) URL() string { return "nats://" + p.Address() }

// Add adds a rule behind those that are there. The first rule that hits a
// message decides; it fails only for a rule that makes no sense.
func (p *Proxy) Add(rule Rule) (*Active, error) {
	if err := rule.check(); err != nil {
		return nil, err
	}
	if rule.Chance == 0 {
		rule.Chance = 1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.added++
	a := &Active{rule: rule, number: p.added, changed: make(chan struct{})}
	a.remove = func() {
		p.setRules(func(rules []*Active) []*Active {
			return slices.DeleteFunc(rules, func(b *Active) bool { return a == b })
		})
	}
	rules := append(slices.Clone(*p.rules.Load()), a)
	p.rules.Store(&rules)
	return a, nil
}

func (p *Proxy) setRules(change func([]*Active) []*Active) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rules := change(slices.Clone(*p.rules.Load()))
	p.rules.Store(&rules)
}

// Cut cuts all connections, with a reset to both sides, and returns how many.
// What was on its way is lost. Clients may connect again at once.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cutAll()
}

// cutAll needs p.mu.
func (p *Proxy) cutAll() int {
	for c := range p.conns {
		c.cut()
	}
	return len(p.conns)
}

// Refuse resets new connections as soon as they are made, until told
// otherwise. Those that are open go on.
func (p *Proxy) Refuse(on bool) { p.setMode(func(m *mode) { m.refusing = on }) }

// Hold holds back all that comes, from both sides and also the ends of
// connections, until told otherwise; then it is passed on, and nothing is lost.
// New connections are accepted and wait.
func (p *Proxy) Hold(on bool) { p.setMode(func(m *mode) { m.held = on }) }

// Blackhole swallows all that comes, from both sides and also the ends of
// connections, until told otherwise. New connections are accepted and hear
// nothing. At its end all connections are cut, as they have lost bytes.
func (p *Proxy) Blackhole(on bool) {
	was := p.setMode(func(m *mode) { m.black = on })
	if was.black && !on {
		p.Cut()
	}
}

func (p *Proxy) setMode(change func(*mode)) (was mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.mode.Load()
	next := *old
	change(&next)
	next.changed = make(chan struct{})
	p.mode.Store(&next)
	close(old.changed)
	return *old
}

// Stats returns the counts so far.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	open := len(p.conns)
	p.mu.Unlock()
	count := func(s Side) Count {
		c := &p.stats.side[s]
		return Count{int(c.messages.Load()), int(c.dropped.Load()), int(c.delayed.Load()), int(c.unread.Load())}
	}
	return Stats{
		Accepted: int(p.stats.accepted.Load()), Refused: int(p.stats.refused.Load()), Cut: int(p.stats.cut.Load()), Open: open,
		FromClients: count(Client), FromServer: count(Server),
	}
}

// Close stops listening, cuts all connections and waits until all has ended. It
// may be called again.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closing = true
	p.cutAll()
	p.mu.Unlock()
	err := p.listener.Close()
	p.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("faultproxy: %w", err)
	}
	return nil
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // too many open files: it may pass
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if p.mode.Load().refusing {
			p.stats.refused.Add(1)
			reset(client)
			continue
		}
		p.mu.Lock()
		if p.closing {
			p.mu.Unlock()
			reset(client)
			continue
		}
		p.serial++
		p.stats.accepted.Add(1)
		c := newConn(p, p.serial, client)
		p.conns[c] = true
		p.wg.Go(c.serve)
		p.mu.Unlock()
	}
}

func (p *Proxy) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// reset closes a connection as if it was no longer known.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it may be closed already
	}
	_ = c.Close()
}

// dial connects to the server; it gives up when ctx ends.
func (p *Proxy) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, "tcp", p.cfg.Target)
}
