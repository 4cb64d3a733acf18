package pipelineworker

import (
	"cmp"
	"context"

	"rpc.do"
	"rpc.do/pipeline"
)

func (w *worker) history(ctx context.Context, p pipeline.EventHistoryParams) (pipeline.EventHistoryResult, error) {
	q := pipeline.Query{
		Patterns: p.Patterns, Since: p.Since, Until: p.Until, Reverse: p.Reverse, Cursor: p.Cursor,
		Limit: cmp.Or(p.Limit, pipeline.DefaultPage),
	}
	for {
		page, err := w.events.History(ctx, q)
		if err != nil {
			return pipeline.EventHistoryResult{}, err
		}
		r := pipeline.EventHistoryResult{Events: make([]pipeline.EventItem, len(page.Events)), Next: page.Next}
		for i := range page.Events {
			r.Events[i] = itemOf(page.Events[i])
		}
		fit, err := fitting(r.Events, w.room())
		if err != nil {
			return pipeline.EventHistoryResult{}, err
		}
		switch {
		case fit == len(r.Events):
			return r, nil
		case len(r.Events) == 1: // else there would be no page after it
			withoutData(&r.Events[0].RawEvent, &r.Events[0].Omitted)
			return r, nil
		}
		q.Limit = max(fit, 1) // the cursor has to be that of the page
	}
}

func itemOf(e pipeline.RawEvent) pipeline.EventItem {
	return pipeline.EventItem{RawEvent: e, Omitted: e.Data == nil && len(e.Raw) > 0}
}

func withoutData(e *pipeline.RawEvent, omitted *bool) { e.Data, *omitted = nil, true }

func (w *worker) event(ctx context.Context, p pipeline.EventGetParams) (pipeline.EventItem, error) {
	e, err := w.events.Event(ctx, p.Sequence)
	if err != nil {
		return pipeline.EventItem{}, err
	}
	item := itemOf(e)
	if fit, err := fitting([]pipeline.EventItem{item}, w.room()); err != nil {
		return pipeline.EventItem{}, err
	} else if fit == 0 {
		withoutData(&item.RawEvent, &item.Omitted)
	}
	return item, nil
}

func (w *worker) handlers(ctx context.Context, p pipeline.EventHandlersParams) (pipeline.EventHandlersResult, error) {
	r := pipeline.EventHandlersResult{Handlers: []pipeline.HandlerInfo{}}
	if p.Handler != "" {
		h, err := w.events.Handler(ctx, p.Service, p.Handler)
		if rpc.CodeOf(err) == rpc.NotFound {
			return r, nil
		}
		r.Handlers = append(r.Handlers, h)
		return r, err
	}
	all, err := w.events.Handlers(ctx)
	for _, h := range all {
		if p.Service == "" || p.Service == h.Service {
			r.Handlers = append(r.Handlers, h)
		}
	}
	return r, err
}
