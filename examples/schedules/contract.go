package schedules

import (
	"time"

	"rpc.do"
)

// Status tells how an instance is.
var Status = rpc.NewMethod[rpc.None, State]("reports.status", rpc.Idempotent(), rpc.Description("Tells when the heart has beaten."))

// Made says that there is a report.
var Made = rpc.NewEvent[Report]("Report.made")

// Report is what was sold on one day.
type Report struct {
	Day   string `json:"day"` // such as 2026-11-29
	Total int    `json:"total"`
}

// State is that of an instance.
type State struct {
	Beats int       `json:"beats"`
	Last  time.Time `json:"last,omitzero"` // nominal time of the last beat
}
