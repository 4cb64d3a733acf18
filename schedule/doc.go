// Package schedule has things done at set times: by cron lines, at intervals, or
// once.
//
//	svc := server.New(b, "reports", server.Config{})
//	schedule.Add(svc, "daily-report", "0 6 * * 1-5", report, schedule.Zone("Europe/Berlin"))
//	err := svc.Run(ctx) // report is func(ctx context.Context, t schedule.Tick) error
//
// A schedule is kept on the bus, and its next tick waits there as a message: no
// process has to be awake for it, none leads, and any process that has schedules
// takes the tick when it comes. Each nominal time has one event however many
// processes there are, [Event] by default, and an outcome: it fired, finished,
// failed, or was skipped, and why.
//
// Open manages schedules at run time. The package delivers no events, which
// package pipeline does, and knows no work but what handles a tick.
package schedule
