package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline/internal/read"
)

// Limits of a page of History.
const (
	DefaultPage = 100
	MaxPage     = 10_000

	maxPageBytes = 16 << 20
	maxPageScan  = 50_000 // messages that are looked at
	minWindow    = 256    // sequences that are read backwards at once
)

// Query says which events History lists. The zero value is all of them, from the
// oldest.
type Query struct {
	// Patterns say which types, as ParsePattern reads them. Defaults to all.
	Patterns []string

	// Since and Until bound when an event was stored: not before Since, and before
	// Until. Default to no bound.
	Since, Until time.Time

	// After and Before bound the sequence; both are excluded. Default to no bound.
	After, Before uint64

	// Cursor is the Next of the page before, of the same query. Defaults to the
	// first page.
	Cursor string

	// Limit is the number of events of a page, at most MaxPage. Defaults to
	// DefaultPage.
	Limit int

	// Reverse lists the newest first.
	Reverse bool
}

// Page is a part of what a Query asks for.
type Page struct {
	Events []RawEvent
	// Next is the Cursor of the next page, empty when there is none. A page may
	// have fewer events than the limit, or none, and a next page still: when its
	// events are large, or few of those looked at are of the types asked for.
	Next string
}

// History lists events that are stored. The pages of a query together have every
// event that matches once, in the order of the stream or, with Reverse, against
// it, whatever is sent meanwhile: with Reverse, what is sent after the first page
// was made is in none. What cannot be read as an event is listed with what can be
// read of it; only patterns that match its subject find it.
//
// It looks at 50,000 events for a page, and returns 16 MiB of them, at most. It
// fails with InvalidArgument for a query that is malformed.
func (p *Pipeline) History(ctx context.Context, q Query) (Page, error) {
	patterns, err := parsePatterns(q.Patterns)
	if err != nil {
		return Page{}, err
	}
	if q.Limit == 0 {
		q.Limit = DefaultPage
	}
	switch {
	case q.Limit < 0 || q.Limit > MaxPage:
		return Page{}, rpc.InvalidArgument.Errorf("limit %d: want 1 to %d", q.Limit, MaxPage)
	case !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until):
		return Page{}, rpc.InvalidArgument.Errorf("since %v is not before until %v", q.Since, q.Until)
	case q.Before > 0 && q.After >= q.Before:
		return Page{}, rpc.InvalidArgument.Errorf("after %d is not below before %d", q.After, q.Before)
	}
	at, err := parseCursor(q)
	if err != nil {
		return Page{}, err
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	h := &history{p: p, q: q, patterns: patterns, filters: filters(patterns)}
	if h.info, err = p.look(ctx); err != nil {
		return Page{}, coded(ctx, err)
	}
	if err := h.bound(ctx, at); err != nil {
		return Page{}, coded(ctx, err)
	}
	list := h.forward
	if q.Reverse {
		list = h.backward
	}
	if err := list(ctx); err != nil {
		return Page{}, coded(ctx, err)
	}
	return h.page, nil
}

// Event returns the event with that sequence. It fails with NotFound when there
// is none, or none any more.
func (p *Pipeline) Event(ctx context.Context, seq uint64) (RawEvent, error) {
	if seq == 0 {
		return RawEvent{}, rpc.InvalidArgument.Errorf("sequence 0: sequences begin at 1")
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	if _, err := p.events(ctx); err != nil {
		return RawEvent{}, err
	}
	msg, err := read.FromLeader(ctx, p.bus, seq, "")
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return RawEvent{}, rpc.NotFound.Errorf("there is no event with the sequence %d: none was stored yet, or it was removed", seq)
	}
	if err != nil {
		return RawEvent{}, coded(ctx, err)
	}
	e, _ := parse(msg.Subject, msg.Header, msg.Data, bus.Stored{Stream: bus.EventsStream, Sequence: msg.Sequence, Time: msg.Time})
	return p.withData(e), nil
}

// withData fills in the data of an event when they are JSON.
func (p *Pipeline) withData(e RawEvent) RawEvent {
	if err := decode(p.bus, &e); err != nil || !json.Valid(e.Data) {
		e.Data = nil
	}
	return e
}

func parsePatterns(texts []string) ([]Pattern, error) {
	patterns := make([]Pattern, len(texts))
	for i, text := range texts {
		var err error
		if patterns[i], err = ParsePattern(text); err != nil {
			return nil, err
		}
	}
	return patterns, nil
}

// takes reports whether a message on that subject is asked for.
func (h *history) takes(subject string) bool {
	name, ok := bus.EventName(subject)
	return len(h.patterns) == 0 || ok && slices.ContainsFunc(h.patterns, func(p Pattern) bool { return p.Match(name) })
}

// cursor is a place between two pages.
type cursor struct {
	reverse bool
	from    uint64 // what is left is [from, end)
	end     uint64
}

func (c cursor) String() string {
	direction := 'f'
	if c.reverse {
		direction = 'r'
	}
	if c.end == read.Open {
		return fmt.Sprintf("%c%d", direction, c.from)
	}
	return fmt.Sprintf("%c%d-%d", direction, c.from, c.end)
}

// parseCursor returns where a query goes on, the zero cursor at its beginning.
func parseCursor(q Query) (cursor, error) {
	if q.Cursor == "" {
		return cursor{}, nil
	}
	c := cursor{reverse: q.Reverse, end: read.Open}
	var direction rune
	if n, _ := fmt.Sscanf(q.Cursor, "%c%d-%d", &direction, &c.from, &c.end); n < 3 {
		c.end = read.Open
	}
	written := c
	written.reverse = direction == 'r'
	switch {
	case written.String() != q.Cursor || c.from == 0 || c.end < c.from || c.end == read.Open && written.reverse:
		return cursor{}, rpc.InvalidArgument.Errorf("cursor %.80q is not one that a page has as its next", q.Cursor)
	case written.reverse != q.Reverse:
		return cursor{}, rpc.InvalidArgument.Errorf("cursor %.80q is of a query in the other direction: reverse must be as for the page before", q.Cursor)
	}
	return c, nil
}

// history makes one page.
type history struct {
	p        *Pipeline
	q        Query
	patterns []Pattern
	filters  []string
	info     *jetstream.StreamInfo

	from, end uint64 // what is left is [from, end)
	scanned   int
	size      int
	page      Page
}

// bound works out where the page begins and ends.
func (h *history) bound(ctx context.Context, at cursor) error {
	state := &h.info.State
	h.from, h.end = max(state.FirstSeq, h.q.After+1, 1), read.Open
	if h.q.Reverse {
		h.end = state.LastSeq + 1
	}
	if h.q.Before > 0 {
		h.end = min(h.end, h.q.Before)
	}
	if at.from > 0 {
		h.from, h.end = max(h.from, at.from), min(h.end, at.end)
		return nil
	}
	if !h.q.Since.IsZero() {
		seq, err := read.SequenceAt(ctx, h.p.bus, h.q.Since, h.info)
		if err != nil {
			return err
		}
		h.from = max(h.from, seq)
	}
	if !h.q.Until.IsZero() && !h.q.Until.After(state.LastTime) {
		end, err := h.until(ctx)
		if err != nil {
			return err
		}
		h.end = min(h.end, end)
	}
	return nil
}

// until returns the first sequence that is too late.
func (h *history) until(ctx context.Context) (uint64, error) {
	seq, err := read.SequenceAt(ctx, h.p.bus, h.q.Until, h.info)
	if err != nil || h.info.Config.Replicas <= 1 {
		return seq, err
	}
	first, err := read.FromLeader(ctx, h.p.bus, seq, ">")
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, err
	}
	if err == nil && first.Time.Before(h.q.Until) { // the answer is of a server that is behind
		return h.info.State.LastSeq + 1, nil
	}
	return seq, nil
}

// scan reads [from, end). It wants n events.
func (h *history) scan(from, end uint64, n int) *read.Scan {
	return read.NewScan(h.p.bus, from, end, h.info, read.Config{Filters: h.filters, Batch: min(n+1, 500)})
}

// event returns the event of a message, false when it is not asked for.
func (h *history) event(m read.Message) (RawEvent, bool) {
	h.scanned++
	at := m.Stored.Time
	if !h.q.Since.IsZero() && at.Before(h.q.Since) || !h.q.Until.IsZero() && !at.Before(h.q.Until) || !h.takes(m.Subject) {
		return RawEvent{}, false
	}
	e, _ := parse(m.Subject, m.Header, m.Data, m.Stored)
	return h.p.withData(e), true
}

// forward lists the oldest first.
func (h *history) forward(ctx context.Context) error {
	if h.from >= h.end {
		return nil
	}
	s := h.scan(h.from, h.end, h.q.Limit)
	defer s.Close()
	for {
		m, err := s.Next(ctx)
		if errors.Is(err, read.ErrNoMore) || err == nil && h.over(m) {
			return nil
		}
		if err != nil {
			return err
		}
		h.from = m.Stored.Sequence + 1
		if e, ok := h.event(m); ok {
			h.page.Events = append(h.page.Events, e)
			h.size += m.Size()
		}
		if !h.full() {
			continue
		}
		if s.More(m) {
			h.page.Next = cursor{from: h.from, end: h.end}.String()
		}
		return nil
	}
}

// over reports whether a message, and so all that follow, is too late.
func (h *history) over(m read.Message) bool {
	return h.end == read.Open && !h.q.Until.IsZero() && !m.Stored.Time.Before(h.q.Until)
}

func (h *history) full() bool {
	return len(h.page.Events) >= h.q.Limit || h.size >= maxPageBytes || h.scanned >= maxPageScan
}

// backward lists the newest first. The server reads forwards only, so it reads
// windows, each before the one that it has read: as long as it takes to fill the
// page, when it could know.
func (h *history) backward(ctx context.Context) error {
	above, err := h.count(ctx, h.end)
	if err != nil {
		return err
	}
	window := uint64(max(h.q.Limit, minWindow))
	for h.from < h.end && !h.full() {
		start := h.from
		if h.end-h.from > window {
			start = h.end - window
		}
		more, err := h.window(ctx, start, &above, &window)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if h.from < h.end {
		h.page.Next = cursor{reverse: true, from: h.from, end: h.end}.String()
	}
	return nil
}

// count returns how many events the filters let through from a sequence on.
func (h *history) count(ctx context.Context, from uint64) (uint64, error) {
	if from > h.info.State.LastSeq {
		return 0, nil
	}
	s := h.scan(from, from, 0)
	defer s.Close()
	err := s.Open(ctx)
	return s.Pending, err
}

// window lists [start, end), of which it lists the newest events when the page
// has no room for all, and false when so. It does nothing but make the window
// smaller when it has far more. Above is how many events were at and after its
// end: the server counts to the end of the stream. The counts say how large the
// windows should be, and nothing depends on them.
func (h *history) window(ctx context.Context, start uint64, above, size *uint64) (more bool, err error) {
	room := h.q.Limit - len(h.page.Events)
	s := h.scan(start, h.end, room)
	defer s.Close()
	if err := s.Open(ctx); err != nil {
		return false, err
	}
	inside := s.Pending - min(*above, s.Pending)
	if inside > uint64(2*room+minWindow) && h.end-start > minWindow {
		*size = max((h.end-start)/2, minWindow)
		return true, nil
	}
	keep := newest{limit: room, bytes: maxPageBytes - h.size}
	for {
		m, err := s.Next(ctx)
		if errors.Is(err, read.ErrNoMore) {
			break
		}
		if err != nil {
			return false, err
		}
		if e, ok := h.event(m); ok {
			keep.add(e, m.Size())
		}
	}
	slices.Reverse(keep.events)
	h.page.Events = append(h.page.Events, keep.events...)
	h.size += keep.size
	if keep.dropped {
		h.end = keep.events[len(keep.events)-1].Sequence
		return false, nil
	}
	h.end, *above = start, s.Pending
	if inside < uint64(room) {
		*size *= 4
	}
	return true, nil
}

// newest keeps the last events that were added, one at least.
type newest struct {
	limit, bytes int
	events       []RawEvent
	sizes        []int
	size         int
	dropped      bool
}

func (n *newest) add(e RawEvent, size int) {
	n.events, n.sizes, n.size = append(n.events, e), append(n.sizes, size), n.size+size
	for len(n.events) > 1 && (len(n.events) > n.limit || n.size > n.bytes) {
		n.size -= n.sizes[0]
		n.events[0] = RawEvent{}
		n.events, n.sizes, n.dropped = n.events[1:], n.sizes[1:], true
	}
}

// look returns what the leader of the stream EVENTS says of it. The stream is made
// when it is not there.
func (p *Pipeline) look(ctx context.Context) (*jetstream.StreamInfo, error) {
	for try := 1; ; try++ {
		if _, err := p.events(ctx); err != nil {
			return nil, err
		}
		stream, err := read.Retry(ctx, p.bus, func(ctx context.Context) (jetstream.Stream, error) {
			return p.js.Stream(ctx, bus.EventsStream)
		})
		if err == nil {
			return stream.CachedInfo(), nil
		}
		if !errors.Is(err, jetstream.ErrStreamNotFound) || try > 1 {
			return nil, err
		}
		p.lost(ctx, bus.EventsStream)
	}
}
