package durable

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/durable/internal/journal"
)

// DeadAlarm is the dead letter of an alarm whose handler has failed as often as
// it is tried. The object keeps the last one until a later alarm of it has been
// handled, or it is destroyed.
type DeadAlarm struct {
	// Scheduled is when the alarm was due.
	Scheduled time.Time `json:"scheduled"`
	// Attempts is how often the handler was run.
	Attempts int `json:"attempts"`
	// Error is what the last attempt failed with, cut off after 1 KiB.
	Error string `json:"error"`
	// Time is when that was.
	Time time.Time `json:"time"`
}

// deadPrefix begins the key of an object's dead letter, whose value is a
// DeadAlarm as JSON.
const deadPrefix = "_dead."

// maxDeadError bounds the error of a dead letter.
const maxDeadError = 1 << 10

func (d DeadAlarm) encode() []byte {
	if len(d.Error) > maxDeadError {
		d.Error = d.Error[:maxDeadError] + "…"
	}
	d.Error = strings.ToValidUTF8(d.Error, "")
	data, err := json.Marshal(d)
	if err != nil { // a time that JSON has no form for
		return []byte("{}")
	}
	return data
}

// deadMessage writes the object's dead letter, or deletes it.
func (o *object) deadMessage(letter []byte) journal.Message {
	m := journal.Message{Key: deadPrefix + o.key, Data: letter, Header: nats.Header{journal.HeaderRollup: {"sub"}}}
	if letter == nil {
		m.Header[journal.HeaderOperation] = []string{"PURGE"}
		m.Header[journal.HeaderTTL] = []string{deletedTTL}
	}
	return m
}
