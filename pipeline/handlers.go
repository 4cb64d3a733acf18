package pipeline

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
)

// HandlerInfo is what the bus knows of a handler, whether it runs or not.
type HandlerInfo struct {
	Service  string   `json:"service"`
	Handler  string   `json:"handler"`
	Patterns []string `json:"patterns"`
	// Version is that of the instance that was started last.
	Version string    `json:"version"`
	Created time.Time `json:"created"`
	// One says that one instance has all events, as with OrderBy.
	One bool `json:"one,omitempty"`
	Lag
}

// Lag says how far a handler is behind.
type Lag struct {
	// Pending counts the events that it has not been given yet.
	Pending uint64 `json:"pending"`
	// Running counts those that it was given and that are not done: they are
	// handled, or wait for their next attempt.
	Running int `json:"running"`
	// Redelivered counts those of them that it was given more than once.
	Redelivered int `json:"redelivered"`
	// Again counts the events that it is to have once more: retried dead letters
	// and replays.
	Again uint64 `json:"again"`
	// Dead counts its dead letters.
	Dead uint64 `json:"dead"`
	// Oldest is when the oldest event was stored that is not done, zero when all
	// are.
	Oldest time.Time `json:"oldest,omitzero"`
	// Waiting says whether an instance waits for events.
	Waiting bool `json:"waiting"`
	// Last is when it was given an event last, zero for never.
	Last time.Time `json:"last,omitzero"`
}

// Age returns how old the oldest event is that is not done, 0 when all are.
func (l *Lag) Age() time.Duration {
	if l.Oldest.IsZero() {
		return 0
	}
	return max(time.Since(l.Oldest), 0)
}

// Handlers returns all handlers that have begun on this bus, by service and name.
func (p *Pipeline) Handlers(ctx context.Context) ([]HandlerInfo, error) {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	events, err := p.events(ctx)
	if err != nil {
		return nil, err
	}
	counts, err := p.counts(ctx)
	if err != nil {
		return nil, err
	}
	found := []HandlerInfo{}
	list := events.ListConsumers(ctx)
	for info := range list.Info() {
		if info.Config.Metadata[metaHandler] == "" {
			continue
		}
		h, err := handlerInfo(ctx, events, info, counts)
		if err != nil {
			return nil, err
		}
		found = append(found, h)
	}
	if err := list.Err(); err != nil {
		return nil, coded(ctx, err)
	}
	slices.SortFunc(found, func(a, b HandlerInfo) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Handler, b.Handler))
	})
	return found, nil
}

// Handler returns one handler, or a NotFound.
func (p *Pipeline) Handler(ctx context.Context, service, handler string) (HandlerInfo, error) {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	events, info, err := p.consumer(ctx, service, handler)
	if err != nil {
		return HandlerInfo{}, err
	}
	counts, err := p.counts(ctx)
	if err != nil {
		return HandlerInfo{}, err
	}
	return handlerInfo(ctx, events, info, counts)
}

// consumer returns the consumer of a handler on EVENTS.
func (p *Pipeline) consumer(ctx context.Context, service, handler string) (jetstream.Stream, *jetstream.ConsumerInfo, error) {
	for _, name := range []string{service, handler} {
		if err := rpc.ValidateService(name); err != nil {
			return nil, nil, rpc.InvalidArgument.Errorf("handler %.80q of %.80q: %w", handler, service, err)
		}
	}
	events, err := p.events(ctx)
	if err != nil {
		return nil, nil, err
	}
	none := rpc.NotFound.Errorf("the service %s has no handler %s of events: none has run on this bus", service, handler)
	consumer, err := events.Consumer(ctx, service+"-"+handler)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, nil, none
	}
	if err != nil {
		return nil, nil, coded(ctx, err)
	}
	info := consumer.CachedInfo()
	if info.Config.Metadata[metaService] != service || info.Config.Metadata[metaHandler] != handler {
		return nil, nil, none
	}
	return events, info, nil
}

// RemoveHandler forgets a handler that runs nowhere any more: where it was in the
// stream, and what was in its lane. Its dead letters stay. One that seems to have
// instances, since somebody waits for its events or was given some a moment ago, is
// refused with FailedPrecondition.
func (p *Pipeline) RemoveHandler(ctx context.Context, service, handler string) error {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	events, info, err := p.consumer(ctx, service, handler)
	if err != nil {
		return err
	}
	if info.NumWaiting > 0 || busy(info) {
		return rpc.FailedPrecondition.Errorf("the handler %s of %s runs: stop the instances that have it first", handler, service)
	}
	if err := events.DeleteConsumer(ctx, info.Name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return coded(ctx, err)
	}
	lanes, err := p.js.Stream(ctx, LaneStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err == nil {
		err = lanes.Purge(ctx, jetstream.WithPurgeSubject(laneSubject(service, handler)))
	}
	if err != nil {
		return coded(ctx, err)
	}
	return nil
}

// busy reports whether somebody may be at work with what a consumer has delivered.
func busy(info *jetstream.ConsumerInfo) bool {
	last := info.Delivered.Last
	if acked := info.AckFloor.Last; last == nil || acked != nil && acked.After(*last) {
		last = acked
	}
	return info.NumAckPending > 0 && last != nil && time.Since(*last) < 2*ackWait
}

// counts are messages by subject, of dead letters and lanes.
type counts map[string]uint64

func (p *Pipeline) counts(ctx context.Context) (counts, error) {
	all := counts{}
	for stream, subjects := range map[string]string{DeadStream: deadPrefix + "*", LaneStream: laneSubject("*", "*")} {
		s, err := p.js.Stream(ctx, stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // nothing has been there yet
		}
		if err != nil {
			return nil, coded(ctx, err)
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(subjects))
		if err != nil {
			return nil, coded(ctx, err)
		}
		for subject, n := range info.State.Subjects {
			all[subject] = n
		}
	}
	return all, nil
}

func handlerInfo(ctx context.Context, events jetstream.Stream, info *jetstream.ConsumerInfo, n counts) (HandlerInfo, error) {
	meta := info.Config.Metadata
	h := HandlerInfo{
		Service: meta[metaService], Handler: meta[metaHandler], Version: meta[metaVersion], Created: info.Created,
		Patterns: strings.Split(meta[metaPatterns], ","), One: info.Config.PriorityPolicy == jetstream.PriorityPolicyPinned,
		Lag: Lag{
			Pending: info.NumPending, Running: info.NumAckPending, Redelivered: info.NumRedelivered,
			Again: n[laneSubject(meta[metaService], meta[metaHandler])], Dead: n[deadPrefix+info.Name], Waiting: info.NumWaiting > 0,
		},
	}
	if info.Delivered.Last != nil {
		h.Last = *info.Delivered.Last
	}
	if h.Pending == 0 && h.Running == 0 {
		return h, nil
	}
	for _, filter := range subjectsOf(&info.Config) {
		msg, err := events.GetMsg(ctx, info.AckFloor.Stream+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return h, coded(ctx, err)
		}
		if h.Oldest.IsZero() || msg.Time.Before(h.Oldest) {
			h.Oldest = msg.Time
		}
	}
	return h, nil
}

func subjectsOf(cfg *jetstream.ConsumerConfig) []string {
	if cfg.FilterSubject != "" {
		return []string{cfg.FilterSubject}
	}
	return cfg.FilterSubjects
}
