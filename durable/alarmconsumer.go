package durable

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	alarmConsumer = "alarms"

	// alarmVersion is the version of the consumer's config.
	alarmVersion = 1

	// maxUnfinished bounds the due messages of a class that are worked on or wait
	// to be delivered again, as those of paused objects do.
	maxUnfinished = 1 << 16

	metadataVersion = "rpc.do/version"
)

// ensureAlarms makes the consumer of the due alarms, or sees to it that the one
// that is there will do. What an operator has changed of it stays. It returns
// how long the consumer waits for an answer, and tries until ctx ends.
func (c *class) ensureAlarms(ctx context.Context) (ackWait time.Duration, err error) {
	js := c.bus.JetStream()
	want := jetstream.ConsumerConfig{
		Durable: alarmConsumer, Description: "due alarms of the class " + c.stored,
		FilterSubject: c.journal.Subject(duePrefix + "*"), DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: c.cfg.alarms.ackWait, MaxDeliver: -1, MaxAckPending: maxUnfinished,
		Metadata: map[string]string{metadataVersion: strconv.Itoa(alarmVersion)},
	}
	for {
		var made jetstream.Consumer
		try, cancel := context.WithTimeout(ctx, readbackTimeout)
		made, err = js.Consumer(try, c.stream(), alarmConsumer)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			made, err = js.CreateConsumer(try, c.stream(), want)
		}
		if err == nil {
			have := made.CachedInfo().Config
			version, _ := strconv.Atoi(have.Metadata[metadataVersion])
			switch {
			case version == alarmVersion:
				cancel()
				return have.AckWait, nil
			case version > alarmVersion:
				cancel()
				return 0, fmt.Errorf("consumer %s of %s: a newer program has made it, in version %d, and this one knows version %d: update this one",
					alarmConsumer, c.stream(), version, alarmVersion)
			}
			_, err = js.UpdateConsumer(try, c.stream(), want)
		}
		cancel()
		refused, ok := errors.AsType[*jetstream.APIError](err)
		if ok && refused.Code == 400 && !errors.Is(err, jetstream.ErrConsumerExists) {
			return 0, fmt.Errorf("consumer %s of %s: %w", alarmConsumer, c.stream(), err)
		}
		select {
		case <-time.After(100 * time.Millisecond): // nobody leads it now, or others are making it
		case <-ctx.Done():
			return 0, fmt.Errorf("consumer %s of %s: %w (%w)", alarmConsumer, c.stream(), err, context.Cause(ctx))
		}
	}
}

// stream is the name of the class's stream.
func (c *class) stream() string { return "KV_" + Bucket(c.stored) }
