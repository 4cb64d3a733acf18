package pipeline

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do"
	"rpc.do/bus"
)

// Replay says which events a handler is to have again.
type Replay struct {
	// Since and Until bound when an event was stored: not before Since, and before
	// Until. Default to no bound.
	Since, Until time.Time
	// After and Before bound the sequence; both are excluded. Default to no bound.
	After, Before uint64
	// Patterns say which types, of those that the handler has. Defaults to all of
	// them.
	Patterns []string
	// Filter, when it is set, says which of these.
	Filter func(RawEvent) bool
	// Progress, when it is set, is told now and then, and at the end.
	Progress func(Replayed)
}

// Replayed says how far a replay has come.
type Replayed struct {
	// Events counts those that the handler is to have again.
	Events int `json:"events"`
	// Sequence is that of the last event that was looked at, and Last where the
	// replay ends: the last event at its beginning.
	Sequence uint64 `json:"sequence"`
	Last     uint64 `json:"last"`
}

const replayPage = 1000

// Replay has a handler have events again that are in the stream, in their order,
// each with all its attempts: Event.Again says so. Where the handler is in the
// stream stays as it is, and other handlers notice nothing. Events that are sent
// after Replay was called are not replayed.
//
// It returns when all are in the handler's lane, not when they are handled: Lag
// counts those that are to come (Again). When it fails, what it returns says how
// far it has come; with After set to that Sequence it goes on. It takes as long
// as it takes: only ctx bounds it.
func (p *Pipeline) Replay(ctx context.Context, service, handler string, r Replay) (Replayed, error) {
	_, info, err := p.consumer(ctx, service, handler)
	if err != nil {
		return Replayed{}, err
	}
	own, err := parsePatterns(strings.Split(info.Config.Metadata[metaPatterns], ","))
	if err != nil {
		return Replayed{}, rpc.DataLoss.Errorf("the handler %s of %s does not say its patterns: %w", handler, service, err)
	}
	events, err := p.events(ctx)
	if err != nil {
		return Replayed{}, err
	}
	state, err := events.Info(ctx)
	if err != nil {
		return Replayed{}, coded(ctx, err)
	}
	done := Replayed{Last: state.State.LastSeq, Sequence: r.After}
	if r.Before > 0 {
		done.Last = min(done.Last, r.Before-1)
	}
	q := Query{Patterns: r.Patterns, Since: r.Since, Until: r.Until, After: r.After, Before: done.Last + 1, Limit: replayPage}
	if len(q.Patterns) == 0 {
		for _, pattern := range own {
			q.Patterns = append(q.Patterns, pattern.String())
		}
	}
	if q.After >= q.Before {
		return done, nil // there is nothing yet
	}
	id := nuid.Next()
	for {
		page, err := p.History(ctx, q)
		if err != nil {
			return done, err
		}
		for _, e := range page.Events {
			if name, _ := bus.EventName(e.subject); matches(own, name) && (r.Filter == nil || r.Filter(e)) {
				if err := p.toLane(ctx, laneMessage(service, handler, &e, "replay-"+id+"-"+strconv.FormatUint(e.Sequence, 10))); err != nil {
					return done, err
				}
				done.Events++
			}
			done.Sequence = e.Sequence
		}
		if page.Next == "" {
			done.Sequence = done.Last
		}
		if r.Progress != nil {
			r.Progress(done)
		}
		if page.Next == "" {
			return done, nil
		}
		q.Cursor = page.Next
	}
}

// laneMessage is an event for a handler to have again.
func laneMessage(service, handler string, e *RawEvent, id string) *nats.Msg {
	m := bus.EventMeta{
		ID: e.ID, Type: e.Type, Source: e.Source, Subject: e.Subject, Time: e.Time, ContentType: e.ContentType,
		Cause: bus.Cause{Correlation: e.CorrelationID, Causation: e.CausationID, Hops: e.Hops},
	}
	header := m.Header()
	for name, values := range e.Header {
		if _, has := header[name]; !has && !serversOwn(name) && name != bus.HeaderContentType {
			header[name] = values
		}
	}
	header[headerSubject] = []string{e.subject}
	header[headerSequence] = []string{strconv.FormatUint(e.Sequence, 10)}
	header[headerStored] = []string{e.Stored.UTC().Format(time.RFC3339Nano)}
	header[headerMsgID] = []string{id}
	return &nats.Msg{Subject: laneSubject(service, handler), Header: header, Data: e.Raw}
}
