package events

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/examples/events/contract"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// Kept is how many lines the trail has at most.
const Kept = 1000

// NewAudit returns the service audit, which keeps a trail of all events. It is in
// memory, so run one instance. Its handler begins with the oldest event that
// there is; a trail that is to outlive the process belongs into a database.
func NewAudit(b *bus.Bus) *server.Service {
	a := &audit{lines: map[uint64]contract.Line{}}
	svc := server.New(b, "audit", server.Config{Version: "1.0.0", Description: "Keeps a trail of what happens."})
	pipeline.OnPattern(svc, "$.>", "trail", a.note, pipeline.From(pipeline.StartAll()))
	server.Handle(svc, contract.Trail, a.trail)
	return svc
}

type audit struct {
	mu    sync.Mutex
	lines map[uint64]contract.Line // by sequence: an event that comes again changes nothing
}

func (a *audit) note(_ context.Context, e pipeline.RawEvent) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines[e.Sequence] = contract.Line{
		Sequence: e.Sequence, Type: e.Type, Subject: e.Subject, ID: e.ID, Because: e.CausationID, Source: e.Source, Time: e.Time,
	}
	if len(a.lines) > Kept {
		delete(a.lines, slices.Min(slices.Collect(maps.Keys(a.lines))))
	}
	return nil
}

func (a *audit) trail(context.Context, rpc.None) ([]contract.Line, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.SortedFunc(maps.Values(a.lines), func(a, b contract.Line) int { return cmp.Compare(a.Sequence, b.Sequence) }), nil
}
