package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// EventsStream holds the events of all services, by the subject
// $.<Subject>.<predicate>[.<Object>…].
const EventsStream = "EVENTS"

const (
	eventsVersion = 1

	// An event has this many tokens after "$.".
	minEventTokens = 2
	maxEventTokens = 6

	// listPatience bounds a request to list streams. A cluster waits 4 seconds
	// for those that have no leader, and then leaves them out.
	listPatience = 6 * time.Second
)

// metadataEvents is where a stream says that EVENTS is to take in its events,
// and the prefix of their subjects.
const metadataEvents = "rpc.do/events"

// EnsureEvents returns the stream EVENTS, and makes it when it is not there, as
// EnsureStream does.
func (b *Bus) EnsureEvents(ctx context.Context) (jetstream.Stream, error) {
	ctx, cancel := withStreamTimeout(ctx)
	defer cancel()
	events, changed, err := b.ensureStream(ctx, jetstream.StreamConfig{
		Name:        EventsStream,
		Subjects:    []string{"$.>"},
		Storage:     jetstream.FileStorage,
		AllowDirect: true,
		Duplicates:  2 * time.Minute,
	}, eventsVersion)
	if changed {
		// It was made anew, or the change has undone that of somebody who added
		// a source.
		if e := b.addSources(ctx); err == nil {
			err = e
		}
	}
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
// the same stream and for others. Since the server has no compare-and-set for
// configs, the update of one may undo that of another; so the stream that has
// the events says so in its metadata ("rpc.do/events"), before, and who has
// updated EVENTS looks afterwards whether all streams that say so are sources,
// until they are. A source may be missing only when a process ends, or its
// request takes effect after it was given up, between these two, or when
// somebody edits EVENTS by other means: until the next call for that stream, or
// the next that changes something.
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
	if err := b.markEvents(ctx, stream, prefix); err != nil {
		return err
	}
	events, err := b.EnsureEvents(ctx)
	if err != nil {
		return err
	}
	cfg := events.CachedInfo().Config
	if !addSource(&cfg, want) {
		return nil
	}
	return b.addSources(ctx, want)
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

// markEvents has a stream say that it has events below prefix.
func (b *Bus) markEvents(ctx context.Context, stream, prefix string) error {
	_, _, err := b.amendStream(ctx, stream, func(have *jetstream.StreamConfig) (bool, error) {
		switch {
		case !takesIn(have.Subjects, prefix+".>"):
			return false, fmt.Errorf("it has no events below %s: it takes in %s", prefix, strings.Join(have.Subjects, ", "))
		case have.SubjectDeleteMarkerTTL > 0:
			return false, fmt.Errorf("its subject_delete_marker_ttl is %v: the markers for expired events would be events: set it to 0",
				have.SubjectDeleteMarkerTTL)
		case have.Metadata[metadataEvents] == prefix:
			return false, nil
		}
		setMetadata(have, metadataEvents, prefix)
		return true, nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("bus: stream %s is not there: make it before its events are taken in: %w", stream, err)
	}
	return err
}

// addSources makes also, and all streams that say they have events, sources of
// EVENTS.
func (b *Bus) addSources(ctx context.Context, also ...*jetstream.StreamSource) error {
	sources := also
	for round := 1; ; round++ {
		_, changed, err := b.amendStream(ctx, EventsStream, func(have *jetstream.StreamConfig) (bool, error) {
			var change bool
			for _, source := range sources {
				change = addSource(have, source) || change
			}
			return change, nil
		})
		if err != nil || !changed && round > 1 {
			return err
		}
		if round == streamRounds {
			return fmt.Errorf("bus: stream %s: others have changed its sources %d times in a row: "+
				"see who does, and start this program again", EventsStream, round)
		}
		if round > 2 {
			if err := pause(ctx, round-2); err != nil {
				return streamError(EventsStream, err)
			}
		}
		// What the change has undone was listed before it was added.
		if sources, err = b.markedSources(ctx); err != nil {
			return err
		}
		for _, source := range also {
			if !slices.ContainsFunc(sources, func(s *jetstream.StreamSource) bool { return s.Name == source.Name }) {
				sources = append(sources, source)
			}
		}
	}
}

// markedSources lists the streams that say they have events. It leaves out what
// a cluster does not know at the moment.
func (b *Bus) markedSources(ctx context.Context) ([]*jetstream.StreamSource, error) {
	return ask(ctx, b, EventsStream, listPatience, func(ctx context.Context) ([]*jetstream.StreamSource, error) {
		var sources []*jetstream.StreamSource
		for offset := 0; ; {
			page, err := b.listStreams(ctx, offset)
			if err != nil {
				return nil, err
			}
			for _, stream := range page.Streams {
				prefix, ok := stream.Config.Metadata[metadataEvents]
				if !ok {
					continue
				}
				source, err := eventSource(stream.Config.Name, prefix)
				if err != nil { // somebody has edited it
					b.cfg.Logger.Warn().Err(err).Str("stream", stream.Config.Name).Msg("bus ignores the stream's " + metadataEvents)
					continue
				}
				sources = append(sources, source)
			}
			if offset += page.Limit; page.Limit == 0 || offset >= page.Total {
				return sources, nil
			}
		}
	})
}

// streamPage is the answer of the JetStream API to a request to list streams.
type streamPage struct {
	Error   *jetstream.APIError     `json:"error"`
	Total   int                     `json:"total"`
	Limit   int                     `json:"limit"`
	Streams []*jetstream.StreamInfo `json:"streams"`
}

// listStreams is here because nats.go takes a page with streams that a cluster
// does not know at the moment for a shorter one, and asks again for the rest.
func (b *Bus) listStreams(ctx context.Context, offset int) (*streamPage, error) {
	msg, err := b.conn.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.LIST", fmt.Appendf(nil, `{"offset":%d}`, offset))
	if err != nil {
		return nil, err
	}
	page := new(streamPage)
	if err := json.Unmarshal(msg.Data, page); err != nil {
		return nil, err
	}
	if page.Error != nil {
		return nil, page.Error
	}
	return page, nil
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
