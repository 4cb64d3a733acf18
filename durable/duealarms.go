package durable

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
)

// alarmTimes are the times of alarms, for tests to shorten.
type alarmTimes struct {
	backoff    time.Duration // after the first attempt
	ackWait    time.Duration // of the consumer, when it is made
	redelivery time.Duration // first pause of a due alarm that can't be handled now
}

func (t alarmTimes) withDefaults() alarmTimes {
	if t.backoff <= 0 {
		t.backoff = 2 * time.Second
	}
	if t.ackWait <= 0 {
		t.ackWait = 10 * time.Second
	}
	if t.redelivery <= 0 {
		t.redelivery = 50 * time.Millisecond
	}
	return t
}

const (
	maxDueAlarms = 64 // at work in one member
	pullTime     = 30 * time.Second
	pullBeat     = 2 * time.Second
	dueTick      = time.Second

	// dueSlack is what an alarm's call has beyond the time of its turn, to find
	// the owner and to wait for the turns before.
	dueSlack = 30 * time.Second

	// maxRedelivery bounds the pause of a due alarm that can't be handled now,
	// so how late it is when its object is paused no longer.
	maxRedelivery = 10 * time.Second
)

// dueAlarms is a member's share of the due alarms of a class: it takes due
// messages from the consumer that all members share, as many as it can work on,
// and has the objects' owners run the alarms.
type dueAlarms struct {
	class  *class
	client *client.Client
	pulls  *nats.Subscription
	inbox  string // of the pull requests, with the dot
	msgs   chan *nats.Msg
	done   chan uint64 // sequences of messages that need no more work here
	work   sync.WaitGroup

	// What follows belongs to run.
	ackWait  time.Duration
	asked    string // reply subject of the request that is under way
	expected int    // messages it may still bring
	heard    time.Time
	lost     bool // the consumer may be gone
	running  map[uint64]*nats.Msg
	touched  time.Time // when the messages that are worked on were last told of

	disconnected atomic.Bool
	unhook       func()
	calls        context.Context // of the calls
	cancel       context.CancelFunc
	stopping     chan struct{}
	stopOnce     sync.Once
	grace        atomic.Int64 // how long stopping may take
	ended        chan struct{}
}

// startAlarms makes the consumer and begins to take from it.
func (c *class) startAlarms(ctx context.Context) error {
	if c.alarm == nil {
		return nil
	}
	wait, err := c.ensureAlarms(ctx)
	if err != nil {
		return err
	}
	d := &dueAlarms{
		class: c, ackWait: wait, heard: time.Now(),
		client: client.New(c.bus, client.Config{ResendAfter: c.cfg.Lease, RetryBudget: 1 << 20}),
		inbox:  c.bus.InboxPrefix() + ".alarms-" + nuid.Next() + ".",
		msgs:   make(chan *nats.Msg, 8*maxDueAlarms), done: make(chan uint64, maxDueAlarms),
		running: map[uint64]*nats.Msg{}, stopping: make(chan struct{}), ended: make(chan struct{}),
	}
	if d.pulls, err = c.bus.Conn().ChanSubscribe(d.inbox+"*", d.msgs); err != nil {
		d.client.Close()
		return err
	}
	d.calls, d.cancel = context.WithCancel(context.Background())
	d.unhook = c.bus.OnDisconnect(func() { d.disconnected.Store(true) })
	c.due = d
	c.work.Go(d.run)
	return nil
}

// stopAlarms takes no more alarms and waits for those at work, for half the time
// that ctx has. Those that take longer are cancelled, and left to other members.
func (c *class) stopAlarms(ctx context.Context) {
	d := c.due
	if d == nil {
		return
	}
	if deadline, ok := ctx.Deadline(); ok {
		d.grace.Store(int64(time.Until(deadline) / 2))
	}
	d.stopOnce.Do(func() { close(d.stopping) })
	<-d.ended
}

func (d *dueAlarms) run() {
	defer close(d.ended)
	tick := time.NewTicker(min(dueTick, d.ackWait/4))
	defer tick.Stop()
	for {
		d.pull()
		select {
		case msg := <-d.msgs:
			d.take(msg)
		case seq := <-d.done:
			delete(d.running, seq)
		case <-tick.C:
			d.tend()
		case <-d.stopping:
			d.end(tick)
			return
		case <-d.class.life.Done():
			d.end(tick)
			return
		}
	}
}

// pull asks for as many messages as there is room for.
func (d *dueAlarms) pull() {
	room := maxDueAlarms - len(d.running)
	if d.expected > 0 || d.lost || room <= 0 {
		return
	}
	request, err := json.Marshal(map[string]any{"batch": room, "expires": pullTime, "idle_heartbeat": pullBeat})
	if err != nil {
		return
	}
	d.asked = d.inbox + nuid.Next()
	err = d.class.bus.Conn().PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+d.class.stream()+"."+alarmConsumer, d.asked, request)
	if err != nil { // the next tick tries again
		d.lost = true
		return
	}
	d.expected, d.heard = room, time.Now()
}

// take begins to work on a due message, or learns what became of the request.
func (d *dueAlarms) take(msg *nats.Msg) {
	if strings.HasPrefix(msg.Subject, d.inbox) {
		status := msg.Header.Get("Status")
		switch {
		case msg.Subject != d.asked: // an earlier request
		case status == "100":
			d.heard = time.Now()
		case status == "408": // its time is over
			d.expected = 0
		default:
			d.class.log.Debug().Str("status", status).Str("description", msg.Header.Get("Description")).Msg("due alarms can't be taken now")
			d.expected, d.lost = 0, true
		}
		return
	}
	d.heard = time.Now()
	d.expected = max(d.expected-1, 0)
	meta, err := msg.Metadata()
	if err != nil {
		d.class.log.Warn().Err(err).Msg("due alarm not understood")
		return
	}
	seq := meta.Sequence.Stream
	_, again := d.running[seq]
	d.running[seq] = msg
	if again {
		return // whoever works on it says how it ended
	}
	d.work.Go(func() {
		d.handle(msg, meta)
		d.done <- seq
	})
}

// tend tells the server which messages are worked on, and sees to it that there
// is a request.
func (d *dueAlarms) tend() {
	if time.Since(d.touched) >= d.ackWait/4 {
		d.touched = time.Now()
		for _, msg := range d.running {
			_ = msg.InProgress() // else it comes again, which does no harm
		}
	}
	c := d.class
	if !c.bus.Connected() {
		return
	}
	if d.disconnected.Swap(false) || d.expected > 0 && time.Since(d.heard) > 2*pullBeat {
		d.lost = true // the request, at least
	}
	if !d.lost {
		return
	}
	d.expected = 0
	ctx, cancel := context.WithTimeout(c.life, min(readbackTimeout, d.ackWait/4))
	defer cancel()
	if _, err := c.ensureAlarms(ctx); err != nil {
		c.log.Warn().Err(err).Msg("alarms wait")
		return
	}
	d.lost = false
}

// end finishes what is worked on, as far as there is time, and leaves the rest
// to others.
func (d *dueAlarms) end(tick *time.Ticker) {
	c := d.class
	grace := time.Duration(d.grace.Load())
	gone := d.pulls.StatusChanged(nats.SubscriptionClosed)
	if !c.bus.Connected() || d.pulls.Drain() != nil {
		grace, gone = 0, nil
	}
	over := time.NewTimer(grace)
	defer over.Stop()
	late := time.NewTimer(readbackTimeout)
	defer late.Stop()
	for gone != nil || len(d.running) > 0 {
		select {
		case msg := <-d.msgs:
			if !strings.HasPrefix(msg.Subject, d.inbox) {
				_ = msg.Nak()
			}
		case <-gone:
			gone = nil
		case <-late.C:
			gone = nil
		case seq := <-d.done:
			delete(d.running, seq)
		case <-tick.C:
			for _, msg := range d.running {
				_ = msg.InProgress()
			}
		case <-over.C:
			d.cancel()
		}
	}
	_ = d.pulls.Unsubscribe()
	d.cancel()
	d.work.Wait()
	d.unhook()
	d.client.Close()
}

// handle has the owner of the object run its alarm, and tells the server whether
// the message is to come again.
func (d *dueAlarms) handle(msg *nats.Msg, meta *nats.MsgMetadata) {
	c := d.class
	key := strings.TrimPrefix(c.journal.Key(msg.Subject), duePrefix)
	id, err := bus.Unescape(key)
	due, derr := strconv.ParseInt(msg.Header.Get(headerAlarm), 10, 64)
	if err = errors.Join(err, derr, rpc.ValidateObjectID(id)); err != nil {
		c.log.Warn().Err(err).Str("key", key).Msg("due message is not an alarm's")
		_ = msg.Term()
		return
	}
	p := alarmCall{ID: msg.Header.Get(headerAlarmID), Due: due, Sequence: meta.Sequence.Stream, Again: meta.NumDelivered > 1}
	pause, err := d.call(id, p)
	switch {
	case err != nil:
		pause = min(c.cfg.alarms.redelivery<<min(meta.NumDelivered-1, 10), maxRedelivery)
		c.log.Debug().Err(err).Str("object", id).Uint64("delivery", meta.NumDelivered).Dur("pause", pause).Msg("alarm waits")
	case pause == 0:
		_ = msg.Ack() // else it comes again, and nothing is left to do
		d.forget(key, p.Sequence)
		return
	}
	_ = msg.NakWithDelay(pause)
}

// call makes the call; pause says that it is too early.
func (d *dueAlarms) call(id string, p alarmCall) (pause time.Duration, err error) {
	c := d.class
	if err := c.pauses.check(c, id, bus.MethodAlarm); err != nil {
		return 0, err
	}
	var answer alarmAnswer
	err = d.client.Call(d.calls, &rpc.Call{
		Service: c.stored, Method: bus.MethodAlarm, Object: id, ID: "alarm-" + c.name + "-" + p.ID,
		Timeout: c.cfg.TurnTimeout + dueSlack, Params: &p, Result: &answer,
	})
	return min(time.Duration(answer.EarlyMS)*time.Millisecond, maxRedelivery), err
}

// forget removes the object's due messages, up to one that has been handled.
func (d *dueAlarms) forget(key string, sequence uint64) {
	c := d.class
	request, err := json.Marshal(map[string]any{"filter": c.journal.Subject(duePrefix + key), "seq": sequence + 1})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(d.calls, readbackTimeout)
	defer cancel()
	if err := c.journal.Purge(ctx, request); err != nil { // the object's next alarm does it
		c.log.Debug().Err(err).Str("key", key).Msg("due message not removed")
	}
}
