// Package journal writes to a stream by compare-and-set and reads from it. It
// is what makes a commit of an object one step: the whole of it is stored, or
// nothing.
//
// It promises nothing about when: a write whose answer is lost may be stored
// later. Who needs to know asks again with the same expectation, or reads.
package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do/bus"
)

// Headers of the server that the writers of messages set.
const (
	HeaderExpect        = "Nats-Expected-Last-Subject-Sequence"
	HeaderExpectSubject = "Nats-Expected-Last-Subject-Sequence-Subject"
	HeaderTTL           = "Nats-TTL"
	HeaderRollup        = "Nats-Rollup"
	HeaderOperation     = "KV-Operation"
	HeaderSchedule      = "Nats-Schedule"
	HeaderTarget        = "Nats-Schedule-Target"
	HeaderScheduler     = "Nats-Scheduler"
	HeaderScheduleNext  = "Nats-Schedule-Next"

	headerBatch       = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
	headerReason      = "Nats-Marker-Reason"
)

// MaxBatch is how many messages one write may have (ADR-50).
const MaxBatch = 1000

// Journal is one stream, as a member writes to it and reads from it. Its
// methods may be called by many goroutines at once.
type Journal struct {
	bus    *bus.Bus
	stream string
	prefix string // of the subjects, with the dot

	acks    acks
	outbox  *bus.Outbox
	gathers gathers
	batches chan struct{} // places for atomic batches in flight
}

// maxBatches bounds the batches that one member has in flight on a stream: the
// server allows 50 for all of them.
const maxBatches = 16

// Open returns the journal of a key-value bucket. It holds subscriptions until
// Close.
func Open(b *bus.Bus, bucket string) (*Journal, error) {
	j := &Journal{
		bus: b, stream: "KV_" + bucket, prefix: "$KV." + bucket + ".",
		batches: make(chan struct{}, maxBatches),
	}
	j.outbox = bus.NewOutbox(b, j.notSent)
	if err := j.acks.open(b); err != nil {
		return nil, fmt.Errorf("journal of %s: %w", bucket, err)
	}
	if err := j.gathers.open(b); err != nil {
		j.acks.close()
		return nil, fmt.Errorf("journal of %s: %w", bucket, err)
	}
	return j, nil
}

// Close ends the journal: writes and reads that wait for an answer get none.
func (j *Journal) Close() {
	j.outbox.Close()
	j.acks.close()
	j.gathers.close()
}

// Subject returns the subject of a key.
func (j *Journal) Subject(key string) string { return j.prefix + key }

// Key returns the key of a subject.
func (j *Journal) Key(subject string) string { return strings.TrimPrefix(subject, j.prefix) }

// Message is one message of a write.
type Message struct {
	Key    string
	Header nats.Header
	Data   []byte
}

// Refused is the error of a write whose expectation did not hold: nothing of it
// was stored.
type Refused struct {
	// Last is the sequence that the subject has, zero when the server did not say.
	Last uint64
}

func (e *Refused) Error() string {
	return "refused: somebody else has written (last sequence " + strconv.FormatUint(e.Last, 10) + ")"
}

// Rejected is the error of a write that the server did not take for another
// reason: nothing of it was stored.
type Rejected struct {
	Code        int
	Description string
	// Passing says that the same may be taken later.
	Passing bool
}

func (e *Rejected) Error() string {
	return fmt.Sprintf("the stream did not take it: %s (%d)", e.Description, e.Code)
}

// ErrNoAnswer is the error of a write that may have been stored, or be stored
// later.
var ErrNoAnswer = errors.New("journal: no answer; it may have been stored")

// errNotSent is the error of a write that surely was not stored.
var errNotSent = errors.New("not sent: the bus is not connected")

// Write stores msgs, all or nothing, and returns the sequence of the first; the
// others follow it without a gap. Several messages are an atomic batch. It
// waits for the answer until ctx ends.
//
// Errors: *Refused, *Rejected, both of which say that nothing was stored, and
// ErrNoAnswer.
func (j *Journal) Write(ctx context.Context, msgs ...Message) (uint64, error) {
	return j.write(ctx.Done(), timeoutOf(ctx, maxWait), msgs)
}

// WriteWithin is Write with a time in place of a context.
func (j *Journal) WriteWithin(timeout time.Duration, msgs ...Message) (uint64, error) {
	return j.write(nil, timeout, msgs)
}

// maxWait bounds a write whose context does not.
const maxWait = 10 * time.Second

func (j *Journal) write(ended <-chan struct{}, timeout time.Duration, msgs []Message) (uint64, error) {
	if len(msgs) == 1 {
		return j.send(ended, timeout, msgs, "")
	}
	over := time.NewTimer(timeout)
	defer over.Stop()
	select {
	case j.batches <- struct{}{}:
	case <-ended:
		return 0, errTooManyBatches()
	case <-over.C:
		return 0, errTooManyBatches()
	}
	defer func() { <-j.batches }()
	return j.send(ended, timeout, msgs, nuid.Next())
}

func errTooManyBatches() error {
	return &Rejected{Description: "too many batches are in flight", Passing: true}
}

func (j *Journal) send(ended <-chan struct{}, timeout time.Duration, msgs []Message, batch string) (uint64, error) {
	if !j.bus.Connected() {
		return 0, &Rejected{Description: errNotSent.Error(), Passing: true}
	}
	w := j.acks.enter(timeout)
	defer j.acks.leave(w)
	conn := j.bus.Conn()
	for i := range msgs {
		m := &nats.Msg{Subject: j.prefix + msgs[i].Key, Header: msgs[i].Header, Data: msgs[i].Data}
		last := i == len(msgs)-1
		if batch != "" {
			m.Header = batchHeader(m.Header, batch, i+1, last)
		}
		if last {
			m.Reply = w.reply
		}
		if err := conn.PublishMsg(m); err != nil {
			// Nothing of an incomplete batch is stored.
			return 0, &Rejected{Description: err.Error(), Passing: !errors.Is(err, nats.ErrMaxPayload)}
		}
	}
	select {
	case msg := <-w.answer:
		first, err := readAck(msg, len(msgs))
		return first, err
	case <-ended:
		return 0, ErrNoAnswer
	case <-w.timer.C:
		return 0, ErrNoAnswer
	case <-j.acks.done:
		return 0, ErrNoAnswer
	}
}

func batchHeader(h nats.Header, batch string, n int, last bool) nats.Header {
	out := make(nats.Header, len(h)+3)
	for name, values := range h {
		out[name] = values
	}
	out[headerBatch] = []string{batch}
	out[headerBatchSeq] = []string{strconv.Itoa(n)}
	if last {
		out[headerBatchCommit] = []string{"1"}
	}
	return out
}

// Codes of the server's errors.
const (
	codeWrongLast        = 10071
	codeWrongLastReplica = 10164
	codeBatchIncomplete  = 10176
)

type ack struct {
	Seq   uint64 `json:"seq"`
	Error *struct {
		Code        int    `json:"code"`
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// readAck reads the answer to a write of n messages.
func readAck(msg *nats.Msg, n int) (uint64, error) {
	if bus.NoResponders(msg) {
		return 0, &Rejected{Code: 503, Description: "JetStream does not answer: the stream has no leader now, or is gone", Passing: true}
	}
	if seq, ok := plainAck(msg.Data); ok && seq >= uint64(n) {
		return seq - uint64(n) + 1, nil
	}
	var a ack
	if err := json.Unmarshal(msg.Data, &a); err != nil {
		return 0, ErrNoAnswer
	}
	switch {
	case a.Error == nil && a.Seq >= uint64(n):
		return a.Seq - uint64(n) + 1, nil
	case a.Error == nil:
		return 0, ErrNoAnswer
	case a.Error.ErrCode == codeWrongLast || a.Error.ErrCode == codeWrongLastReplica:
		return 0, &Refused{Last: lastIn(a.Error.Description)}
	}
	return 0, &Rejected{
		Code: a.Error.ErrCode, Description: a.Error.Description,
		Passing: a.Error.Code >= 500 || a.Error.Code == 429 || a.Error.ErrCode == codeBatchIncomplete,
	}
}

// plainAck reads the common answer, {"stream":"<name>","seq":<n>}, without more
// ado. It reports false for any other.
func plainAck(data []byte) (seq uint64, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return 0, false
	}
	_, rest, ok = bytes.Cut(rest, []byte(`","seq":`))
	if !ok || len(rest) < 2 || len(rest) > 20 || rest[len(rest)-1] != '}' {
		return 0, false
	}
	for _, c := range rest[:len(rest)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
		seq = seq*10 + uint64(c-'0')
	}
	return seq, true
}

// lastIn reads the number in "wrong last sequence: 42".
func lastIn(description string) uint64 {
	_, number, _ := strings.Cut(description, ": ")
	n, _ := strconv.ParseUint(strings.TrimSpace(number), 10, 64) // zero is "unsaid"
	return n
}

// acks matches the server's answers with the writes that wait for them.
type acks struct {
	inbox string
	sub   *nats.Subscription
	done  chan struct{}

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*write
	free    []*write

	promises promises
}

type write struct {
	number uint64
	reply  string
	answer chan *nats.Msg // has room for one
	timer  *time.Timer
}

func (a *acks) open(b *bus.Bus) error {
	a.inbox = b.InboxPrefix() + ".journal-" + nuid.Next() + "."
	a.waiting = map[uint64]*write{}
	a.done = make(chan struct{})
	a.promises.open()
	var err error
	if a.sub, err = b.Conn().Subscribe(a.inbox+"*", a.receive); err != nil {
		return err
	}
	go a.sweep()
	return nil
}

func (a *acks) close() {
	_ = a.sub.Unsubscribe() // fails only when the connection is gone, and the subscription with it
	close(a.done)
	<-a.promises.swept
}

func (a *acks) enter(timeout time.Duration) *write {
	a.mu.Lock()
	defer a.mu.Unlock()
	var w *write
	if n := len(a.free); n > 0 {
		w = a.free[n-1]
		a.free = a.free[:n-1]
	} else {
		w = &write{answer: make(chan *nats.Msg, 1), timer: time.NewTimer(timeout)}
	}
	w.timer.Reset(timeout)
	a.next++
	w.number = a.next
	w.reply = a.inbox + strconv.FormatUint(w.number, 36)
	a.waiting[w.number] = w
	return w
}

func (a *acks) leave(w *write) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.timer.Stop()
	delete(a.waiting, w.number)
	select {
	case <-w.answer:
	default:
	}
	if len(a.free) < 256 {
		a.free = append(a.free, w)
	}
}

func (a *acks) receive(msg *nats.Msg) {
	n, err := strconv.ParseUint(msg.Subject[len(a.inbox):], 36, 64)
	if err != nil {
		return
	}
	a.mu.Lock()
	if p := a.promises.made[n]; p != nil {
		a.answered(p, msg) // which unlocks it
		return
	}
	defer a.mu.Unlock()
	if w := a.waiting[n]; w != nil {
		delete(a.waiting, n) // the first answer counts
		w.answer <- msg
	}
}

// timeoutOf returns how long a read may wait: what ctx has left, at most limit.
func timeoutOf(ctx context.Context, limit time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(time.Until(deadline), limit)
	}
	return limit
}
