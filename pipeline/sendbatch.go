package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// Item is one event of a batch whose events have several types.
type Item struct {
	Event   string
	Data    any
	Options []SendOption
}

// BatchError says which of a batch have failed. What it does not name was done.
type BatchError struct {
	// Failed has them in the order of the batch. It is not empty.
	Failed []ItemError
}

// ItemError is what one of a batch has failed with.
type ItemError struct {
	// Index is its place in the batch, from 0.
	Index int
	Err   error
}

// Error names the first that has failed, and says how many have.
func (e *BatchError) Error() string {
	switch len(e.Failed) {
	case 0:
		return "nothing of the batch has failed"
	case 1:
		return fmt.Sprintf("item %d of the batch: %v", e.Failed[0].Index, e.Failed[0].Err)
	}
	return fmt.Sprintf("%d items of the batch have failed, the first is item %d: %v", len(e.Failed), e.Failed[0].Index, e.Failed[0].Err)
}

// Unwrap returns what each has failed with, so that the code of the error is that
// of the first.
func (e *BatchError) Unwrap() []error {
	all := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		all[i] = f.Err
	}
	return all
}

// SendBatch sends events of one type, as Send does each of them, without waiting
// for one before it sends the next. They are stored in their order; but where the
// bus fails while they are on their way, one that had to be sent again may come
// after those behind it.
//
// There is a receipt for each. The error is a *BatchError when some were not
// stored; the receipts of the others hold. When ctx has no deadline, Config.Timeout
// is how long the batch goes on without any of its events being stored.
//
// WithID, WithDedupe and WithExpectedSequence are for a single event: with them,
// more than one is InvalidArgument, and nothing is sent. The method SendBatch has
// options for each.
func SendBatch[T any](ctx context.Context, p *Pipeline, event rpc.Event[T], data []T, opts ...SendOption) ([]Receipt, error) {
	if len(data) > 1 {
		var cfg sendConfig
		for _, opt := range opts {
			opt(&cfg)
		}
		if cfg.hasID || cfg.hasDedupe || cfg.expects {
			return nil, rpc.InvalidArgument.Errorf("send %s: an id, a dedupe key or an expected sequence is for one event, and these are %d: give each its own, with Pipeline.SendBatch",
				event.Name(), len(data))
		}
	}
	return p.sendBatch(ctx, len(data), func(i int) Item { return Item{event.Name(), data[i], opts} })
}

// SendBatch sends events of any types, as the function SendBatch does.
func (p *Pipeline) SendBatch(ctx context.Context, items []Item) ([]Receipt, error) {
	return p.sendBatch(ctx, len(items), func(i int) Item { return items[i] })
}

// A batch has at most this on its way, without an answer.
const (
	maxInFlight      = 1024
	maxInFlightBytes = 16 << 20
)

// batch is a number of events on their way. One goroutine has it.
type batch struct {
	pipeline *Pipeline
	ctx      context.Context
	origin   origin
	item     func(i int) Item
	receipts []Receipt
	errs     []error // nil as long as none has failed

	inbox   string // of the answers, with the dot
	answers chan *nats.Msg
	lost    chan struct{}
	denied  chan string
	stream  jetstream.Stream

	waiting  []*outgoing // by index; nil for what was not sent yet or is done
	low      int         // below it all are done
	next     int         // from it on none was sent
	flying   int         // how many have an attempt that may be answered
	bytes    int         // of those that wait
	trouble  bool        // something has to be sent again before anything new is sent
	rounds   int         // of sending again, since something was stored
	progress time.Time   // when something was stored, or the batch began
}

func (p *Pipeline) sendBatch(ctx context.Context, n int, item func(i int) Item) ([]Receipt, error) {
	b := &batch{
		pipeline: p, ctx: ctx, origin: originOf(ctx), item: item,
		receipts: make([]Receipt, n), waiting: make([]*outgoing, n),
		answers: make(chan *nats.Msg, 2*maxInFlight), lost: make(chan struct{}, 1), denied: make(chan string, maxInFlight),
		progress: time.Now(),
	}
	if n > 0 {
		b.run()
	}
	var failed []ItemError
	for i, err := range b.errs {
		if err != nil {
			failed = append(failed, ItemError{i, err})
		}
	}
	if failed != nil {
		return b.receipts, &BatchError{failed}
	}
	return b.receipts, nil
}

// run sends all, and returns when each was stored or has failed.
func (b *batch) run() {
	bus := b.pipeline.bus
	b.inbox = bus.Conn().NewInbox() + "."
	sub, err := bus.Conn().ChanSubscribe(b.inbox+"*.*", b.answers)
	if err != nil {
		b.failRest(rpc.Unavailable.Errorf("%w", err))
		return
	}
	defer func() { _ = sub.Unsubscribe() }() // it fails when the bus is closed
	defer bus.OnDisconnect(func() {
		select {
		case b.lost <- struct{}{}:
		default:
		}
	})()
	defer bus.OnDenied(b.onDenied)()

	b.trouble = true // so that it begins with a look at the stream
	silence := time.NewTimer(time.Hour)
	defer silence.Stop()
	for b.low < len(b.waiting) {
		if b.trouble && b.flying == 0 && !b.again() {
			return
		}
		if !b.trouble {
			b.fill()
		}
		if b.flying == 0 {
			continue // all have failed, or are to be sent again
		}
		silence.Reset(min(patience(max(b.rounds, 1)), time.Until(b.deadline())))
		select {
		case msg := <-b.answers:
			b.answered(msg)
			for more := len(b.answers); more > 0 && b.flying > 0; more-- {
				b.answered(<-b.answers)
			}
		case <-b.lost:
			b.unanswered(errLost)
		case <-silence.C:
			b.unanswered(errNoReply)
		case subject := <-b.denied:
			b.failDenied(subject)
		case <-b.ctx.Done():
			b.unanswered(b.ctx.Err())
		}
	}
}

// onDenied notes what the bus does not permit.
func (b *batch) onDenied(d bus.Denial) {
	if d.Subscribe {
		return
	}
	select {
	case b.denied <- d.Subject:
	default: // the batch has enough to look at
	}
}

// deadline is when the batch ends if nothing more is stored.
func (b *batch) deadline() time.Time {
	if deadline, ok := b.ctx.Deadline(); ok {
		return deadline
	}
	return b.progress.Add(b.pipeline.cfg.Timeout)
}

// again waits for the bus and the stream, and sends what has no answer. It
// reports false when the rest has failed.
func (b *batch) again() bool {
	if b.rounds > 0 && !rest(b.ctx, b.rounds, b.deadline()) {
		b.failRest(nil)
		return false
	}
	b.rounds++
	if err := b.ready(); err != nil {
		b.failRest(err)
		return false
	}
	b.trouble = false
	for i := b.low; i < b.next && !b.trouble; i++ {
		o := b.waiting[i]
		switch {
		case o == nil:
		case o.unsure && time.Since(o.since) > resendWindow:
			b.fail(i, o.gaveUp(b.ctx))
		default:
			b.publish(i, o)
		}
	}
	return true
}

// ready waits until the stream is there and the bus is connected.
func (b *batch) ready() *rpc.Error {
	ctx, cancel := context.WithDeadline(b.ctx, b.deadline())
	defer cancel()
	defer b.pipeline.bus.OnDenied(func(d bus.Denial) {
		if !d.Subscribe && isEventsAPI(d.Subject) {
			cancel()
		}
	})()
	select {
	case <-b.lost: // what it was about is over
	default:
	}
	var err error
	if b.stream, err = b.pipeline.events(ctx); err == nil {
		err = b.pipeline.bus.WaitConnected(ctx)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrConnectionClosed):
		return rpc.Unavailable.Errorf("the bus is closed")
	case ctx.Err() != nil && b.ctx.Err() == nil && time.Now().Before(b.deadline()):
		return rpc.PermissionDenied.Errorf("the bus does not permit this user to use the stream %s", bus.EventsStream)
	}
	return coded(b.ctx, err)
}

// fill sends what there is room for.
func (b *batch) fill() {
	for b.next < len(b.waiting) && b.flying < maxInFlight && b.bytes < maxInFlightBytes && !b.trouble {
		item := b.item(b.next)
		o, err := b.pipeline.outgoing(b.origin, item.Event, item.Data, item.Options)
		if err == nil && !o.at.IsZero() {
			err = rpc.InvalidArgument.Errorf("send %s: a batch is sent at once: use Send for an event with At", item.Event)
		}
		i := b.next
		b.next++
		if err != nil {
			b.fail(i, err)
			continue
		}
		b.waiting[i] = o
		b.bytes += len(o.msg.Data)
		b.publish(i, o)
	}
}

// publish sends an event once.
func (b *batch) publish(i int, o *outgoing) {
	conn := b.pipeline.bus.Conn()
	if !conn.IsConnected() { // it would be kept, and overtake what was lost
		o.last = rpc.Unavailable.Errorf("%w", errLost)
		b.trouble = true
		return
	}
	o.attempts++
	if !o.unsure {
		o.since = time.Now()
	}
	o.msg.Reply = b.inbox + strconv.Itoa(i) + "." + strconv.Itoa(o.attempts)
	switch err := conn.PublishMsg(&o.msg); {
	case err == nil:
		o.flying = true
		b.flying++
	case errors.Is(err, nats.ErrMaxPayload):
		b.fail(i, o.checkSize(b.pipeline.bus.MaxPayload()-headRoom))
	default:
		o.last = rpc.Unavailable.Errorf("%w", err)
		b.trouble = true
	}
}

// answered takes in what the bus says of one attempt.
func (b *batch) answered(msg *nats.Msg) {
	index, attempt, _ := strings.Cut(strings.TrimPrefix(msg.Subject, b.inbox), ".")
	i, err := strconv.Atoi(index)
	if err != nil || i < 0 || i >= len(b.waiting) || b.waiting[i] == nil {
		return // it is an answer to an earlier attempt
	}
	o := b.waiting[i]
	if current := o.flying && attempt == strconv.Itoa(o.attempts); !current && !isStored(msg) {
		return // the last attempt decides
	}
	if o.flying {
		o.flying = false
		b.flying--
	}
	if bus.NoResponders(msg) {
		b.pipeline.lost(b.ctx, bus.EventsStream)
		o.last, b.trouble = noStream(), true
		return
	}
	receipt, err, again := o.answered(b.ctx, b.stream, msg.Data)
	switch {
	case again:
		b.trouble = true
	case err != nil:
		b.fail(i, err)
	default:
		b.receipts[i] = receipt
		b.rounds, b.progress = 1, time.Now()
		b.done(i)
	}
}

// isStored reports whether a message is the answer for an event that is stored.
func isStored(msg *nats.Msg) bool {
	a, err := parseAnswer(msg.Data)
	return err == nil && a.Error == nil && a.Stream != ""
}

// unanswered gives up waiting for answers.
func (b *batch) unanswered(why error) {
	for _, o := range b.waiting[b.low:b.next] {
		if o != nil && o.flying {
			o.flying, o.unsure = false, true
			o.last = rpc.Unavailable.Errorf("%w", why)
		}
	}
	b.flying, b.trouble = 0, true
}

// failDenied fails what may not be sent on a subject.
func (b *batch) failDenied(subject string) {
	for i := b.low; i < b.next; i++ {
		o := b.waiting[i]
		if o == nil || !o.flying || o.msg.Subject != subject {
			continue
		}
		b.flying--
		b.fail(i, rpc.PermissionDenied.Errorf("send %s: the bus does not permit this user to publish on %s", o.name, subject).AsOutcome())
	}
}

// failRest fails all that is not done. Why is nil when the time is up.
func (b *batch) failRest(why *rpc.Error) {
	switch {
	case b.ctx.Err() != nil:
		why = rpc.CodeOf(b.ctx.Err()).Errorf("%w", context.Cause(b.ctx))
	case why == nil:
		why = rpc.Unavailable.Errorf("%w", errNoReply)
	}
	for i := b.low; i < len(b.waiting); i++ {
		o := b.waiting[i]
		switch {
		case o == nil && i < b.next:
			continue // it is done
		case o == nil:
			o = &outgoing{name: b.item(i).Event}
		}
		if o.last == nil || why.Code != rpc.Unavailable {
			o.last = why
		}
		b.fail(i, o.gaveUp(b.ctx))
	}
}

func (b *batch) fail(i int, err error) {
	if b.errs == nil {
		b.errs = make([]error, len(b.waiting))
	}
	b.errs[i] = err
	b.done(i)
}

// done takes an event out of those that wait.
func (b *batch) done(i int) {
	if o := b.waiting[i]; o != nil {
		b.bytes -= len(o.msg.Data)
		b.waiting[i] = nil
	}
	b.next = max(b.next, i+1)
	for b.low < b.next && b.waiting[b.low] == nil {
		b.low++
	}
}
