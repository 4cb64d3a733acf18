package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	outKey   = "_out" // events, which EVENTS takes in

	headerExpect        = "Nats-Expected-Last-Subject-Sequence"
	headerExpectSubject = "Nats-Expected-Last-Subject-Sequence-Subject"
	headerSchedule      = "Nats-Schedule"
	headerTarget        = "Nats-Schedule-Target"
	headerScheduler     = "Nats-Scheduler"
	headerScheduleNext  = "Nats-Schedule-Next"
	headerOperation     = "KV-Operation"
	headerRollup        = "Nats-Rollup"
	headerTTL           = "Nats-TTL"

	// headerWake is the time in a record's header at which it is to be looked at
	// again, so that the records need not be read to find those that are late.
	headerWake = "Rpc-Wake"

	// outTTL is how long the bucket keeps an event. EVENTS has taken it in long
	// before; until then it is not sent twice.
	outTTL = "24h"
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

// load returns a record and its revision; nil, with the revision to expect, when
// there is none.
func (s *store) load(ctx context.Context, name string) (*record, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq    uint64 `json:"seq"`
			Header []byte `json:"hdrs"`
			Data   []byte `json:"data"`
		} `json:"message"`
	}
	request, err := json.Marshal(map[string]string{"last_by_subj": prefix + name})
	if err != nil {
		return nil, 0, err
	}
	msg, err := s.bus.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+streamName, request)
	if err != nil {
		return nil, 0, coded(ctx, err)
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return nil, 0, rpc.Unavailable.Errorf("the bucket of schedules gives an answer that can't be read: %w", err)
	}
	if e := answer.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, 0, nil
		}
		return nil, 0, coded(ctx, e)
	}
	if len(answer.Message.Header) > 0 {
		header, err := nats.DecodeHeadersMsg(answer.Message.Header)
		if err != nil {
			return nil, 0, rpc.DataLoss.Errorf("the schedule %s can't be read: %w", name, err)
		}
		if gone(header) {
			return nil, answer.Message.Seq, nil
		}
	}
	r := &record{}
	if err := json.Unmarshal(answer.Message.Data, r); err != nil {
		return nil, 0, rpc.DataLoss.Errorf("the schedule %s can't be read: %w", name, err)
	}
	return r, answer.Message.Seq, nil
}

// save writes a record if the last one has that revision, and returns its own.
// errChanged says that it has not; any other error leaves it open whether it was
// written.
func (s *store) save(ctx context.Context, r *record, rev uint64) (uint64, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return 0, rpc.Internal.Errorf("the schedule %s can't be written: %w", r.Spec.Name, err)
	}
	header := nats.Header{headerExpect: {strconv.FormatUint(rev, 10)}}
	if !r.Wake.IsZero() {
		header[headerWake] = []string{r.Wake.UTC().Format(time.RFC3339Nano)}
	}
	return s.publish(ctx, &nats.Msg{Subject: prefix + r.Spec.Name, Header: header, Data: data})
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
	}, Data: data})
	return err
}

// send sends an event that a record has decided on, once however often it is
// called.
func (s *store) send(ctx context.Context, name string, e *emission) error {
	m := bus.EventMeta{ID: e.ID, Type: e.Event, Source: "/schedules/" + name, Subject: name, Time: e.Time}
	header := m.Header()
	delete(header, "Nats-Msg-Id") // the subject is the event's own: it is taken once
	header[headerExpect], header[headerTTL] = []string{"0"}, []string{outTTL}
	_, err := s.publish(ctx, &nats.Msg{Subject: prefix + outKey + "." + bus.Escape(e.ID) + "." + e.Event, Header: header, Data: e.Data})
	if errors.Is(err, errChanged) { // it was sent before
		return nil
	}
	return err
}

func (s *store) publish(ctx context.Context, m *nats.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ack, err := s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	if err != nil {
		if e, ok := errors.AsType[*jetstream.APIError](err); ok && (e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || e.ErrorCode == wrongLastReplica) {
			return 0, errChanged
		}
		return 0, coded(ctx, err)
	}
	return ack.Sequence, nil
}

// wrongLastReplica is how a cluster says that somebody else has written.
const wrongLastReplica jetstream.ErrorCode = 10164

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

func byName(all map[string]*record) []*record {
	list := make([]*record, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name])
	}
	return list
}
