package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// EventsStream holds the events of all services, by the subject
// $.<Subject>.<predicate>[.<Object>…].
const EventsStream = "EVENTS"

const (
	eventsVersion = 1

	// An event has this many tokens after "$.".
	minEventTokens = 2
	maxEventTokens = 6
)

// The lock on the config of EVENTS is a consumer, which only one process can
// make, and which the server removes when it has not been used for the lease.
const (
	eventsLock      = "rpc-config-lock"
	eventsLockLease = 5 * time.Second

	// Who holds the lock changes nothing after this, and does not release it
	// when another may have it.
	eventsLockUse     = 3 * time.Second
	eventsLockRelease = 4 * time.Second
)

// EnsureEvents returns the stream EVENTS, and makes it when it is not there, as
// EnsureStream does.
func (b *Bus) EnsureEvents(ctx context.Context) (jetstream.Stream, error) {
	events, err := b.EnsureStream(ctx, jetstream.StreamConfig{
		Name:        EventsStream,
		Subjects:    []string{"$.>"},
		Storage:     jetstream.FileStorage,
		AllowDirect: true,
		Duplicates:  2 * time.Minute,
	}, eventsVersion)
	if err != nil {
		return nil, err
	}
	// The TTL of an event in its origin says how long that keeps it, not EVENTS.
	if events.CachedInfo().Config.AllowMsgTTL {
		return nil, fmt.Errorf("bus: stream %s: its allow_msg_ttl is on: events would vanish from it as they do where they come from. "+
			"The server can't turn it off: delete the stream, with its messages, to have it made anew", EventsStream)
	}
	return events, nil
}

// AmendEvents changes the config of EVENTS, and returns the stream; it makes it
// when it is not there. Change gets a copy of the config, replaces maps and slices
// in it, and reports whether it has changed something; it is called until it has
// not. Its error is wrapped in that of AmendEvents.
//
// Processes that use AmendEvents and SourceEvents take turns, so that none undoes
// what another has changed. AmendEvents returns within ctx and fails as
// EnsureStream does.
func (b *Bus) AmendEvents(ctx context.Context, change func(*jetstream.StreamConfig) (bool, error)) (jetstream.Stream, error) {
	ctx, cancel := withStreamTimeout(ctx)
	defer cancel()
	if _, err := b.EnsureEvents(ctx); err != nil {
		return nil, err
	}
	return b.amendStream(ctx, EventsStream, change)
}

// SourceEvents has EVENTS take in the events of a stream, and makes EVENTS when
// it is not there: <prefix>.<number>.<Subject>.<predicate>… is stored there as
// $.<Subject>.<predicate>…, in the order of the stream, those too that the
// stream has had before. What is not below prefix, or has another number of
// tokens than 2 to 6 in place of <Subject>.<predicate>…, is not taken in.
//
// SourceEvents returns before the events are there. They arrive at least once:
// an event that comes again, because a server was killed or the source was
// corrected, is dropped when it has the same Nats-Msg-Id and comes within two
// minutes.
//
// To be called at every start: it costs two requests when there is nothing to
// do, corrects a source for the stream that is not as described, and puts back
// one that was lost. Any number of processes may call it at the same time, for
// the same stream and for others: they take turns, by a lock that a process which
// ends keeps for 5 seconds at most. The server has no compare-and-set for
// configs, so a source can be lost still, to somebody who changes EVENTS without
// the lock and to an update that is on its way for seconds; that is not noticed
// before the next call for the same stream.
//
// The stream must exist. It must not leave markers for what expires there
// (subject_delete_marker_ttl), which would be taken in as events. SourceEvents
// returns within ctx and fails as EnsureStream does.
func (b *Bus) SourceEvents(ctx context.Context, stream, prefix string) error {
	want, err := eventSource(stream, prefix)
	if err != nil {
		return fmt.Errorf("bus: events of stream %s: %w", stream, err)
	}
	ctx, cancel := withStreamTimeout(ctx)
	defer cancel()
	if err := b.checkOrigin(ctx, stream, prefix); err != nil {
		return err
	}
	events, err := b.EnsureEvents(ctx)
	if err != nil {
		return err
	}
	if cfg := events.CachedInfo().Config; !addSource(&cfg, want) {
		return nil
	}
	_, err = b.amendStream(ctx, EventsStream, func(have *jetstream.StreamConfig) (bool, error) {
		return addSource(have, want), nil
	})
	return err
}

// eventSource describes a source of EVENTS. A transform has a fixed number of
// tokens, so there is one for each number.
func eventSource(stream, prefix string) (*jetstream.StreamSource, error) {
	for token := range strings.SplitSeq(prefix, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n") {
			return nil, fmt.Errorf("prefix %q: want tokens without wildcards or spaces, joined by dots", prefix)
		}
	}
	source := &jetstream.StreamSource{
		Name: stream,
		// Without it the server begins at the time of the last event in EVENTS
		// when older ones have been removed there.
		OptStartSeq: 1,
	}
	for n := minEventTokens; n <= maxEventTokens; n++ {
		to := "$"
		for i := range n {
			to += fmt.Sprintf(".{{wildcard(%d)}}", i+2) // 1 is the event's number
		}
		source.SubjectTransforms = append(source.SubjectTransforms, jetstream.SubjectTransformConfig{
			Source: prefix + strings.Repeat(".*", n+1), Destination: to,
		})
	}
	return source, nil
}

// checkOrigin fails when a stream can't have events below prefix.
func (b *Bus) checkOrigin(ctx context.Context, stream, prefix string) error {
	origin, err := b.lookStream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("bus: stream %s is not there: make it before its events are taken in: %w", stream, err)
	}
	if err != nil {
		return err
	}
	cfg := origin.CachedInfo().Config
	if !takesIn(cfg.Subjects, prefix+".>") {
		return fmt.Errorf("bus: stream %s has no events below %s: it takes in %s", stream, prefix, strings.Join(cfg.Subjects, ", "))
	}
	if cfg.SubjectDeleteMarkerTTL > 0 {
		return fmt.Errorf("bus: stream %s: its subject_delete_marker_ttl is %v: the markers for expired events would be events: set it to 0",
			stream, cfg.SubjectDeleteMarkerTTL)
	}
	return nil
}

// amendEvents is amendStream for EVENTS, which has as many writers as there are
// classes of objects. They take turns, since an update that undoes another costs
// more here, and since a server that is alone makes a mess of updates at the
// same time: a source may be in the config that it does not take in.
func (b *Bus) amendEvents(ctx context.Context, change func(*jetstream.StreamConfig) (bool, error)) (jetstream.Stream, error) {
	for {
		events, err := b.lookStream(ctx, EventsStream)
		if err != nil {
			return nil, err
		}
		cfg := events.CachedInfo().Config
		if changed, err := change(&cfg); err != nil {
			return nil, streamError(EventsStream, err)
		} else if !changed {
			return events, nil
		}
		locked, unlock, err := b.lockEvents(ctx)
		if err != nil {
			return nil, err
		}
		events, err = b.amendUnlocked(locked, EventsStream, change)
		unlock()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) { // else the lock was lost
			return events, err
		}
	}
}

// lockEvents waits until no other process changes the config of EVENTS. What is
// done under the lock ends with the context that it returns.
func (b *Bus) lockEvents(ctx context.Context) (locked context.Context, unlock func(), err error) {
	js := b.JetStream()
	lock := jetstream.ConsumerConfig{
		Name:              eventsLock,
		Description:       "held while the config of the stream is changed",
		Metadata:          map[string]string{"rpc.do/owner": nuid.Next()},
		InactiveThreshold: eventsLockLease,
		FilterSubject:     "$." + eventsLock,
		DeliverPolicy:     jetstream.DeliverNewPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
	}
	var since time.Time // no later than the lease begins
	for try := 1; ; try++ {
		since = time.Now()
		_, err := ask(ctx, b, EventsStream, func(ctx context.Context) (jetstream.Consumer, error) {
			return js.CreateConsumer(ctx, EventsStream, lock)
		})
		if err == nil {
			break
		}
		if !errors.Is(err, jetstream.ErrConsumerExists) {
			return nil, nil, err
		}
		if err := pause(ctx, try); err != nil {
			return nil, nil, fmt.Errorf("bus: stream %s: other processes are changing it: %w", EventsStream, err)
		}
	}
	locked, cancel := context.WithDeadline(ctx, since.Add(eventsLockUse))
	return locked, func() {
		cancel()
		ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), since.Add(eventsLockRelease))
		defer cancel()
		_ = js.DeleteConsumer(ctx, EventsStream, eventsLock) // else it ends with the lease
	}, nil
}

// addSource reports whether it had to change something for want to be the one
// source for its stream.
func addSource(have *jetstream.StreamConfig, want *jetstream.StreamSource) bool {
	same := func(s *jetstream.StreamSource) bool { return s.Name == want.Name && s.External == nil }
	i := slices.IndexFunc(have.Sources, same)
	if i < 0 {
		have.Sources = append(slices.Clip(have.Sources), want)
		return true
	}
	source := *have.Sources[i]
	right := source.FilterSubject == "" && slices.Equal(source.SubjectTransforms, want.SubjectTransforms)
	if right && !slices.ContainsFunc(have.Sources[i+1:], same) {
		return false
	}
	source.FilterSubject, source.SubjectTransforms = "", want.SubjectTransforms
	if source.OptStartTime == nil && source.OptStartSeq == 0 {
		source.OptStartSeq = want.OptStartSeq
	}
	have.Sources = append(slices.DeleteFunc(slices.Clone(have.Sources), same), &source)
	return true
}
