package ownership

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/lease"
)

// Member is one member. Classes are added, then Start makes it take part.
type Member struct {
	bus     *bus.Bus
	cfg     Config
	classes []*hosted
	journal *journal.Journal
	lease   lease.Lease
	owned   atomic.Int32

	stop    sync.Once
	stopErr error
	cancel  context.CancelFunc
	leave   chan struct{} // closed when the member is to leave
	ready   chan struct{} // closed when it had nothing to do for the first time
	empty   chan struct{} // closed when it is leaving and has nothing to wait for
	done    chan struct{} // closed when run has ended
	renewed chan error
	results chan result
	running sync.WaitGroup

	keeper // of the goroutine of run
}

// hosted is a class that the member hosts.
type hosted struct {
	Host
	name string
}

// New makes a member that does nothing until Start.
func New(b *bus.Bus, cfg Config) *Member { return &Member{bus: b, cfg: cfg} }

// Add makes the member host a class. It is called before Start.
func (m *Member) Add(class string, h Host) {
	m.classes = append(m.classes, &hosted{h, class})
	slices.SortFunc(m.classes, func(a, b *hosted) int { return cmp.Compare(a.name, b.name) })
}

func (m *Member) names() []string {
	names := make([]string, len(m.classes))
	for i, c := range m.classes {
		names[i] = c.name
	}
	return names
}

// Valid reports whether the member may act as the owner of its slots now.
func (m *Member) Valid() bool { return m.lease.Valid() }

// Now returns this moment on the lease's clock.
func (m *Member) Now() lease.Instant { return m.lease.Now() }

// LeaseLeft returns for how long it may, if nothing is renewed.
func (m *Member) LeaseLeft() time.Duration { return m.lease.Left() }

// Owned returns how many slots the member serves.
func (m *Member) Owned() int { return int(m.owned.Load()) }

// Start joins and returns when the member serves every slot that nobody else
// owns and that falls to it. When it fails nothing of the member is left. A
// member is started once.
func (m *Member) Start(ctx context.Context) error {
	if err := m.ensureBucket(ctx); err != nil {
		return err
	}
	var err error
	if m.journal, err = journal.Open(m.bus, Bucket); err != nil {
		return err
	}
	m.leave, m.ready = make(chan struct{}), make(chan struct{})
	m.empty, m.done = make(chan struct{}), make(chan struct{})
	m.renewed, m.results = make(chan error, 1), make(chan result, maxGiving+maxTaking)
	var life context.Context
	life, m.cancel = context.WithCancel(context.Background())
	m.incarnate(life)
	if err := m.join(ctx); err != nil {
		close(m.done)
		m.quit()
		return err
	}
	go m.run(life)
	select {
	case <-m.ready:
		err = m.flush(ctx) // the server knows what is subscribed to
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		m.quit()
		return fmt.Errorf("objects: the slots of %s were not taken in time: %w", strings.Join(m.names(), ", "), err)
	}
	return nil
}

// join writes the key of the first incarnation.
func (m *Member) join(ctx context.Context) error {
	for {
		m.begun = time.Now()
		err := m.renew(ctx, m.in, false)
		if err == nil {
			m.renewAt = m.begun.Add(m.cfg.Lease / 3)
			return nil
		}
		if pause(ctx, retryPause) != nil {
			return fmt.Errorf("objects: join the members of %s: %w", Bucket, err)
		}
	}
}

// flushTimeout bounds how long the server takes to know what is subscribed to.
const flushTimeout = 5 * time.Second

func (m *Member) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	return m.bus.Conn().FlushWithContext(ctx)
}

// Stop hands all slots over and leaves. The error says what could not be handed
// over: others take it by force. Stop may be called again, and returns the same.
func (m *Member) Stop(ctx context.Context) error {
	if m.done == nil {
		return nil // never started
	}
	m.stop.Do(func() {
		close(m.leave)
		select {
		case <-m.empty:
		case <-ctx.Done():
		}
		if left := m.Owned(); left > 0 {
			m.stopErr = fmt.Errorf("objects: %d slots were not handed over in time; others take them by force", left)
		}
		m.quit()
	})
	return m.stopErr
}

// quit ends the member at once. What it owned can be taken by force from then
// on: it does not act as an owner any more.
func (m *Member) quit() {
	m.cancel()
	<-m.done
	m.lease.End()
	m.dropAll()
	m.resign(m.in)
	m.journal.Close()
}
