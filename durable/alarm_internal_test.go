package durable

import "time"

// WithAlarmTimes is cfg with other times: after the first attempt of an alarm
// that fails, and until the server has somebody else handle a due alarm.
func WithAlarmTimes(cfg Config, backoff, ackWait time.Duration) Config {
	cfg.alarms = alarmTimes{backoff: backoff, ackWait: ackWait, redelivery: backoff}
	return cfg
}
