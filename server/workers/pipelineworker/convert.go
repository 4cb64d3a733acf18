package pipelineworker

import (
	"cmp"

	"rpc.do/pipeline"
	"rpc.do/schedule"
)

// The types of the contract and those of package schedule have the same fields:
// clients do without the package.

func specFrom(s *pipeline.ScheduleSpec) schedule.Spec {
	return schedule.Spec{
		Name: cmp.Or(s.Name, s.Handler), Handler: s.Handler, Event: s.Event, Payload: unlessNull(s.Payload),
		Cron: s.Cron, At: s.At, Zone: s.Zone, Gap: s.Gap, Repeat: s.Repeat,
		Jitter: schedule.Duration(s.Jitter), Start: s.Start, End: s.End, Runs: s.Runs,
		Overlap: s.Overlap, Catchup: s.Catchup, CatchupWindow: schedule.Duration(s.CatchupWindow),
		RunTimeout: schedule.Duration(s.RunTimeout), Paused: s.Paused, PauseOnFailure: s.PauseOnFailure,
	}
}

func specOf(s *schedule.Spec) pipeline.ScheduleSpec {
	return pipeline.ScheduleSpec{
		Name: s.Name, Handler: s.Handler, Event: s.Event, Payload: s.Payload,
		Cron: s.Cron, At: s.At, Zone: s.Zone, Gap: s.Gap, Repeat: s.Repeat,
		Jitter: pipeline.Duration(s.Jitter), Start: s.Start, End: s.End, Runs: s.Runs,
		Overlap: s.Overlap, Catchup: s.Catchup, CatchupWindow: pipeline.Duration(s.CatchupWindow),
		RunTimeout: pipeline.Duration(s.RunTimeout), Paused: s.Paused, PauseOnFailure: s.PauseOnFailure,
	}
}

func described(i schedule.Info, err error) (pipeline.ScheduleInfo, error) {
	if err != nil {
		return pipeline.ScheduleInfo{}, err
	}
	return infoFrom(&i), nil
}

func infoFrom(i *schedule.Info) pipeline.ScheduleInfo {
	info := pipeline.ScheduleInfo{
		Spec: specOf(&i.Spec), Created: i.Created, Updated: i.Updated, Next: i.Next, Paused: (*pipeline.SchedulePaused)(i.Paused),
		Left: i.Left, Waiting: i.Waiting, Counts: pipeline.ScheduleCounts(i.Counts),
	}
	for k := range i.Running {
		info.Running = append(info.Running, runFrom(&i.Running[k]))
	}
	if i.Last != nil {
		last := runFrom(i.Last)
		info.Last = &last
	}
	return info
}

func runFrom(r *schedule.Run) pipeline.ScheduleRun {
	return pipeline.ScheduleRun{ID: r.ID, Nominal: r.Nominal, Fired: r.Fired, Until: r.Until, Ended: r.Ended, State: string(r.State)}
}

func outcomeFrom(o *schedule.Outcome) pipeline.ScheduleOutcome {
	return pipeline.ScheduleOutcome{
		ID: o.ID, Nominal: o.Nominal, At: o.At, State: string(o.State), Reason: o.Reason, Kind: string(o.Kind), Count: o.Count,
	}
}
