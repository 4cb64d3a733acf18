package durable

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do"
	"rpc.do/durable/internal/journal"
)

// Alarm tells an alarm's handler about it.
type Alarm struct {
	// Scheduled is when it was due.
	Scheduled time.Time
	// Attempt counts from 1.
	Attempt int
}

// alarmState is the alarm of an object as the record has it.
type alarmState struct {
	at       time.Time // when it is due; zero when none is set
	id       string    // of this setting of it
	attempts int       // that have failed, or were begun and never ended
	retry    time.Time // when the next one is due; zero before one has failed
	dead     bool      // the object has a dead letter
}

func (a alarmState) set() bool { return !a.at.IsZero() }

// due returns when the handler is to run.
func (a alarmState) due() time.Time {
	if a.retry.IsZero() {
		return a.at
	}
	return a.retry
}

// Headers of the record about the alarm. The due message has the first two, for
// the moment that it was due.
const (
	headerAlarm    = "Rpc-Alarm" // unix ms
	headerAlarmID  = "Rpc-Alarm-Id"
	headerAttempts = "Rpc-Alarm-Attempts"
	headerRetry    = "Rpc-Alarm-Retry" // unix ms
	headerDead     = "Rpc-Alarm-Dead"
)

// write adds the alarm to the record's headers.
func (a alarmState) write(h nats.Header) {
	if a.dead {
		h[headerDead] = []string{"1"}
	}
	if !a.set() {
		return
	}
	h[headerAlarm] = []string{millis(a.at)}
	h[headerAlarmID] = []string{a.id}
	if a.attempts > 0 {
		h[headerAttempts] = []string{strconv.Itoa(a.attempts)}
	}
	if !a.retry.IsZero() {
		h[headerRetry] = []string{millis(a.retry)}
	}
}

// readAlarm reads what write wrote.
func readAlarm(h nats.Header) alarmState {
	a := alarmState{dead: h.Get(headerDead) != ""}
	if a.at = readMillis(h.Get(headerAlarm)); !a.set() {
		return a
	}
	a.id, a.retry = h.Get(headerAlarmID), readMillis(h.Get(headerRetry))
	a.attempts, _ = strconv.Atoi(h.Get(headerAttempts))
	return a
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

func readMillis(v string) time.Time {
	ms, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func (t *turn) Alarm() (time.Time, bool) { return t.alarm.at, t.alarm.set() }

func (t *turn) SetAlarm(at time.Time) {
	c := t.object.class
	switch {
	case at.Year() < 1970 || at.Year() > 9999:
		t.failed = rpc.InvalidArgument.Errorf("an alarm at %v: want a time from 1970 to 9999", at)
	case c.alarm == nil:
		t.failed = rpc.FailedPrecondition.Errorf("an alarm of %s is set, and nothing would run when it is due: give the class a handler with OnAlarm", c.name)
	default:
		t.alarm, t.alarmSet = alarmState{at: at.Truncate(time.Millisecond), id: nuid.Next(), dead: t.alarm.dead}, true
	}
}

func (t *turn) DeleteAlarm() {
	if t.alarm.set() {
		t.alarm, t.alarmSet = alarmState{dead: t.alarm.dead}, true
	}
}

// alarmMessage arms the object's alarm, in place of an earlier one (ADR-51). The
// server copies the headers that are not its own to the due message.
func (o *object) alarmMessage(a alarmState) journal.Message {
	c := o.class
	return journal.Message{Key: alarmPrefix + o.key, Header: nats.Header{
		journal.HeaderSchedule: {"@at " + a.due().UTC().Format(time.RFC3339Nano)},
		journal.HeaderTarget:   {c.journal.Subject(duePrefix + o.key)},
		journal.HeaderRollup:   {"sub"},
		headerAlarm:            {millis(a.due())},
		headerAlarmID:          {a.id},
	}}
}
