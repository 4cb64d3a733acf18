package read

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"rpc.do/bus"
)

// FromLeader returns a message as the leader of the stream has it: the first on
// a subject that has the sequence or a later one, or, without a subject, the one
// that has it.
func FromLeader(ctx context.Context, b *bus.Bus, seq uint64, subject string) (*jetstream.RawStreamMsg, error) {
	request, err := json.Marshal(struct {
		Sequence uint64 `json:"seq"`
		Next     string `json:"next_by_subj,omitempty"`
	}{seq, subject})
	if err != nil {
		return nil, err
	}
	return Retry(ctx, b, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		msg, err := b.Conn().RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+bus.EventsStream, request)
		if err != nil {
			return nil, err
		}
		var answer struct {
			Error   *jetstream.APIError `json:"error"`
			Message struct {
				Subject  string    `json:"subject"`
				Sequence uint64    `json:"seq"`
				Header   []byte    `json:"hdrs"`
				Data     []byte    `json:"data"`
				Time     time.Time `json:"time"`
			} `json:"message"`
		}
		if err := json.Unmarshal(msg.Data, &answer); err != nil {
			return nil, err
		}
		if answer.Error != nil {
			return nil, answer.Error
		}
		m := answer.Message
		stored := &jetstream.RawStreamMsg{Subject: m.Subject, Sequence: m.Sequence, Data: m.Data, Time: m.Time}
		if len(m.Header) > 0 {
			if stored.Header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
				return nil, err
			}
		}
		return stored, nil
	})
}

// SequenceAt returns the sequence of the first event that was stored at that time
// or later, or the one that the next event will have. It may be an earlier one
// when the servers of the stream do not have the same yet.
func SequenceAt(
	ctx context.Context, b *bus.Bus, at time.Time, info *jetstream.StreamInfo,
) (uint64, error) {
	switch {
	case info.State.Msgs == 0 || at.After(info.State.LastTime):
		return info.State.LastSeq + 1, nil
	case !at.After(info.State.FirstTime):
		return info.State.FirstSeq, nil
	}
	js := b.JetStream()
	return Retry(ctx, b, func(ctx context.Context) (uint64, error) {
		name := "rpc-time-" + nuid.Next()
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTime)
			defer cancel()
			_ = js.DeleteConsumer(ctx, bus.EventsStream, name)
		}()
		c, err := js.CreateConsumer(ctx, bus.EventsStream, jetstream.ConsumerConfig{
			Name:              name,
			DeliverPolicy:     jetstream.DeliverByStartTimePolicy,
			OptStartTime:      &at,
			AckPolicy:         jetstream.AckNonePolicy,
			InactiveThreshold: readerRest,
			MemoryStorage:     true,
			Replicas:          1,
		})
		if err != nil {
			return 0, err
		}
		return c.CachedInfo().Delivered.Stream + 1, nil
	})
}
