package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// streamTimeout bounds what manages streams when its context has no end.
	streamTimeout = 10 * time.Second

	// streamPatience bounds the first request of it, and grows with each: a
	// cluster does not answer while it elects a leader.
	streamPatience = time.Second

	// streamRounds is how often one begins anew because others change the same
	// stream.
	streamRounds = 10
)

// metadataVersion is where a stream says which version of its config it has.
const metadataVersion = "rpc.do/version"

// Codes of the JetStream API that nats.go has no names for.
const (
	codeNoPeers  jetstream.ErrorCode = 10005 // too few servers for the replicas
	codeNoLeader jetstream.ErrorCode = 10008
	codeOverlap  jetstream.ErrorCode = 10065 // another stream has the subjects
	codeReplicas jetstream.ErrorCode = 10074 // more than one without a cluster
	codeOffline  jetstream.ErrorCode = 10118 // no server that has it is there
)

// JetStream returns the streams and buckets of the server. It costs no request
// and is used by many goroutines at once. Who publishes asynchronously keeps
// what it returns: each has its own subscription for the acknowledgements.
func (b *Bus) JetStream() jetstream.JetStream {
	js, _ := jetstream.New(b.conn) // only its options can be wrong
	return js
}

// EnsureStream returns the stream that want describes: it makes it, or sees to
// it that the one of that name will do. Version, from 1, is that of the config,
// which the stream keeps in its metadata as "rpc.do/version".
//
// A stream that is there is the operator's: limits, replicas, placement and
// whatever else was changed stays. What want needs is turned on when it is off:
// direct gets, rollups, atomic publishing, TTLs and schedules of messages, and
// subjects that the stream does not take in yet. A stream without a version, or
// with an older one, gets this one. One with a newer version is not touched: it
// is for a newer program, and EnsureStream fails. So it does for a stream that
// is sealed, has another retention, or can't be given what is needed; what it
// could be given it keeps.
//
// Replicas default to Config.Replicas. Many processes may call EnsureStream at
// once, and all succeed. When they want different things of a stream that is
// there, one may undo what another has turned on at the same moment, until that
// one starts again: the server has no compare-and-set for configs.
//
// EnsureStream returns within ctx, or within 10 seconds when ctx has no
// deadline, and waits that long for a cluster that has no leader, or too few
// servers, yet. Its errors wrap the server's and say what to do.
func (b *Bus) EnsureStream(ctx context.Context, want jetstream.StreamConfig, version int) (jetstream.Stream, error) {
	if version < 1 {
		return nil, fmt.Errorf("bus: stream %s: version %d: versions begin at 1", want.Name, version)
	}
	if want.Replicas == 0 {
		want.Replicas = b.cfg.Replicas
	}
	ctx, cancel := withStreamTimeout(ctx)
	defer cancel()
	for round := 1; ; round++ {
		// This comes after creating too: the members of a cluster that know of
		// the stream begin to answer for it before it has a leader.
		stream, err := b.adaptStream(ctx, &want, version)
		if !errors.Is(err, jetstream.ErrStreamNotFound) || round == streamRounds {
			return stream, err
		}
		if round > 1 {
			if err := pause(ctx, round-1); err != nil {
				return nil, streamError(want.Name, err)
			}
		}
		err = b.createStream(ctx, want, version)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // else somebody else has made it, in another way
			return nil, err
		}
	}
}

func withStreamTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, streamTimeout)
}

func (b *Bus) createStream(ctx context.Context, cfg jetstream.StreamConfig, version int) error {
	stampStream(&cfg, version)
	js := b.JetStream()
	_, err := ask(ctx, b, cfg.Name, func(ctx context.Context) (jetstream.Stream, error) {
		stream, err := js.CreateStream(ctx, cfg)
		if cfg.Replicas > 1 && hasCode(err, codeReplicas, codeNoPeers) {
			return nil, fmt.Errorf("Replicas %[1]d wants a cluster of %[1]d servers with JetStream: "+
				"start them, or set Config.Replicas to 1: %[2]w", cfg.Replicas, err)
		}
		return stream, err
	})
	return err
}

// stampStream leaves the map alone that cfg has had, which others may hold.
func stampStream(cfg *jetstream.StreamConfig, version int) {
	cfg.Metadata = maps.Clone(cfg.Metadata)
	if cfg.Metadata == nil {
		cfg.Metadata = map[string]string{}
	}
	cfg.Metadata[metadataVersion] = strconv.Itoa(version)
}

// adaptStream turns on what want needs in the stream that is there.
func (b *Bus) adaptStream(ctx context.Context, want *jetstream.StreamConfig, version int) (jetstream.Stream, error) {
	stream, err := b.amendStream(ctx, want.Name, func(have *jetstream.StreamConfig) (bool, error) {
		made, err := checkStream(have, want, version)
		if err != nil {
			return false, err
		}
		var change bool
		for _, need := range needs(want) {
			change = need.turnOn(have) || change
		}
		if made < version {
			stampStream(have, version)
			change = true
		}
		return change, nil
	})
	if refused(err) {
		return nil, b.adaptEach(ctx, want, err)
	}
	return stream, err
}

// adaptEach turns on one by one what could not be turned on all at once, and
// says what it is that the server refuses.
func (b *Bus) adaptEach(ctx context.Context, want *jetstream.StreamConfig, why error) error {
	var lacks []string
	for _, need := range needs(want) {
		_, err := b.amendStream(ctx, want.Name, func(have *jetstream.StreamConfig) (bool, error) {
			return need.turnOn(have), nil
		})
		switch {
		case refused(err):
			if lacks == nil {
				why, _ = errors.AsType[*jetstream.APIError](err)
			}
			lacks = append(lacks, need.setting)
		case err != nil:
			return err
		}
	}
	if lacks == nil {
		return why
	}
	return fmt.Errorf("bus: stream %[1]s lacks %[2]s and the server does not let that be changed: "+
		"change what is in its way with \"nats stream edit %[1]s\", "+
		"or delete the stream with its messages, to have it made anew: %[3]w", want.Name, strings.Join(lacks, ", "), why)
}

// checkStream returns the version of a stream that is there, 0 for none, or why
// it won't do.
func checkStream(have, want *jetstream.StreamConfig, version int) (int, error) {
	var made int
	if stamp, ok := have.Metadata[metadataVersion]; ok {
		var err error
		if made, err = strconv.Atoi(stamp); err != nil {
			return 0, fmt.Errorf("its metadata has %q as %s, which is no number: put it right or remove it", stamp, metadataVersion)
		}
	}
	switch {
	case made > version:
		return 0, fmt.Errorf("a newer program has made it, in version %d, and this one knows version %d: update this one", made, version)
	case have.Sealed:
		return 0, errors.New("it is sealed: nothing can be written to it: delete it, to have it made anew, or rename what uses it")
	case have.Retention != want.Retention:
		return 0, fmt.Errorf("its retention is %s and must be %s: it was not made for this: delete it, with its messages, to have it made anew",
			have.Retention, want.Retention)
	}
	return made, nil
}

// need is something that a stream must have to do for a program.
type need struct {
	setting string // as in the stream's config in JSON

	// turnOn reports whether it had to change something.
	turnOn func(have *jetstream.StreamConfig) bool
}

func needs(want *jetstream.StreamConfig) []need {
	var all []need
	flag := func(setting string, of func(*jetstream.StreamConfig) *bool) {
		if !*of(want) {
			return
		}
		all = append(all, need{setting, func(have *jetstream.StreamConfig) bool {
			on := of(have)
			was := *on
			*on = true
			return !was
		}})
	}
	flag("allow_direct", func(c *jetstream.StreamConfig) *bool { return &c.AllowDirect })
	flag("allow_rollup_hdrs", func(c *jetstream.StreamConfig) *bool { return &c.AllowRollup })
	flag("allow_atomic", func(c *jetstream.StreamConfig) *bool { return &c.AllowAtomicPublish })
	flag("allow_msg_ttl", func(c *jetstream.StreamConfig) *bool { return &c.AllowMsgTTL })
	flag("allow_msg_schedules", func(c *jetstream.StreamConfig) *bool { return &c.AllowMsgSchedules })
	for _, subject := range want.Subjects {
		all = append(all, need{"subject " + subject, func(have *jetstream.StreamConfig) bool {
			if takesIn(have.Subjects, subject) {
				return false
			}
			// The server does not allow that a stream's subjects overlap.
			have.Subjects = append(slices.DeleteFunc(slices.Clone(have.Subjects), func(narrower string) bool {
				return takesIn([]string{subject}, narrower)
			}), subject)
			return true
		}})
	}
	return all
}

// takesIn reports whether every message that matches subject matches one of
// patterns too.
func takesIn(patterns []string, subject string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		rest := strings.Split(subject, ".")
		for token := range strings.SplitSeq(pattern, ".") {
			switch {
			case len(rest) == 0:
				return false
			case token == ">":
				return true
			case rest[0] == ">", token != "*" && token != rest[0]:
				return false
			}
			rest = rest[1:]
		}
		return len(rest) == 0
	})
}

// lookStream returns a stream that is there.
func (b *Bus) lookStream(ctx context.Context, name string) (jetstream.Stream, error) {
	js := b.JetStream()
	return ask(ctx, b, name, func(ctx context.Context) (jetstream.Stream, error) { return look(ctx, js, name) })
}

func look(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	if in := stream.CachedInfo().Cluster; in != nil && in.Leader == "" {
		// Somebody has just made it. The server would not answer an update.
		return nil, &jetstream.APIError{
			Code: http.StatusServiceUnavailable, ErrorCode: codeNoLeader, Description: "the stream has no leader yet",
		}
	}
	return stream, nil
}

// amendStream changes the config of a stream that is there, until change finds
// nothing to change in it: there is no compare-and-set for configs, so that the
// update of another process may undo this one, which is seen by looking again.
// Change gets a copy and replaces maps and slices in it.
func (b *Bus) amendStream(
	ctx context.Context, name string, change func(*jetstream.StreamConfig) (bool, error),
) (jetstream.Stream, error) {
	if name == EventsStream {
		return b.amendEvents(ctx, change)
	}
	return b.amendUnlocked(ctx, name, change)
}

func (b *Bus) amendUnlocked(
	ctx context.Context, name string, change func(*jetstream.StreamConfig) (bool, error),
) (jetstream.Stream, error) {
	js := b.JetStream()
	for round := 1; round <= streamRounds; round++ {
		if round > 2 {
			if err := pause(ctx, round-2); err != nil {
				return nil, streamError(name, err)
			}
		}
		var changed bool
		stream, err := ask(ctx, b, name, func(ctx context.Context) (jetstream.Stream, error) {
			stream, err := look(ctx, js, name)
			if err != nil {
				return nil, err
			}
			cfg := stream.CachedInfo().Config
			if changed, err = change(&cfg); err != nil || !changed {
				return stream, err
			}
			return js.UpdateStream(ctx, cfg)
		})
		if err != nil || !changed {
			return stream, err
		}
	}
	return nil, fmt.Errorf("bus: stream %s: others have changed its config %d times in a row: "+
		"see who does, and start this program again", name, streamRounds)
}

// ask makes requests of the JetStream API about a stream until one is answered
// for good or ctx ends.
func ask[T any](ctx context.Context, b *Bus, stream string, request func(context.Context) (T, error)) (T, error) {
	var none T
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A request that is not permitted gets no answer.
	defer b.OnDenied(func(d Denial) {
		if aboutStream(d, stream) {
			cancel(fmt.Errorf("the bus does not permit this user to publish to %s: have that permitted", d.Subject))
		}
	})()
	var why error // the last answer there was
	for try := 1; ; try++ {
		if err := b.WaitConnected(ctx); err != nil {
			return none, err
		}
		attempt, done := context.WithTimeout(ctx, time.Duration(try)*streamPatience)
		got, err := request(attempt)
		done()
		switch {
		case err == nil:
			return got, nil
		case ctx.Err() == nil && !temporary(err):
			return none, streamError(stream, err)
		case why == nil || !errors.Is(err, context.DeadlineExceeded):
			why = err
		}
		if pause(ctx, try) == nil {
			continue
		}
		ended := context.Cause(ctx)
		if errors.Is(ctx.Err(), context.Canceled) || errors.Is(why, context.DeadlineExceeded) {
			return none, streamError(stream, ended)
		}
		return none, streamError(stream, fmt.Errorf("%w (%w)", why, ended))
	}
}

// aboutStream reports whether the JetStream API was denied for a stream.
func aboutStream(d Denial, stream string) bool {
	request, ok := strings.CutPrefix(d.Subject, jetstream.DefaultAPIPrefix)
	return ok && !d.Subscribe && slices.Contains(strings.Split(request, "."), stream)
}

// temporary reports whether the same request may succeed later.
func temporary(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		hasCode(err, codeNoLeader, codeNoPeers, codeOffline)
}

// refused reports whether the server has understood a change and won't make it.
func refused(err error) bool {
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && !temporary(err) && e.Code != http.StatusNotFound && e.Code != http.StatusServiceUnavailable
}

func hasCode(err error, codes ...jetstream.ErrorCode) bool {
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && slices.Contains(codes, e.ErrorCode)
}

// Codes with which the server refuses a message whose expectation does not hold;
// the other one is that of a cluster.
const (
	codeWrongLast        jetstream.ErrorCode = 10071
	codeWrongLastReplica jetstream.ErrorCode = 10164
)

// IsWrongLast reports whether the server did not store a message because the last
// one of its subject is not the one that was expected.
func IsWrongLast(err error) bool { return hasCode(err, codeWrongLast, codeWrongLastReplica) }

// streamError says what to do about an error of the JetStream API.
func streamError(stream string, err error) error {
	var todo string
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		todo = "JetStream is not enabled: start the server with it (nats-server -js; rpcdo dev has it): "
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		todo = "JetStream is not enabled for the account of this user: have it enabled: "
	case hasCode(err, codeOverlap):
		todo = "another stream takes in messages on its subjects: see which with \"nats stream ls --all\", and change either: "
	case hasCode(err, codeNoLeader, codeOffline), errors.Is(err, context.DeadlineExceeded) && !hasCode(err, codeNoPeers):
		todo = "JetStream does not answer: if it is a cluster, are most of its servers running? "
	}
	return fmt.Errorf("bus: stream %s: %s%w", stream, todo, err)
}

// pause waits before a further try, the longer the more there were, and not as
// long as others do.
func pause(ctx context.Context, try int) error {
	timer := time.NewTimer(reconnectDelay(try))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
