package read

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"rpc.do/bus"
)

// Reader reads the stream EVENTS in its order, through a consumer of its own,
// which it makes anew when it is lost. One goroutine uses it at a time.
type Reader struct {
	// Position is the last sequence that was read, or passed over because it is not
	// to be read. What comes is after it.
	Position uint64
	// Pending is how many messages there were for the consumer when it was made.
	Pending uint64

	bus      *bus.Bus
	js       jetstream.JetStream
	cfg      Config
	maxBytes int64

	// What follows belongs to the consumer, and is nothing while there is none.
	consumer jetstream.Consumer
	name     string
	msgs     chan *nats.Msg
	sub      *nats.Subscription
	stop     func() // of OnDisconnect
	lost     chan struct{}
	silence  *time.Timer
	pull     string // where pulls are sent
	inbox    string // where messages come, and, with the number of a pull, what the server says of it
	pulls    int    // that were sent
	asked    int    // messages that are still to come
	got      int    // messages since the last pull
	received uint64 // messages of the consumer
}

// Config says what a Reader reads.
type Config struct {
	// Filters are the subjects, of which none overlap. None are all.
	Filters []string
	// HeadersOnly leaves out what is not a header.
	HeadersOnly bool
	// Batch is how many messages are on their way at most.
	Batch int
	// Wait waits for what is to come; without it the Reader ends where nothing is.
	Wait bool
	// Heartbeat is how often the server says that it waits, and after twice as long
	// without a word the consumer counts as lost. Defaults to 5 seconds.
	Heartbeat time.Duration
}

const (
	// readerRest is how long the server keeps a consumer that nobody uses.
	readerRest = 30 * time.Second

	// pullExpires is how long the server keeps a pull that waits.
	pullExpires = 30 * time.Second

	defaultHeartbeat = 5 * time.Second

	// pullBytes bounds what is on its way.
	pullBytes = 8 << 20

	// deleteTime bounds the request that ends a consumer.
	deleteTime = time.Second
)

// Why a Reader returns no message.
var (
	ErrNoMore = errors.New("no more events are there")
	ErrLost   = errors.New("the consumer is lost")
)

// Message is one message of the stream.
type Message struct {
	*nats.Msg
	Stored  bus.Stored
	After   uint64 // the position before it
	Pending uint64 // how many the consumer still had after it
}

// New returns a Reader of what comes after a sequence. It does nothing yet, and is
// to be closed when it has.
func New(b *bus.Bus, after uint64, cfg Config) *Reader {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = defaultHeartbeat
	}
	return &Reader{bus: b, js: b.JetStream(), cfg: cfg, Position: after, maxBytes: max(pullBytes, 2*b.MaxPayload())}
}

// Next returns the next message, or ErrNoMore. It makes the consumer when there
// is none, within ctx.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	for try := 1; ; try++ {
		if err := r.Open(ctx); err != nil {
			return Message{}, err
		}
		m, err := r.Receive(ctx)
		if !errors.Is(err, ErrLost) {
			return m, err
		}
		r.Close()
		if err := Pause(ctx, try); err != nil {
			return Message{}, err
		}
	}
}

// Open makes the consumer when there is none.
func (r *Reader) Open(ctx context.Context) error {
	if r.consumer != nil {
		return nil
	}
	_, err := Retry(ctx, r.bus, func(attempt context.Context) (struct{}, error) {
		r.Close() // of an attempt that may have been heard
		return struct{}{}, r.create(attempt)
	})
	if err != nil {
		r.Close()
	}
	return err
}

func (r *Reader) create(ctx context.Context) error {
	conn := r.bus.Conn()
	r.name = "rpc-read-" + nuid.Next()
	lost := make(chan struct{}, 1)
	r.lost = lost
	r.stop = r.bus.OnDisconnect(func() {
		select {
		case lost <- struct{}{}:
		default:
		}
	})
	r.msgs = make(chan *nats.Msg, 2*r.cfg.Batch+64) // with room for what the server says of pulls
	var err error
	r.inbox = conn.NewInbox() + "."
	if r.sub, err = conn.ChanSubscribe(r.inbox+"*", r.msgs); err != nil {
		return err
	}
	c, err := r.js.CreateConsumer(ctx, bus.EventsStream, jetstream.ConsumerConfig{
		Name:              r.name,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.Position + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubjects:    r.cfg.Filters,
		HeadersOnly:       r.cfg.HeadersOnly,
		InactiveThreshold: readerRest,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return err
	}
	r.consumer, r.Pending = c, c.CachedInfo().NumPending
	r.pull = jetstream.DefaultAPIPrefix + "CONSUMER.MSG.NEXT." + bus.EventsStream + "." + r.name
	r.silence = time.NewTimer(2 * r.cfg.Heartbeat)
	return nil
}

// Close ends the consumer. The reader can be used again, and then makes another.
func (r *Reader) Close() {
	if r.name == "" {
		return
	}
	r.stop()
	if r.sub != nil {
		_ = r.sub.Unsubscribe() // fails when it is gone with the connection
	}
	if r.silence != nil {
		r.silence.Stop()
	}
	if r.bus.Connected() { // else the server ends it when nobody uses it
		ctx, cancel := context.WithTimeout(context.Background(), deleteTime)
		defer cancel()
		_ = r.js.DeleteConsumer(ctx, bus.EventsStream, r.name)
	}
	r.consumer, r.name, r.sub, r.silence = nil, "", nil, nil
	r.pulls, r.asked, r.got, r.received = 0, 0, 0, 0
}

// Receive returns the next message of the consumer, which there must be. It fails
// with ErrNoMore when there is none and it is not to wait, and with ErrLost when
// the consumer is to be closed, and may be made anew.
func (r *Reader) Receive(ctx context.Context) (Message, error) {
	for {
		if err := r.ask(); err != nil {
			return Message{}, err
		}
		var msg *nats.Msg
		select {
		case msg = <-r.msgs:
		default:
			r.silence.Reset(2 * r.cfg.Heartbeat)
			select {
			case msg = <-r.msgs:
			case <-r.lost:
				return Message{}, ErrLost
			case <-r.silence.C:
				return Message{}, ErrLost
			case <-ctx.Done():
				return Message{}, context.Cause(ctx)
			}
		}
		if msg.Reply == "" {
			if err := r.status(msg); err != nil {
				return Message{}, err
			}
			continue
		}
		m, err := r.take(msg)
		if err != nil || m.Msg != nil {
			return m, err
		}
	}
}

// ask pulls when half of what may be on its way has come. One pull that does not
// wait is sent at a time: the server answers a second one at once when the first
// takes all there is.
func (r *Reader) ask() error {
	if r.asked > r.cfg.Batch/2 || r.asked > 0 && !r.cfg.Wait {
		return nil
	}
	pull := struct {
		Batch     int           `json:"batch"`
		MaxBytes  int64         `json:"max_bytes"`
		NoWait    bool          `json:"no_wait,omitempty"`
		Expires   time.Duration `json:"expires,omitempty"`
		Heartbeat time.Duration `json:"idle_heartbeat,omitempty"`
	}{Batch: r.cfg.Batch - r.asked, MaxBytes: r.maxBytes, NoWait: !r.cfg.Wait}
	if r.cfg.Wait {
		pull.Expires, pull.Heartbeat = pullExpires, r.cfg.Heartbeat
	}
	body, err := json.Marshal(pull)
	if err != nil {
		return err
	}
	r.pulls++
	if err := r.bus.Conn().PublishRequest(r.pull, r.inbox+strconv.Itoa(r.pulls), body); err != nil {
		return ErrLost
	}
	r.asked, r.got = r.cfg.Batch, 0
	return nil
}

// take reads a message of the stream. It is none when it is before the position,
// as on a server that is behind the others.
func (r *Reader) take(msg *nats.Msg) (Message, error) {
	meta, err := msg.Metadata()
	if err != nil || meta.Sequence.Consumer != r.received+1 {
		return Message{}, ErrLost // some have not arrived
	}
	r.received++
	r.got++
	r.asked = max(r.asked-1, 0)
	if meta.Sequence.Stream <= r.Position {
		return Message{}, nil
	}
	after := r.Position
	r.Position = meta.Sequence.Stream
	return Message{
		Msg: msg, After: after, Pending: meta.NumPending,
		Stored: bus.Stored{Stream: bus.EventsStream, Sequence: meta.Sequence.Stream, Time: meta.Timestamp},
	}, nil
}

// status takes in what the server says of a pull. Of one whose messages have all
// come it may say so when the next one was sent already.
func (r *Reader) status(msg *nats.Msg) error {
	last := msg.Subject == r.inbox+strconv.Itoa(r.pulls)
	if !last && !r.cfg.Wait {
		return nil
	}
	code, text := msg.Header.Get("Status"), strings.ToLower(msg.Header.Get("Description"))
	left, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages"))
	if err != nil || !r.cfg.Wait {
		left = r.asked
	}
	switch code {
	case "100":
		r.passOver(msg.Header)
		return nil
	case "404":
		r.asked = 0
		return ErrNoMore
	case "408":
		r.asked = max(r.asked-left, 0)
		return nil
	case "409":
		most, limited := strings.CutPrefix(text, "exceeded maxrequestbatch of ")
		n, _ := strconv.Atoi(most)
		switch {
		case limited && n > 0 && n < r.cfg.Batch:
			r.cfg.Batch, r.asked = n, 0
			return nil
		case strings.Contains(text, "maxbytes"), strings.Contains(text, "batch completed"):
			if last && r.got == 0 { // one that alone is larger
				r.maxBytes *= 2
			}
			r.asked = max(r.asked-left, 0)
			return nil
		}
	}
	return ErrLost
}

// passOver moves the position over messages that the filters do not let through,
// when all that the consumer has delivered has come.
func (r *Reader) passOver(heartbeat nats.Header) {
	delivered, err := strconv.ParseUint(heartbeat.Get("Nats-Last-Consumer"), 10, 64)
	last, err2 := strconv.ParseUint(heartbeat.Get("Nats-Last-Stream"), 10, 64)
	if err == nil && err2 == nil && delivered == r.received {
		r.Position = max(r.Position, last)
	}
}
