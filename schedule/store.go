package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// Bucket is the bucket of the schedules: "<name>" is the record of one.
const Bucket = "RPC_SCHEDULES"

const (
	bucketVersion = 1
	streamName    = "KV_" + Bucket
	prefix        = "$KV." + Bucket + "."

	// Keys of the system's own.
	armedKey = "_armed." // a scheduled message (ADR-51), whose target is
	firedKey = "_fired."
	outKey   = "_out"  // events, which EVENTS takes in
	runKey   = "_run." // which service has a run

	headerExpect        = "Nats-Expected-Last-Subject-Sequence"
	headerExpectSubject = "Nats-Expected-Last-Subject-Sequence-Subject"
	headerSchedule      = "Nats-Schedule"
	headerTarget        = "Nats-Schedule-Target"
	headerScheduler     = "Nats-Scheduler"
	headerScheduleNext  = "Nats-Schedule-Next"
	headerOperation     = "KV-Operation"
	headerRollup        = "Nats-Rollup"
	headerTTL           = "Nats-TTL"
	headerScheduleTTL   = "Nats-Schedule-TTL"

	// headerWake is the time in a record's header at which it is to be looked at
	// again, so that the records need not be read to find those that are late.
	headerWake = "Rpc-Wake"

	// outTTL is how long the bucket keeps an event. EVENTS has taken it in long
	// before; until then it is not sent twice, and after resendFor it is not sent
	// again.
	outTTL    = "2h"
	resendFor = time.Hour
	// firedTTL is how long a tick waits for somebody to take it. Who comes later
	// finds out by the record that there was one.
	firedTTL = "24h"
	// goneTTL is how long it knows that a schedule was deleted.
	goneTTL = "1m"

	requestTimeout = 5 * time.Second
)

// store is the bucket of schedules. All that it reads, it reads from the leader.
type store struct {
	bus *bus.Bus
	js  jetstream.JetStream
}

// errChanged is the error of a write that somebody else was faster than.
var errChanged = errors.New("schedule: changed meanwhile")

// open makes the bucket, and has EVENTS take in what is sent there.
func (s *store) open(ctx context.Context) (jetstream.Stream, error) {
	stream, err := s.bus.EnsureStream(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{prefix + ">"}, Description: "schedules",
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
		AllowRollup: true, AllowMsgTTL: true, AllowMsgSchedules: true, DenyDelete: true,
	}, bucketVersion)
	if err != nil {
		return nil, coded(ctx, err)
	}
	if err := s.bus.SourceEvents(ctx, streamName, prefix+outKey); err != nil {
		return nil, coded(ctx, err)
	}
	return stream, nil
}

// stored is a message of the bucket.
type stored struct {
	Seq    uint64 `json:"seq"`
	Header []byte `json:"hdrs"`
	Data   []byte `json:"data"`
}

// last returns the last message on a subject, nil for none, as the leader has it.
func (s *store) last(ctx context.Context, subject string) (*stored, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message stored              `json:"message"`
	}
	request, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return nil, err
	}
	msg, err := s.bus.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+streamName, request)
	if err != nil {
		return nil, coded(ctx, err)
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return nil, rpc.Unavailable.Errorf("the bucket of schedules gives an answer that can't be read: %w", err)
	}
	if e := answer.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, nil
		}
		return nil, coded(ctx, e)
	}
	return &answer.Message, nil
}

// load returns a record and its revision; nil, with the revision to expect, when
// there is none.
func (s *store) load(ctx context.Context, name string) (*record, uint64, error) {
	m, err := s.last(ctx, prefix+name)
	if m == nil {
		return nil, 0, err
	}
	if len(m.Header) > 0 {
		header, err := nats.DecodeHeadersMsg(m.Header)
		if err != nil {
			return nil, 0, rpc.DataLoss.Errorf("the schedule %s can't be read: %w", name, err)
		}
		if gone(header) {
			return nil, m.Seq, nil
		}
	}
	r := &record{}
	if err := json.Unmarshal(m.Data, r); err != nil {
		return nil, 0, rpc.DataLoss.Errorf("the schedule %s can't be read: %w", name, err)
	}
	return r, m.Seq, nil
}

// save writes a record if the last one has that revision, and returns its own.
// errChanged says that it has not; any other error leaves it open whether it was
// written.
func (s *store) save(ctx context.Context, r *record, rev uint64) (uint64, error) {
	data, err := s.encode(r)
	if err != nil {
		return 0, err
	}
	header := nats.Header{headerExpect: {strconv.FormatUint(rev, 10)}}
	wake := r.Wake
	if len(r.Pending) > 0 { // who is to send that may die
		wake = r.Updated
	}
	if !wake.IsZero() {
		header[headerWake] = []string{wake.UTC().Format(time.RFC3339Nano)}
	}
	return s.publish(ctx, &nats.Msg{Subject: prefix + r.Spec.Name, Header: header, Data: data})
}

// encode writes a record, with as much of its history as there is room for.
func (s *store) encode(r *record) ([]byte, error) {
	most := int(s.bus.MaxPayload()) - 1024 // for the header
	for {
		data, err := encode(r)
		switch {
		case err != nil:
			return nil, rpc.Internal.Errorf("the schedule %s can't be written: %w", r.Spec.Name, err)
		case len(data) <= most:
			return data, nil
		case len(r.History) == 0:
			return nil, rpc.ResourceExhausted.Errorf("the schedule %s would take %d bytes, and messages of this bus have room for %d", r.Spec.Name, len(data), most)
		}
		r.History = r.History[(len(r.History)+1)/2:]
	}
}

// remove deletes a record, and what is armed of it, if it has that revision.
func (s *store) remove(ctx context.Context, name string, rev uint64) error {
	// Deleting the scheduled message takes no message of its own (ADR-51).
	_, err := s.publish(ctx, &nats.Msg{Subject: prefix + name, Header: nats.Header{
		headerExpect: {strconv.FormatUint(rev, 10)}, headerOperation: {"PURGE"}, headerRollup: {"sub"}, headerTTL: {goneTTL},
		headerScheduleNext: {"purge"}, headerScheduler: {prefix + armedKey + name},
	}})
	return err
}

// armed is what the scheduled message of a schedule says.
type armed struct {
	Name string `json:"name"`
	Arm  uint64 `json:"arm"`
}

// arm has the server say when a schedule is to be looked at again, if its record
// still has that revision. Saying it twice is harmless.
func (s *store) arm(ctx context.Context, r *record, rev uint64) error {
	if r.Wake.IsZero() {
		return nil
	}
	data, err := json.Marshal(armed{r.Spec.Name, r.Arm})
	if err != nil {
		return err
	}
	_, err = s.publish(ctx, &nats.Msg{Subject: prefix + armedKey + r.Spec.Name, Header: nats.Header{
		headerExpect: {strconv.FormatUint(rev, 10)}, headerExpectSubject: {prefix + r.Spec.Name},
		headerSchedule: {"@at " + r.Wake.UTC().Format(time.RFC3339Nano)}, headerTarget: {prefix + firedKey + r.Spec.Name},
		headerScheduleTTL: {firedTTL},
	}, Data: data})
	return err
}

// send sends an event that a record has decided on, once however often it is
// called.
func (s *store) send(ctx context.Context, name string, e *emission) error {
	m := bus.EventMeta{ID: e.ID, Type: e.Event, Source: "/schedules/" + name, Subject: name, Time: e.Time}
	header := m.Header()
	// The subject is the event's own, so the bucket takes it once. Its message id is
	// for EVENTS, which may take it in again when a server was killed.
	header[headerExpect], header[headerTTL] = []string{"0"}, []string{outTTL}
	_, err := s.publish(ctx, &nats.Msg{Subject: prefix + outKey + "." + bus.Escape(e.ID) + "." + e.Event, Header: header, Data: e.Data})
	if errors.Is(err, errChanged) { // it was sent before
		return nil
	}
	return err
}

// claim has a run be that of a service, unless it is that of another already. It
// returns whose it is.
func (s *store) claim(ctx context.Context, id, service string, keep time.Duration) (string, error) {
	subject := prefix + runKey + bus.Escape(id)
	_, err := s.publish(ctx, &nats.Msg{Subject: subject, Header: nats.Header{
		headerExpect: {"0"}, headerTTL: {strconv.Itoa(int(max(keep, time.Second)/time.Second)) + "s"},
	}, Data: []byte(service)})
	if !errors.Is(err, errChanged) {
		return service, err
	}
	m, err := s.last(ctx, subject)
	if m == nil {
		return service, err
	}
	return string(m.Data), nil
}

func (s *store) publish(ctx context.Context, m *nats.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ack, err := s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	if err != nil {
		if bus.IsWrongLast(err) {
			return 0, errChanged
		}
		return 0, coded(ctx, err)
	}
	return ack.Sequence, nil
}

// coded gives an error of the bus a code.
func coded(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*rpc.Error](err); ok || err == nil {
		return err
	}
	err = fmt.Errorf("the bucket of schedules: %w", err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return rpc.Canceled.Errorf("%w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return rpc.DeadlineExceeded.Errorf("%w", err)
	}
	return rpc.Unavailable.Errorf("%w", err)
}

// nameOf returns the schedule that a subject of a record is about.
func nameOf(subject string) string { return strings.TrimPrefix(subject, prefix) }

// gone reports whether a message says that there is no schedule any more.
func gone(h nats.Header) bool {
	return h.Get(headerOperation) != "" || h.Get("Nats-Marker-Reason") != ""
}
