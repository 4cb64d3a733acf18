package pipelineworker

import (
	"cmp"
	"slices"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
	"rpc.do/schedule"
	"rpc.do/server"
)

// Config says how the service runs. The zero value works.
type Config struct {
	// Name is what the service is called, such as "pipeline-staging". Defaults to
	// pipeline.ServiceName.
	Name string

	// Server is the config of the service. Its interceptors see the params of the
	// contract, such as *pipeline.EventSendParams.
	Server server.Config
}

// New returns the service, not yet running. It panics when cfg is malformed.
func New(b *bus.Bus, cfg Config) *server.Service {
	name := cmp.Or(cfg.Name, pipeline.ServiceName)
	own := cfg.Server
	own.Description = cmp.Or(own.Description, "Sends events and manages schedules.")
	own.Interceptors = append(slices.Clone(own.Interceptors), rpc.Interceptor{Name: "resend-window", Unary: withinWindow})
	svc := server.New(b, name, own)
	w := &worker{bus: b, name: name, events: pipeline.New(b, pipeline.Config{}), schedules: schedule.Open(b)}

	server.Handle(svc, pipeline.EventSend, w.send)
	server.Handle(svc, pipeline.EventCancel, w.cancel)
	server.Handle(svc, pipeline.EventHistory, w.history)
	server.Handle(svc, pipeline.EventGet, w.event)
	server.Handle(svc, pipeline.EventHandlers, w.handlers)
	server.Handle(svc, pipeline.EventDeadList, w.deadLetters)
	server.Handle(svc, pipeline.EventDeadGet, w.deadLetter)
	server.Handle(svc, pipeline.EventDeadRetry, w.retryDead)
	server.Handle(svc, pipeline.EventDeadDiscard, w.discardDead)

	server.Handle(svc, pipeline.ScheduleCreate, w.createSchedule)
	server.Handle(svc, pipeline.ScheduleList, w.listSchedules)
	server.Handle(svc, pipeline.ScheduleGet, w.schedule)
	server.Handle(svc, pipeline.SchedulePause, w.pauseSchedule)
	server.Handle(svc, pipeline.ScheduleResume, w.resumeSchedule)
	server.Handle(svc, pipeline.ScheduleTrigger, w.triggerSchedule)
	server.Handle(svc, pipeline.ScheduleBackfill, w.backfillSchedule)
	server.Handle(svc, pipeline.ScheduleDelete, w.deleteSchedule)
	server.Handle(svc, pipeline.ScheduleHistory, w.scheduleHistory)
	server.Handle(svc, pipeline.ScheduleNext, w.nextTicks)
	schedule.Serve(svc)
	return svc
}

// worker does what the methods say.
type worker struct {
	bus       *bus.Bus
	name      string
	events    *pipeline.Pipeline
	schedules *schedule.Schedules
}
