package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// Follow says which messages to read.
type Follow struct {
	// Match is the key, which may have a wildcard. With one in the last place
	// the server finds the messages without looking at the others.
	Match string
	// From is the sequence to begin with. Zero begins with the last message that
	// each key has. To find them the server looks at every key that matches,
	// while it takes in nothing.
	From uint64
	// HeadersOnly leaves the data out.
	HeadersOnly bool
	// Name is what the name of the server's consumer begins with.
	Name string
	// Acknowledged has the server remember what was Done.
	Acknowledged bool
	// Beat is how often the server tells that it has nothing. Defaults to 2
	// seconds.
	Beat time.Duration
	// Patience is how long the server may take to begin. Defaults to 30 seconds.
	Patience time.Duration
}

// Follower reads messages in the order of the stream, and none is left out. It
// is for one goroutine, but for Close.
type Follower struct {
	journal *Journal
	sub     *nats.Subscription
	name    string // of the consumer
	acked   bool
	release []func()
	closing sync.Once

	msgs   chan *nats.Msg
	ending sync.Once
	ended  chan struct{} // closed when err says why it reads no more
	err    error

	silence   *time.Timer
	delivered uint64 // by the consumer
	last      uint64 // sequence
	pending   uint64
	reply     string
}

const (
	defaultBeat = 2 * time.Second

	// Silence is how long the server may be silent until a Follower takes it for
	// lost.
	Silence = 6 * time.Second

	defaultPatience = 30 * time.Second
	// leftAlone is after which time the server forgets a follower that is gone.
	leftAlone = 5 * time.Second

	// What waits for Next, at most. The server sends 32 MiB ahead.
	readyMsgs      = 256
	maxFollowMsgs  = 1 << 20
	maxFollowBytes = 64 << 20
)

// ErrLost is the error of a Follower that can't tell whether it misses
// something, as when the connection was lost. Another one can begin where it
// ended.
var ErrLost = errors.New("journal: the connection to the stream was lost")

// Follow begins to read. It ends with ctx, and must be closed. On a cluster a
// replica answers that may be behind a little; what is stored later comes later.
//
// Errors wrap jetstream.ErrStreamNotFound when the bucket does not exist.
func (j *Journal) Follow(ctx context.Context, what Follow) (*Follower, error) {
	f := &Follower{
		journal: j, name: what.Name + "-" + nuid.Next(), acked: what.Acknowledged, last: max(what.From, 1) - 1,
		msgs: make(chan *nats.Msg, readyMsgs), ended: make(chan struct{}), silence: time.NewTimer(Silence),
	}
	inbox := j.bus.Conn().NewInbox()
	var err error
	if f.sub, err = j.bus.Conn().Subscribe(inbox, f.receive); err != nil {
		return nil, fmt.Errorf("journal: follow %s: %w", j.stream, err)
	}
	stop := context.AfterFunc(ctx, func() { f.end(context.Cause(ctx)) })
	f.release = []func(){j.bus.OnDisconnect(func() { f.end(ErrLost) }), func() { stop() }}
	if err = f.sub.SetPendingLimits(maxFollowMsgs, maxFollowBytes); err == nil {
		err = f.begin(ctx, what, inbox)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("journal: follow %s: %w", j.stream, err)
	}
	return f, nil
}

// begin makes the server send.
func (f *Follower) begin(ctx context.Context, what Follow, inbox string) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(what.Patience, defaultPatience))
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		Name: f.name, DeliverSubject: inbox, FilterSubject: f.journal.Subject(what.Match),
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy, HeadersOnly: what.HeadersOnly,
		FlowControl: true, IdleHeartbeat: cmp.Or(what.Beat, defaultBeat), InactiveThreshold: leftAlone, MemoryStorage: true, Replicas: 1,
	}
	if what.From > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, what.From
	}
	if what.Acknowledged {
		cfg.AckPolicy = jetstream.AckAllPolicy
	}
	made, err := f.journal.bus.JetStream().CreatePushConsumer(ctx, f.journal.stream, cfg)
	if err != nil {
		return err
	}
	// What was sent since is counted here and comes all the same.
	info := made.CachedInfo()
	f.pending = info.NumPending + info.Delivered.Consumer
	return nil
}

// receive hands over what the server sends. While nobody reads it waits, and
// what comes is kept by the subscription.
func (f *Follower) receive(msg *nats.Msg) {
	select {
	case f.msgs <- msg:
	case <-f.ended:
	}
}

// Next returns the next message. It returns nil when there is none for now, every
// now and then. The error is ErrLost, or ctx's.
func (f *Follower) Next() (*Stored, error) {
	for {
		msg, err := f.wait()
		if err != nil {
			return nil, err
		}
		if status := msg.Header.Get("Status"); status != "" {
			idle, err := f.status(msg)
			if idle || err != nil {
				return nil, err
			}
			continue
		}
		m, err := f.take(msg)
		if m != nil || err != nil {
			return m, err
		}
	}
}

// wait returns what the server sends next.
func (f *Follower) wait() (*nats.Msg, error) {
	select {
	case <-f.ended:
		return nil, f.err
	default:
	}
	select {
	case msg := <-f.msgs:
		return msg, nil
	default:
	}
	f.silence.Reset(Silence)
	select {
	case msg := <-f.msgs:
		return msg, nil
	case <-f.silence.C:
		return nil, f.lost()
	case <-f.ended:
		return nil, f.err
	}
}

// take reads a message; nil is one that came before.
func (f *Follower) take(msg *nats.Msg) (*Stored, error) {
	meta, err := msg.Metadata()
	if err != nil || meta.Sequence.Consumer != f.delivered+1 {
		return nil, f.lost()
	}
	f.delivered, f.pending, f.reply = meta.Sequence.Consumer, meta.NumPending, msg.Reply
	if meta.Sequence.Stream <= f.last {
		f.Done() // the server had not heard of it
		return nil, nil
	}
	f.last = meta.Sequence.Stream
	return &Stored{
		Key: f.journal.Key(msg.Subject), Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Header: msg.Header, Data: msg.Data,
	}, nil
}

// status acts on a message of the server's own. Idle says that it has nothing
// to send.
func (f *Follower) status(msg *nats.Msg) (idle bool, err error) {
	if msg.Reply != "" { // flow control
		return false, f.answer(msg.Reply)
	}
	if last := msg.Header.Get("Nats-Last-Consumer"); last != "" {
		if n, err := strconv.ParseUint(last, 10, 64); err != nil || n != f.delivered {
			return false, f.lost()
		}
	}
	if stalled := msg.Header.Get("Nats-Consumer-Stalled"); stalled != "" {
		return false, f.answer(stalled)
	}
	f.pending = 0
	return true, nil
}

func (f *Follower) answer(subject string) error {
	if err := f.journal.bus.Conn().Publish(subject, nil); err != nil {
		return f.lost()
	}
	return nil
}

// Pending returns how many messages were stored and not read when the server
// sent the last one, or when Follow returned. While others write the server may
// count one too many; it is zero when Next has returned nil.
func (f *Follower) Pending() uint64 { return f.pending }

// Last returns the sequence of the last message that was read.
func (f *Follower) Last() uint64 { return f.last }

// Done tells the server that all that Next has returned was dealt with. It does
// nothing unless Follow.Acknowledged is set.
func (f *Follower) Done() {
	if f.acked && f.reply != "" {
		_ = f.answer(f.reply) // Next tells
		f.reply = ""
	}
}

// end makes Next return err.
func (f *Follower) end(err error) {
	f.ending.Do(func() {
		f.err = err
		close(f.ended)
		_ = f.sub.Unsubscribe() // fails only when the connection is gone, and the subscription with it
	})
}

// lost ends the follower and returns why it has ended, which may be another
// reason.
func (f *Follower) lost() error {
	f.end(ErrLost)
	return f.err
}

// Close ends reading: Next returns ErrLost.
func (f *Follower) Close() {
	f.closing.Do(func() {
		for _, release := range f.release {
			release()
		}
		f.end(ErrLost)
		f.silence.Stop()
		if !f.journal.bus.Connected() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		defer cancel()
		_ = f.journal.bus.JetStream().DeleteConsumer(ctx, f.journal.stream, f.name) // else the server forgets it soon
	})
}
