package cli

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"rpc.do"
	"rpc.do/bus"
)

// Bounds on gathering the answers to one discovery request.
const (
	gatherQuiet   = 150 * time.Millisecond // no further answer for so long: that was all
	gatherTotal   = time.Second            // in all, also for the first answer
	gatherAnswers = 10_000
	gatherBytes   = 64 << 20
)

// gathered is what came back from a discovery request.
type gathered[T any] struct {
	answers []T
	odd     int  // answers that could not be read
	more    bool // there were more than the bounds allow
}

// gather asks all services, or all instances of the named one, and collects
// their answers until no more come.
func gather[T any](ctx context.Context, b *bus.Bus, verb micro.Verb, service string) (got gathered[T], err error) {
	subject, err := micro.ControlSubject(verb, service, "")
	if err != nil {
		return got, err
	}
	ctx, cancel := context.WithTimeout(ctx, gatherTotal)
	defer cancel()
	nc := b.Conn()
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return got, failf(rpc.Unavailable, "asking the services: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection is closed next
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		return got, failf(rpc.Unavailable, "asking the services: %w", err)
	}
	for bytes, n := 0, 0; ; {
		msg, err := nextAnswer(ctx, sub, n > 0)
		if err != nil || msg == nil {
			return got, err
		}
		n++
		bytes += len(msg.Data)
		if n > gatherAnswers || bytes > gatherBytes {
			got.more = true
			return got, nil
		}
		var answer T
		if bus.DecodeError(msg) != nil || json.Unmarshal(msg.Data, &answer) != nil {
			got.odd++
			continue
		}
		got.answers = append(got.answers, answer)
	}
}

// nextAnswer returns the next answer; nil when there are no more.
func nextAnswer(ctx context.Context, sub *nats.Subscription, some bool) (*nats.Msg, error) {
	wait := ctx
	if some {
		quiet, cancel := context.WithTimeout(ctx, gatherQuiet)
		defer cancel()
		wait = quiet
	}
	msg, err := sub.NextMsgWithContext(wait)
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	case err != nil:
		return nil, failf(rpc.CodeOf(err), "asking the services: %w", err)
	default:
		return msg, nil
	}
}
