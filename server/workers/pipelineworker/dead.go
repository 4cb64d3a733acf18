package pipelineworker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"rpc.do/pipeline"
)

func (w *worker) deadLetters(ctx context.Context, p pipeline.EventDeadListParams) (pipeline.EventDeadListResult, error) {
	limit := cmp.Or(p.Limit, defaultPage)
	letters, err := w.events.DeadLetters(ctx, pipeline.DeadQuery{Service: p.Service, Handler: p.Handler, After: p.After, Limit: limit})
	if err != nil {
		return pipeline.EventDeadListResult{}, err
	}
	r := pipeline.EventDeadListResult{DeadLetters: make([]pipeline.DeadItem, len(letters))}
	for i := range letters {
		r.DeadLetters[i] = deadItemOf(letters[i])
	}
	fit, err := fitting(r.DeadLetters, w.room())
	if err != nil {
		return pipeline.EventDeadListResult{}, err
	}
	if fit == 0 && len(letters) > 0 { // else there would be no page after it
		withoutData(&r.DeadLetters[0].Event, &r.DeadLetters[0].Omitted)
		fit = 1
	}
	if fit < len(letters) || fit == limit {
		r.Next = letters[fit-1].ID
	}
	r.DeadLetters = r.DeadLetters[:fit]
	return r, nil
}

func deadItemOf(d pipeline.DeadLetter) pipeline.DeadItem {
	return pipeline.DeadItem{DeadLetter: d, Omitted: d.Event.Data == nil && len(d.Event.Raw) > 0}
}

func (w *worker) deadLetter(ctx context.Context, p pipeline.EventDeadGetParams) (pipeline.DeadItem, error) {
	d, err := w.events.DeadLetter(ctx, p.ID)
	if err != nil {
		return pipeline.DeadItem{}, err
	}
	item := deadItemOf(d)
	if fit, err := fitting([]pipeline.DeadItem{item}, w.room()); err != nil {
		return pipeline.DeadItem{}, err
	} else if fit == 0 {
		withoutData(&item.Event, &item.Omitted)
	}
	return item, nil
}

func (w *worker) retryDead(ctx context.Context, p pipeline.EventDeadRetryParams) (pipeline.EventDeadResult, error) {
	if p.All {
		return many(ctx, p.EventDeadDiscardParams, w.events.RetryAllDead)
	}
	return one(w.events.RetryDead(ctx, p.ID, unlessNull(p.Data)))
}

func (w *worker) discardDead(ctx context.Context, p pipeline.EventDeadDiscardParams) (pipeline.EventDeadResult, error) {
	if p.All {
		return many(ctx, p, w.events.DiscardAllDead)
	}
	return one(w.events.DiscardDead(ctx, p.ID))
}

// unlessNull makes null what was not said, as it is for clients whose language
// does not tell them apart.
func unlessNull(data json.RawMessage) json.RawMessage {
	if string(data) == "null" {
		return nil
	}
	return data
}

func one(err error) (pipeline.EventDeadResult, error) {
	if err != nil {
		return pipeline.EventDeadResult{}, err
	}
	return pipeline.EventDeadResult{Count: 1}, nil
}

// many does with all dead letters that are meant what do does with them. It stops
// between two of them when four fifths of the call's time are over, so that the
// caller hears how many there were.
func many(
	ctx context.Context, p pipeline.EventDeadDiscardParams, do func(context.Context, pipeline.DeadQuery, func(int)) (int, error),
) (pipeline.EventDeadResult, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var last time.Time
	if deadline, ok := ctx.Deadline(); ok {
		last = deadline.Add(-time.Until(deadline) / 5)
	}
	stopped := false
	n, err := do(ctx, pipeline.DeadQuery{Service: p.Service, Handler: p.Handler}, func(int) {
		if !last.IsZero() && !time.Now().Before(last) {
			stopped = true
			stop()
		}
	})
	switch {
	case err != nil && stopped:
		return pipeline.EventDeadResult{Count: n, More: true}, nil
	case err != nil:
		return pipeline.EventDeadResult{}, fmt.Errorf("after %d dead letters: %w", n, err)
	}
	return pipeline.EventDeadResult{Count: n}, nil
}
