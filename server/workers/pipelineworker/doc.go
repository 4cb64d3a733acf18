// Package pipelineworker serves the pipeline service: sending, listing and
// retrying events and managing schedules for clients of the bus that do not use
// packages pipeline and schedule themselves.
//
//	svc := pipelineworker.New(b, pipelineworker.Config{})
//	err := svc.Run(ctx)
//
// Its contract is in package pipeline: pipeline.EventSend, pipeline.ScheduleCreate
// and the others. Any number of instances may run; each takes the ticks of all
// schedules of the bus as well, so that a bus with one needs no other process for
// that.
//
// The service acts with the rights of its own connection for whoever may call
// it: Config.Server.Interceptors decide who may do what. The package handles no
// events and no ticks, and keeps nothing.
package pipelineworker
