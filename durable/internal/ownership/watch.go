package ownership

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/durable/internal/journal"
)

// watch tells what the bucket has of members and slots, and then what changes,
// in the order in which it was stored.
type watch struct {
	// news are the messages; a nil one follows the last of those that were there
	// when the watch began. It is closed when the watch has ended.
	news   chan *journal.Stored
	cancel context.CancelFunc
	since  time.Time

	// members has those that were there when the watch began, as far as they have
	// been told. It is nil when all have.
	members map[string]bool
	upTo    uint64 // the last message
}

// told returns what the watch tells; nothing when there is none.
func (w *watch) told() <-chan *journal.Stored {
	if w == nil {
		return nil
	}
	return w.news
}

// watchBuffer is how many messages a watch is ahead of its reader.
const watchBuffer = 256

// openWatch begins to watch. It does not wait for the bus.
func (m *Member) openWatch(ctx context.Context) *watch {
	w := &watch{news: make(chan *journal.Stored, watchBuffer), since: time.Now(), members: map[string]bool{}}
	ctx, w.cancel = context.WithCancel(ctx)
	m.running.Go(func() {
		defer close(w.news)
		if err := m.follow(ctx, w.news); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Debug().Err(err).Msg("the watch of the owners has ended; beginning another")
		}
	})
	return w
}

// watchTimeout bounds how long a watch takes to begin.
const watchTimeout = 2 * time.Second

// unwatchedFor is how long the server keeps a watch that nobody listens to.
const unwatchedFor = 5 * time.Second

// errGap says that a watch has missed something.
var errGap = errors.New("a message is missing")

func (m *Member) follow(ctx context.Context, news chan<- *journal.Stored) error {
	if !m.bus.Connected() {
		return errors.New("the bus is not connected")
	}
	conn := m.bus.Conn()
	sub, err := conn.SubscribeSync(conn.NewInbox())
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is gone, and the subscription with it
	expected, end, err := m.newConsumer(ctx, sub.Subject)
	if err != nil {
		return err
	}
	defer end()
	tell := func(s *journal.Stored) error {
		select {
		case news <- s:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for n := uint64(1); ; n++ {
		if n == expected+1 {
			if err := tell(nil); err != nil {
				return err
			}
		}
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("%w: %w", errGap, err)
		}
		if meta.Sequence.Consumer != n {
			return errGap
		}
		err = tell(&journal.Stored{
			Key: m.journal.Key(msg.Subject), Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Header: msg.Header, Data: msg.Data,
		})
		if err != nil {
			return err
		}
		if meta.NumPending == 0 && n < expected { // some were overwritten before they could be sent
			expected = n
		}
	}
}

// newConsumer makes the server send what the bucket has, and what comes, to a
// subject. It returns how many messages there are now.
func (m *Member) newConsumer(ctx context.Context, deliver string) (there uint64, end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	filters := []string{m.journal.Subject(memberPrefix + "*")}
	for _, c := range m.classes {
		filters = append(filters, m.journal.Subject(slotPrefix+c.name+".*"))
	}
	js := m.bus.JetStream()
	consumer, err := js.CreatePushConsumer(ctx, "KV_"+Bucket, jetstream.ConsumerConfig{
		DeliverSubject: deliver, FilterSubjects: filters, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: unwatchedFor,
	})
	if err != nil {
		return 0, nil, err
	}
	info := consumer.CachedInfo()
	end = func() {
		if !m.bus.Connected() {
			return // the server finds out by itself
		}
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		if err := js.DeleteConsumer(ctx, "KV_"+Bucket, info.Name); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			m.cfg.Logger.Debug().Err(err).Msg("a watch of the owners was not removed; it expires by itself")
		}
	}
	return info.NumPending + info.Delivered.Consumer, end, nil
}
