package pipeline

import (
	"context"
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

// Metadata of a handler's consumer.
const (
	metaService  = "rpc.do/service"
	metaHandler  = "rpc.do/handler"
	metaVersion  = "rpc.do/version"
	metaPatterns = "rpc.do/patterns"
)

// maxAckPending is how many events of a handler are delivered and not done, over
// all instances: those that wait for their next attempt count.
const maxAckPending = 10_000

// config is what the handler's consumer on EVENTS is to be, apart from where it
// begins.
func (h *handler) config() jetstream.ConsumerConfig {
	texts := make([]string, len(h.patterns))
	for i, p := range h.patterns {
		texts[i] = p.String()
	}
	slices.Sort(texts)
	cfg := jetstream.ConsumerConfig{
		Durable: h.durable, Description: fmt.Sprintf("events for the handler %s of %s", h.name, h.service),
		FilterSubjects: filters(h.patterns),
		AckPolicy:      jetstream.AckExplicitPolicy, AckWait: h.ackWait(), MaxDeliver: -1, MaxAckPending: maxAckPending,
		Metadata: map[string]string{
			metaService: h.service, metaHandler: h.name, metaVersion: h.version, metaPatterns: strings.Join(slices.Compact(texts), ","),
		},
	}
	if h.cfg.exclusive {
		cfg.MaxAckPending = pinHeld
		cfg.PriorityPolicy, cfg.PriorityGroups, cfg.PinnedTTL = jetstream.PriorityPolicyPinned, []string{pinGroup}, pinFor
	}
	return cfg
}

// start says where a new consumer begins.
func (s Start) start(cfg *jetstream.ConsumerConfig) {
	switch {
	case s.all:
		cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	case !s.time.IsZero():
		t := s.time.UTC()
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &t
	case s.sequence > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.sequence
	default:
		cfg.DeliverPolicy = jetstream.DeliverNewPolicy
	}
}

// seen is what the handler's consumer was when it was looked at last. It is made
// again from that when somebody deletes it.
type seen struct {
	stream time.Time // when EVENTS was made
	floor  uint64    // up to here all is done
	config jetstream.ConsumerConfig
}

// see notes what the handler's consumer is. Stream is when EVENTS was made.
func (h *handler) see(info *jetstream.ConsumerInfo, stream time.Time) {
	h.created.Store(info.Created.UnixNano())
	now := seen{stream: stream, floor: info.AckFloor.Stream, config: info.Config}
	if info.NumAckPending == 0 {
		now.floor = max(now.floor, info.Delivered.Stream)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = now
}

// made is a part of the keys of what is kept of the handler's events: another
// consumer of the same name is not to be taken for this one.
func (h *handler) made() string { return strconv.FormatInt(h.created.Load(), 36) }

// ensureConsumer makes the handler's consumer on EVENTS, or makes it what it is
// to be now: its place in the stream stays.
func (h *handler) ensureConsumer(ctx context.Context, stream time.Time) error {
	want := h.config()
	h.cfg.from.start(&want)
	return h.ensureAs(ctx, want, stream, false)
}

// restoreConsumer makes the handler's consumer again as it was, if somebody has
// deleted it: of what may not be done nothing is left out. In an EVENTS that was
// made anew nothing is done.
func (h *handler) restoreConsumer(ctx context.Context, stream time.Time) error {
	h.mu.Lock()
	was := h.seen
	h.mu.Unlock()
	want := was.config
	want.Name, want.OptStartTime, want.OptStartSeq = "", nil, 0
	if want.DeliverPolicy = jetstream.DeliverAllPolicy; was.stream.Equal(stream) {
		want.DeliverPolicy, want.OptStartSeq = jetstream.DeliverByStartSequencePolicy, was.floor+1
	}
	return h.ensureAs(ctx, want, stream, true)
}

func (h *handler) ensureAs(ctx context.Context, want jetstream.ConsumerConfig, stream time.Time, leave bool) error {
	info, err := h.workers.ensure(ctx, bus.EventsStream, want, leave)
	if err != nil {
		return fmt.Errorf("events for the handler %s of %s: %w", h.name, h.service, err)
	}
	h.see(info, stream)
	return nil
}

// seeEvery is how often the consumers are looked at, for the case that they have
// to be made again.
const seeEvery = 30 * time.Second

// seeAll looks at the consumers of all handlers.
func (w *workers) seeAll() {
	ctx, cancel := context.WithTimeout(w.life, seeEvery)
	defer cancel()
	stream, err := w.pipeline.js.Stream(ctx, bus.EventsStream)
	if err != nil {
		return // its pulls will tell
	}
	for _, h := range w.handlers {
		consumer, err := stream.Consumer(ctx, h.durable)
		if err != nil {
			continue
		}
		info := consumer.CachedInfo()
		h.see(info, stream.CachedInfo().Created)
		theirs := patternsOf(info.Config.Metadata)
		for _, p := range h.patterns {
			if !slices.Contains(theirs, p) {
				h.log.Error().Str("pattern", p.String()).Str("version", info.Config.Metadata[metaVersion]).
					Msg("an instance that was started later has made the handler one without this pattern: such events do not come; start the newer one again")
			}
		}
	}
}

// patternsOf returns the patterns that a handler's consumer is for.
func patternsOf(metadata map[string]string) []Pattern {
	var patterns []Pattern
	for text := range strings.SplitSeq(metadata[metaPatterns], ",") {
		if p, err := ParsePattern(text); err == nil {
			patterns = append(patterns, p)
		}
	}
	return patterns
}

// ensure makes a consumer, or changes one of the same handler, unless it is to be
// left as it is: an instance that runs does not put back what a newer one has
// changed.
func (w *workers) ensure(ctx context.Context, stream string, want jetstream.ConsumerConfig, leave bool) (*jetstream.ConsumerInfo, error) {
	for {
		consumer, err := w.tryEnsure(ctx, stream, want, leave)
		if err == nil {
			return consumer.CachedInfo(), nil
		}
		if !passing(err) {
			return nil, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (w *workers) tryEnsure(ctx context.Context, stream string, want jetstream.ConsumerConfig, leave bool) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	js := w.pipeline.js
	for range 3 {
		consumer, err := js.Consumer(ctx, stream, want.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			if consumer, err = js.CreateConsumer(ctx, stream, want); !errors.Is(err, jetstream.ErrConsumerExists) {
				return consumer, err
			}
			continue // another instance was first
		}
		if err != nil {
			return nil, err
		}
		have := consumer.CachedInfo().Config
		if service, name := have.Metadata[metaService], have.Metadata[metaHandler]; service != want.Metadata[metaService] || name != want.Metadata[metaHandler] {
			return nil, rpc.AlreadyExists.Errorf("the stream %s has a consumer %s that is %s: give the handler another name, or delete that consumer",
				stream, want.Durable, whose(service, name))
		}
		if leave || sameConsumer(&have, &want) {
			return consumer, nil
		}
		if consumer, err = js.UpdateConsumer(ctx, stream, changed(have, want)); !errors.Is(err, jetstream.ErrConsumerDoesNotExist) {
			return consumer, err
		}
	}
	return nil, rpc.Aborted.Errorf("the consumer %s of the stream %s was made and deleted by others again and again", want.Durable, stream)
}

func whose(service, handler string) string {
	if service == "" {
		return "no handler's"
	}
	return fmt.Sprintf("that of the handler %q of the service %q", handler, service)
}

// sameConsumer reports whether a consumer is what it is to be. What else was set
// is the operator's.
func sameConsumer(have, want *jetstream.ConsumerConfig) bool {
	for key, value := range want.Metadata {
		if have.Metadata[key] != value {
			return false
		}
	}
	return slices.Equal(subjectsOf(have), want.FilterSubjects) && have.AckWait == want.AckWait && have.PriorityPolicy == want.PriorityPolicy &&
		slices.Equal(have.PriorityGroups, want.PriorityGroups) && have.PinnedTTL == want.PinnedTTL &&
		(want.PriorityPolicy == jetstream.PriorityPolicyNone || have.MaxAckPending <= want.MaxAckPending)
}

// changed is the config that a consumer gets.
func changed(have, want jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	have.FilterSubject, have.FilterSubjects = "", want.FilterSubjects
	have.AckWait, have.Description = want.AckWait, want.Description
	have.PriorityPolicy, have.PriorityGroups, have.PinnedTTL = want.PriorityPolicy, want.PriorityGroups, want.PinnedTTL
	if want.PriorityPolicy != jetstream.PriorityPolicyNone || have.MaxAckPending == pinHeld {
		have.MaxAckPending = want.MaxAckPending
	}
	have.Metadata = maps.Clone(have.Metadata)
	maps.Copy(have.Metadata, want.Metadata)
	return have
}

// passing reports whether the same request may succeed a little later.
func passing(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) {
		return true
	}
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && e.Code >= 500
}

// look has the handler's consumers looked at: they do not answer.
func (w *workers) look(h *handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping || h.looking {
		return
	}
	h.looking = true
	w.tasks.Go(func() {
		defer func() {
			h.mu.Lock()
			h.looking = false
			h.mu.Unlock()
		}()
		ctx, cancel := context.WithTimeout(w.life, requestTimeout)
		defer cancel()
		err := w.bus.WaitConnected(ctx)
		var stream jetstream.Stream
		if err == nil {
			stream, err = w.bus.EnsureEvents(ctx)
		}
		if err == nil {
			err = h.restoreConsumer(ctx, stream.CachedInfo().Created)
		}
		if err == nil {
			err = h.ensureLane(ctx)
		}
		if err != nil && w.life.Err() == nil {
			h.log.Warn().Err(err).Msg("the handler's consumer does not answer")
		}
	})
}

// elsewhere is what is known of the patterns that the handler's consumer is for.
type elsewhere struct {
	at       time.Time // when it was asked for
	patterns []Pattern
}

// elsewhereFor is how long it is taken for true that another instance wants an
// event. That none does must have been asked for after the event came.
const elsewhereFor = 5 * time.Second

// wantedElsewhere reports whether the handler, as another instance has it, wants
// an event that this instance does not.
func (w *workers) wantedElsewhere(h *handler, d *delivery) bool {
	eventType := typeOf(d)
	known := func() (wanted, sure bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		wanted = matches(h.elsewhere.patterns, eventType)
		return wanted, wanted && time.Since(h.elsewhere.at) < elsewhereFor || h.elsewhere.at.After(d.came)
	}
	if wanted, sure := known(); sure {
		return wanted
	}
	w.asking.Lock() // one asks for all that have come
	defer w.asking.Unlock()
	if wanted, sure := known(); sure {
		return wanted
	}
	now := elsewhere{at: time.Now()}
	ctx, cancel := context.WithTimeout(w.life, requestTimeout)
	defer cancel()
	consumer, err := w.pipeline.js.Consumer(ctx, bus.EventsStream, h.durable)
	if err != nil {
		return true // let us see later
	}
	now.patterns = patternsOf(consumer.CachedInfo().Config.Metadata)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.elsewhere = now
	return matches(now.patterns, eventType)
}
