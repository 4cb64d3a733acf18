package durable

import "time"

// Alarm tells an alarm's handler about it.
type Alarm struct {
	// Scheduled is when it was due.
	Scheduled time.Time
	// Attempt counts from 1.
	Attempt int
}
