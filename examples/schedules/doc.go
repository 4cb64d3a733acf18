// Package schedules is a service that does things at set times: reports makes a
// report of each day at six in the morning, and beats once a second.
//
//	0 6 * * * ── daily-report ── Report.made
//	@every 1s ── heartbeat    ── reports.status
package schedules
