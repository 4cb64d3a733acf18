package pipeline

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline/internal/read"
)

// DefaultTraceLimit is how many events a trace has when TraceOptions does not say.
const DefaultTraceLimit = 10_000

// TraceOptions say how far a trace looks. The zero value will do.
type TraceOptions struct {
	// Since is when the first event of the trace was stored, or earlier. Defaults
	// to a minute before the time that the ids of events begin with, and to the
	// beginning of the stream for ids that have none.
	Since time.Time

	// Limit is the number of events of the trace. Defaults to DefaultTraceLimit.
	Limit int

	// Progress is called now and then, from the goroutine of Trace, with how many
	// events were looked at and how many there are to look at. Defaults to none.
	Progress func(scanned, total uint64)
}

// Trace is what led to an event and what followed from it.
type Trace struct {
	// ID is the event that was asked for.
	ID string `json:"id"`
	// Root is the event that everything began with.
	Root *Node `json:"root"`
	// Events counts the events below and with Root that are there.
	Events int `json:"events"`
	// Truncated says that there are more events than the limit: the later ones are
	// left out.
	Truncated bool `json:"truncated,omitempty"`
}

// Node is one event of a trace, without its data.
type Node struct {
	ID string `json:"id"`
	// Absent says that the event is not in the stream: nothing but its id is known,
	// from those that it led to.
	Absent bool `json:"absent,omitempty"`

	Sequence    uint64    `json:"sequence,omitempty"`
	Type        string    `json:"type,omitempty"`
	Source      string    `json:"source,omitempty"`
	Subject     string    `json:"subject,omitempty"`
	Time        time.Time `json:"time,omitzero"`
	Stored      time.Time `json:"stored,omitzero"`
	CausationID string    `json:"causationId,omitempty"`
	Hops        int       `json:"hops,omitempty"`

	// Children are the events that this one led to, in the order of the stream.
	Children []*Node `json:"children,omitempty"`
}

const (
	// traceMargin is how much clocks may differ.
	traceMargin = time.Minute

	traceBatch    = 5000
	traceProgress = 1000 // events between two calls of Progress
)

// Trace returns the tree of all events that began with the same one as the event
// with that id. Each is below the one whose handler has sent it; below the root is
// also what says that it belongs to it, but not by which event.
//
// There is no index: Trace reads the headers of all events since the first one of
// the tree, so give it the time that takes, some 3 µs an event. An event that was
// removed is in the tree, as absent, when one that it led to is there.
//
// It fails with NotFound when there is no event with that id, nor one that it led
// to.
func (p *Pipeline) Trace(ctx context.Context, id string, opts TraceOptions) (*Trace, error) {
	if opts.Limit == 0 {
		opts.Limit = DefaultTraceLimit
	}
	switch {
	case id == "":
		return nil, rpc.InvalidArgument.Errorf("the id is empty: want that of an event")
	case opts.Limit < 0:
		return nil, rpc.InvalidArgument.Errorf("limit %d: want 1 or more", opts.Limit)
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	t := &trace{p: p, opts: opts, id: id}
	if err := t.run(ctx); err != nil {
		return nil, coded(ctx, err)
	}
	return t.tree(), nil
}

// trace makes a Trace.
type trace struct {
	p    *Pipeline
	opts TraceOptions
	id   string
	info *jetstream.StreamInfo

	scanned, total uint64

	root  string  // id of the event that everything began with
	asked *Node   // nil when it is not there
	nodes []*Node // in the order of the stream
	more  bool    // than the limit
}

func (t *trace) run(ctx context.Context) (err error) {
	if t.info, err = t.p.look(ctx); err != nil {
		return err
	}
	if err := t.find(ctx); err != nil {
		return err
	}
	from, err := t.from(ctx, t.root)
	if err != nil {
		return err
	}
	return t.scan(ctx, from, func(e *RawEvent) bool {
		switch {
		case e.CorrelationID != t.root && e.ID != t.root:
			return true
		case len(t.nodes) >= t.opts.Limit:
			t.more = true
			return false
		}
		t.nodes = append(t.nodes, newNode(e))
		return true
	})
}

func newNode(e *RawEvent) *Node {
	return &Node{
		ID: e.ID, Sequence: e.Sequence, Type: e.Type, Source: e.Source, Subject: e.Subject,
		Time: e.Time, Stored: e.Stored, CausationID: e.CausationID, Hops: e.Hops,
	}
}

// find finds out what the event began with: by the event, or by one that it led
// to.
func (t *trace) find(ctx context.Context) error {
	from, err := t.from(ctx, t.id)
	if err != nil {
		return err
	}
	err = t.scan(ctx, from, func(e *RawEvent) bool {
		switch t.id {
		case e.ID:
			t.root, t.asked = e.CorrelationID, newNode(e)
			return false
		case e.CorrelationID, e.CausationID:
			t.root = cmp.Or(t.root, e.CorrelationID)
		}
		return true
	})
	if err == nil && t.root == "" {
		return rpc.NotFound.Errorf("there is no event %.80q among those stored since sequence %d, nor one that it led to", t.id, from)
	}
	return err
}

// from returns the sequence with which to begin looking for an event.
func (t *trace) from(ctx context.Context, id string) (uint64, error) {
	at, ok := bus.EventIDTime(id)
	at = at.Add(-traceMargin)
	if !t.opts.Since.IsZero() {
		at, ok = t.opts.Since, true
	}
	if ok {
		return read.SequenceAt(ctx, t.p.bus, at, t.info)
	}
	if number, ours := strings.CutPrefix(id, bus.EventsStream+"/"); ours { // it was sent without an id
		if seq, err := strconv.ParseUint(number, 10, 64); err == nil {
			return max(seq, t.info.State.FirstSeq), nil
		}
	}
	return t.info.State.FirstSeq, nil
}

// scan calls each with the events from a sequence on that the stream had when the
// trace began, without their data, until it returns false.
func (t *trace) scan(ctx context.Context, from uint64, each func(*RawEvent) bool) error {
	end := t.info.State.LastSeq + 1
	if from >= end {
		return nil
	}
	s := read.NewScan(t.p.bus, from, end, t.info, read.Config{HeadersOnly: true, Batch: traceBatch})
	defer s.Close()
	if err := s.Open(ctx); err != nil {
		return err
	}
	t.total = t.scanned + s.Pending
	defer t.progress()
	for {
		m, err := s.Next(ctx)
		if errors.Is(err, read.ErrNoMore) {
			return nil
		}
		if err != nil {
			return err
		}
		if t.scanned++; t.scanned%traceProgress == 0 {
			t.progress()
		}
		e, err := t.event(ctx, m)
		if err != nil {
			return err
		}
		if !each(&e) {
			return nil
		}
	}
}

func (t *trace) progress() {
	if t.opts.Progress != nil {
		t.opts.Progress(t.scanned, max(t.total, t.scanned))
	}
}

// event reads a message of which the headers are there. What an event in
// structured mode says of itself is in its payload, so that is read too.
func (t *trace) event(ctx context.Context, m read.Message) (RawEvent, error) {
	data := m.Data
	if strings.HasPrefix(strings.ToLower(m.Header.Get(bus.HeaderContentType)), "application/cloudevents") {
		whole, err := read.FromLeader(ctx, t.p.bus, m.Stored.Sequence, "")
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return RawEvent{}, err
		}
		if err == nil {
			data = whole.Data
		}
	}
	e, _ := parse(m.Subject, m.Header, data, m.Stored)
	return e, nil
}

// tree puts the nodes together.
func (t *trace) tree() *Trace {
	out := &Trace{ID: t.id, Truncated: t.more}
	if t.asked != nil && !slices.ContainsFunc(t.nodes, func(n *Node) bool { return n.Sequence == t.asked.Sequence }) {
		t.nodes = append(t.nodes, t.asked) // it is beyond the limit
	}
	out.Events = len(t.nodes)

	byID := make(map[string]*Node, len(t.nodes))
	for _, n := range t.nodes {
		if byID[n.ID] == nil { // an id that was sent again, later, is that of the first
			byID[n.ID] = n
		}
	}
	f := family{parents: make(map[*Node]*Node, len(t.nodes))}
	absent := func(id string) *Node {
		n := &Node{ID: id, Absent: true}
		byID[id] = n
		return n
	}
	if f.root = byID[t.root]; f.root == nil {
		f.root = absent(t.root)
	}
	for _, n := range t.nodes {
		if n == f.root {
			continue
		}
		parent := f.root
		if cause := n.CausationID; cause != "" && cause != n.ID {
			if parent = byID[cause]; parent == nil {
				parent = absent(cause)
				f.parents[parent] = f.root
			}
		}
		f.parents[n] = parent
	}
	f.cutCircles(t.nodes)
	f.join(t.nodes)
	if byID[t.id] == nil { // what it led to is beyond the limit
		f.root.Children = append(f.root.Children, absent(t.id))
	}
	out.Root = f.root
	return out
}

// family says which event led to which.
type family struct {
	root    *Node
	parents map[*Node]*Node // of all but the root
}

// cutCircles puts events that are said to have led to each other below the root:
// of each circle the one that was stored first.
func (f *family) cutCircles(nodes []*Node) {
	below := map[*Node]bool{f.root: true} // the root
	for _, n := range nodes {
		path := map[*Node]bool{}
		at := n
		for !below[at] && !path[at] {
			path[at] = true
			at = f.parents[at]
		}
		if path[at] { // it is in a circle
			first := at
			for m := f.parents[at]; m != at; m = f.parents[m] {
				if m.Sequence < first.Sequence {
					first = m
				}
			}
			f.parents[first] = f.root
		}
		for m := range path {
			below[m] = true
		}
	}
}

// join makes the nodes children of their parents. One that is absent is where the
// first of its own children is in the stream.
func (f *family) join(nodes []*Node) {
	for _, n := range nodes {
		if n == f.root {
			continue
		}
		parent := f.parents[n]
		if parent.Absent && parent != f.root && len(parent.Children) == 0 {
			f.root.Children = append(f.root.Children, parent)
		}
		parent.Children = append(parent.Children, n)
	}
}
