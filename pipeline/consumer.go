package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// ensureConsumer makes the handler's consumer on EVENTS, or makes it what it is
// to be now: its place in the stream stays.
func (h *handler) ensureConsumer(ctx context.Context) error {
	want := h.config()
	h.mu.Lock()
	from, running := h.cfg.from, h.main != nil
	if h.main != nil && h.lastPlace() > 0 { // it was deleted while the handler ran
		from = StartSequence(h.lastPlace())
	}
	h.mu.Unlock()
	from.start(&want)
	if err := h.workers.ensure(ctx, bus.EventsStream, want, running); err != nil {
		return fmt.Errorf("events for the handler %s of %s: %w", h.name, h.service, err)
	}
	return nil
}

// lastPlace returns the first place that is not done here, or the one after the
// last that was delivered; 0 when nothing was. The handler is locked.
func (h *handler) lastPlace() uint64 {
	if len(h.main.held) > 0 {
		return slices.Min(slices.Collect(maps.Keys(h.main.held)))
	}
	if h.main.last > 0 {
		return h.main.last + 1
	}
	return 0
}

// ensure makes a consumer, or changes one of the same handler, unless it is to be
// left as it is: an instance that runs does not put back what a newer one has
// changed.
func (w *workers) ensure(ctx context.Context, stream string, want jetstream.ConsumerConfig, leave bool) error {
	for {
		err := w.tryEnsure(ctx, stream, want, leave)
		if err == nil || !passing(err) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (w *workers) tryEnsure(ctx context.Context, stream string, want jetstream.ConsumerConfig, leave bool) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	js := w.pipeline.js
	for range 3 {
		consumer, err := js.Consumer(ctx, stream, want.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			_, err = js.CreateConsumer(ctx, stream, want)
			if errors.Is(err, jetstream.ErrConsumerExists) {
				continue // another instance was first
			}
			return err
		}
		if err != nil {
			return err
		}
		have := consumer.CachedInfo().Config
		if service, name := have.Metadata[metaService], have.Metadata[metaHandler]; service != want.Metadata[metaService] || name != want.Metadata[metaHandler] {
			return rpc.AlreadyExists.Errorf("the stream %s has a consumer %s that is %s: give the handler another name, or delete that consumer",
				stream, want.Durable, whose(service, name))
		}
		if leave || sameConsumer(&have, &want) {
			return nil
		}
		if _, err = js.UpdateConsumer(ctx, stream, changed(have, want)); !errors.Is(err, jetstream.ErrConsumerDoesNotExist) {
			return err
		}
	}
	return rpc.Aborted.Errorf("the consumer %s of the stream %s was made and deleted by others again and again", want.Durable, stream)
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
		if err == nil {
			_, err = w.bus.EnsureEvents(ctx)
		}
		if err == nil {
			err = h.ensureConsumer(ctx)
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
	at       time.Time
	patterns []Pattern
}

// elsewhereFor is how long that is taken for true.
const elsewhereFor = 5 * time.Second

// wantedElsewhere reports whether the handler, as another instance has it, wants
// an event that this instance does not.
func (w *workers) wantedElsewhere(h *handler, eventType string) bool {
	h.mu.Lock()
	known := h.elsewhere
	h.mu.Unlock()
	if time.Since(known.at) > elsewhereFor {
		ctx, cancel := context.WithTimeout(w.life, requestTimeout)
		defer cancel()
		consumer, err := w.pipeline.js.Consumer(ctx, bus.EventsStream, h.durable)
		if err != nil {
			return true // let us see later
		}
		known = elsewhere{at: time.Now()}
		for text := range strings.SplitSeq(consumer.CachedInfo().Config.Metadata[metaPatterns], ",") {
			if p, err := ParsePattern(text); err == nil {
				known.patterns = append(known.patterns, p)
			}
		}
		h.mu.Lock()
		h.elsewhere = known
		h.mu.Unlock()
	}
	return matches(known.patterns, eventType)
}
