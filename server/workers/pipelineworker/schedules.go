package pipelineworker

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"rpc.do"
	"rpc.do/pipeline"
	"rpc.do/schedule"
)

func (w *worker) createSchedule(ctx context.Context, p pipeline.ScheduleCreateParams) (pipeline.ScheduleCreateResult, error) {
	info, err := w.schedules.Create(ctx, specFrom(&p.ScheduleSpec), p.Replace)
	if err != nil {
		return pipeline.ScheduleCreateResult{}, err
	}
	return pipeline.ScheduleCreateResult{Name: info.Spec.Name, Next: info.Next}, nil
}

func (w *worker) listSchedules(ctx context.Context, p pipeline.ScheduleListParams) (pipeline.ScheduleListResult, error) {
	all, err := w.schedules.List(ctx, schedule.List{Prefix: p.Prefix, Handler: p.Handler})
	if err != nil {
		return pipeline.ScheduleListResult{}, err
	}
	from, found := slices.BinarySearchFunc(all, p.After, func(i schedule.Info, name string) int { return strings.Compare(i.Spec.Name, name) })
	if found {
		from++
	}
	left := all[from:]
	r := pipeline.ScheduleListResult{Schedules: make([]pipeline.ScheduleInfo, min(len(left), cmp.Or(p.Limit, defaultPage)))}
	for i := range r.Schedules {
		r.Schedules[i] = infoFrom(&left[i])
	}
	fit, err := fitting(r.Schedules, w.room())
	if err != nil {
		return pipeline.ScheduleListResult{}, err
	}
	if fit = min(max(fit, 1), len(r.Schedules)); fit < len(left) {
		r.Next = left[fit-1].Spec.Name
	}
	r.Schedules = r.Schedules[:fit]
	return r, nil
}

func (w *worker) schedule(ctx context.Context, p pipeline.ScheduleName) (pipeline.ScheduleInfo, error) {
	return described(w.schedules.Get(ctx, p.Name))
}

func (w *worker) pauseSchedule(ctx context.Context, p pipeline.SchedulePauseParams) (pipeline.ScheduleInfo, error) {
	return described(w.schedules.Pause(ctx, p.Name, p.Note))
}

func (w *worker) resumeSchedule(ctx context.Context, p pipeline.ScheduleName) (pipeline.ScheduleInfo, error) {
	return described(w.schedules.Resume(ctx, p.Name))
}

func (w *worker) triggerSchedule(ctx context.Context, p pipeline.ScheduleTriggerParams) (pipeline.ScheduleInfo, error) {
	return described(w.schedules.Trigger(ctx, p.Name, unlessNull(p.Payload)))
}

func (w *worker) backfillSchedule(ctx context.Context, p pipeline.ScheduleBackfillParams) (pipeline.ScheduleBackfillResult, error) {
	n, err := w.schedules.Backfill(ctx, p.Name, p.From, p.Until)
	return pipeline.ScheduleBackfillResult{Ticks: n}, err
}

func (w *worker) deleteSchedule(ctx context.Context, p pipeline.ScheduleName) (rpc.None, error) {
	return rpc.None{}, w.schedules.Delete(ctx, p.Name)
}

func (w *worker) scheduleHistory(ctx context.Context, p pipeline.ScheduleHistoryParams) (pipeline.ScheduleHistoryResult, error) {
	outcomes, err := w.schedules.History(ctx, p.Name)
	if err != nil {
		return pipeline.ScheduleHistoryResult{}, err
	}
	if p.Limit > 0 && len(outcomes) > p.Limit {
		outcomes = outcomes[:p.Limit]
	}
	r := pipeline.ScheduleHistoryResult{Outcomes: make([]pipeline.ScheduleOutcome, len(outcomes))}
	for i := range outcomes {
		r.Outcomes[i] = outcomeFrom(&outcomes[i])
	}
	return r, nil
}

// defaultComing is how many ticks are listed when it is not said.
const defaultComing = 10

func (w *worker) nextTicks(ctx context.Context, p pipeline.ScheduleNextParams) (pipeline.ScheduleNextResult, error) {
	coming, err := w.schedules.Next(ctx, p.Name, cmp.Or(p.Limit, defaultComing))
	if err != nil {
		return pipeline.ScheduleNextResult{}, err
	}
	r := pipeline.ScheduleNextResult{Ticks: make([]pipeline.ScheduleTick, len(coming))}
	for i, c := range coming {
		r.Ticks[i] = pipeline.ScheduleTick(c)
	}
	return r, nil
}
