package pipeline

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// AttemptsBucket is the bucket that remembers, for a week, how often an event was
// tried that could not be handled at once, by handler, consumer and place.
const AttemptsBucket = "RPC_EVENTS"

// attempt is what is known of the attempts with an event.
type attempt struct {
	N     int    `json:"n"`               // that have begun
	Begun bool   `json:"begun,omitempty"` // the last one has, and it is not known how it ended
	Code  string `json:"code,omitempty"`  // of the last that is known to have failed
	Error string `json:"error,omitempty"`
	Dead  bool   `json:"dead,omitempty"` // it is to be a dead letter, which could not be stored
}

// attemptLog counts attempts across instances and crashes. What the server counts
// are deliveries, also of events that only waited in an instance that died: they
// would lose an attempt each time. So attempts are noted: those that have failed,
// and all but the first before they begin, for an event that kills whoever tries
// it to come to an end. Noting the first, too, would cost every event a write; it is
// done when it is the only one. Else an event that comes again, and of which
// nothing was noted, counts as tried once.
type attemptLog struct {
	workers *workers
	made    atomic.Bool // the bucket is there
}

const (
	// unnoted is how many more deliveries than attempts an event may have of which
	// nothing was noted.
	unnoted = 20

	attemptsVersion = 1
	attemptTTL      = "168h"
	forgottenTTL    = "1m"
	maxErrorText    = 2 << 10
)

func (l *attemptLog) key(h *handler, d *delivery) string {
	return h.durable + "." + h.made() + "." + d.src.stream + "." + d.place.String()
}

// countAttempts finds out which attempt this is.
func (h *handler) countAttempts(d *delivery) {
	if d.attempt > 0 {
		return // it is known here
	}
	if d.deliveries.Load() <= 1 {
		d.attempt = 1
		return
	}
	known, ok := h.workers.attempts.read(h, d)
	if !ok {
		d.attempt = min(2, h.cfg.attempts)
		if d.deliveries.Load() > int64(h.cfg.attempts+unnoted) { // it seems that nothing can be noted
			d.attempt = h.cfg.attempts
		}
		return
	}
	d.last, d.attempt = known, known.N+1
	if known.Dead {
		d.attempt = max(d.attempt, h.cfg.attempts+1)
	}
}

// begin notes that an attempt begins.
func (l *attemptLog) begin(h *handler, d *delivery) {
	d.last.N, d.last.Begun = d.attempt, true
	l.write(h, d)
}

// fail notes that an attempt has failed.
func (l *attemptLog) fail(h *handler, d *delivery, err error) {
	d.last = attempt{N: d.attempt, Code: rpc.CodeOf(err).String(), Error: bus.Cut(err.Error(), maxErrorText)}
	l.write(h, d)
}

// condemn notes that an event is to be a dead letter.
func (l *attemptLog) condemn(h *handler, d *delivery, err error) {
	d.last = attempt{N: d.attempt, Code: rpc.CodeOf(err).String(), Error: bus.Cut(err.Error(), maxErrorText), Dead: true}
	l.write(h, d)
}

// undo notes that an attempt does not count.
func (l *attemptLog) undo(h *handler, d *delivery) {
	d.last.N, d.last.Begun = d.attempt-1, false
	l.write(h, d)
}

// untried notes, without waiting for it, that an event that is given back has only
// waited here.
func (l *attemptLog) untried(h *handler, d *delivery) {
	if d.deliveries.Load() > 1 || d.attempt > 1 || d.begun {
		return // what is known is right
	}
	data, err := json.Marshal(attempt{})
	if err == nil && l.made.Load() {
		_ = l.workers.bus.Conn().PublishMsg(&nats.Msg{Subject: l.subject(h, d), Header: nats.Header{"Nats-TTL": {attemptTTL}}, Data: data})
	}
}

// forget lets go of what is known, once the event is done.
func (l *attemptLog) forget(h *handler, d *delivery) {
	_ = l.workers.bus.Conn().PublishMsg(&nats.Msg{Subject: l.subject(h, d), Header: nats.Header{
		"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}, "Nats-TTL": {forgottenTTL},
	}}) // else it goes by itself
}

func (l *attemptLog) subject(h *handler, d *delivery) string {
	return "$KV." + AttemptsBucket + "." + l.key(h, d)
}

func (l *attemptLog) stream(ctx context.Context) (jetstream.Stream, error) {
	return l.workers.bus.EnsureStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + AttemptsBucket, Subjects: []string{"$KV." + AttemptsBucket + ".>"}, Description: "attempts of the handlers of events",
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
		AllowRollup: true, AllowDirect: true, AllowMsgTTL: true, DenyDelete: true,
	}, attemptsVersion)
}

// write stores what is known. When that fails, an attempt may be made once more
// than it should.
func (l *attemptLog) write(h *handler, d *delivery) {
	data, err := json.Marshal(d.last)
	if err == nil {
		msg := &nats.Msg{Subject: l.subject(h, d), Header: nats.Header{"Nats-TTL": {attemptTTL}}, Data: data}
		err = l.publish(msg)
	}
	if err != nil {
		h.log.Error().Err(err).Str("event", d.meta.ID).Int("attempt", d.attempt).Msg("the attempt can't be noted: the event may be tried more often than it should")
	}
}

func (l *attemptLog) publish(msg *nats.Msg) error {
	ctx, cancel := context.WithTimeout(l.workers.life, requestTimeout)
	defer cancel()
	if err := l.make(ctx); err != nil { // when it is needed first
		return err
	}
	_, err := l.workers.pipeline.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	if err != nil {
		l.made.Store(false)
	}
	return err
}

// make makes the bucket.
func (l *attemptLog) make(ctx context.Context) error {
	if l.made.Load() {
		return nil
	}
	_, err := l.stream(ctx)
	l.made.Store(err == nil)
	return err
}

// read returns what is known of the attempts with an event.
func (l *attemptLog) read(h *handler, d *delivery) (attempt, bool) {
	ctx, cancel := context.WithTimeout(l.workers.life, requestTimeout)
	defer cancel()
	request, err := json.Marshal(map[string]string{"last_by_subj": l.subject(h, d)})
	if err != nil {
		return attempt{}, false
	}
	// Of a direct get, since it costs no look at the stream first.
	msg, err := l.workers.bus.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET.KV_"+AttemptsBucket, request)
	if err != nil || msg.Header.Get("Status") != "" || bus.NoResponders(msg) || msg.Header.Get("KV-Operation") != "" {
		return attempt{}, false
	}
	var known attempt
	return known, json.Unmarshal(msg.Data, &known) == nil
}

// buryDead keeps an event as a dead letter that comes after its last attempt.
func (h *handler) buryDead(d *delivery) {
	d.attempt = d.last.N
	if d.last.Begun {
		text := "the instance died, or was cut off, during the last attempt"
		if d.last.Error != "" {
			text += "; the attempt before failed with: " + d.last.Error
		}
		h.bury(d, ReasonDied, rpc.Unavailable.Errorf("%s", text))
		return
	}
	code, err := rpc.ParseCode(d.last.Code)
	if err != nil {
		code = rpc.Unknown
	}
	h.bury(d, ReasonAttempts, code.Errorf("%s", d.last.Error))
}

// undecided is how long an event waits that could not be kept as a dead letter.
const undecided = 5 * time.Second
