package schedules

import (
	"context"
	"sync"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/schedule"
	"rpc.do/server"
)

// Zone is whose clock counts for the reports.
const Zone = "Europe/Berlin"

// NewReports returns the service reports. Any number of instances may run: each
// tick is handled by one of them. Opts change how reports are made.
func NewReports(b *bus.Bus, sales Sales, opts ...schedule.Option) (*server.Service, error) {
	zone, err := time.LoadLocation(Zone)
	if err != nil {
		return nil, err
	}
	r := &reports{sales: sales, zone: zone, events: pipeline.New(b, pipeline.Config{Source: "/reports"})}
	svc := server.New(b, "reports", server.Config{Version: "1.0.0", Description: "Reports what was sold."})
	daily := []schedule.Option{schedule.Zone(Zone), schedule.Attempts(3, time.Second), schedule.With(func(s *schedule.Spec) {
		// Each day has its report, also when nobody was there for a week.
		s.Catchup, s.CatchupWindow = schedule.CatchupAll, schedule.Duration(7*24*time.Hour)
		s.Overlap = schedule.OverlapBufferAll
		s.RunTimeout = schedule.Duration(10 * time.Minute)
	})}
	schedule.Add(svc, "daily-report", "0 6 * * *", r.report, append(daily, opts...)...)
	schedule.Add(svc, "heartbeat", "@every 1s", r.beat,
		schedule.With(func(s *schedule.Spec) {
			s.Catchup = schedule.CatchupNone // a beat that was missed is of no use
			s.RunTimeout = schedule.Duration(5 * time.Second)
		}))
	server.Handle(svc, Status, r.status)
	return svc, nil
}

type reports struct {
	sales  Sales
	zone   *time.Location
	events *pipeline.Pipeline

	mu    sync.Mutex
	state State
}

// report makes the report of the day before the tick. Which day that is, is said by
// the nominal time and not by the clock: a tick that is late, or is filled in, has
// the report that it would have had.
func (r *reports) report(ctx context.Context, t schedule.Tick) error {
	day := t.Nominal.In(r.zone).AddDate(0, 0, -1).Format(time.DateOnly)
	total, err := r.sales.Total(ctx, day)
	if err != nil {
		return err
	}
	// A run may come more than once; within two minutes there is one report of a day.
	_, err = pipeline.Send(ctx, r.events, Made, Report{Day: day, Total: total}, pipeline.WithDedupe(day), pipeline.WithSubject(day))
	return err
}

func (r *reports) beat(_ context.Context, t schedule.Tick) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Beats++
	r.state.Last = t.Nominal
	return nil
}

func (r *reports) status(context.Context, rpc.None) (State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, nil
}
