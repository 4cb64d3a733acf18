package pipeline

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
	"rpc.do/pipeline/internal/pull"
)

// delivery is one event on its way through a handler.
type delivery struct {
	src   *source
	reply atomic.Pointer[string] // where it is acknowledged
	msg   *nats.Msg
	place uint64 // in the stream that it comes from

	// deliveries counts how often it was delivered.
	deliveries atomic.Int64
	// touched is when the server heard last that it is at work, in Unix
	// nanoseconds.
	touched atomic.Int64

	// What follows belongs to whoever has the delivery: the one that prepares it,
	// then the attempt.
	meta    bus.EventMeta
	subject string
	header  nats.Header
	data    []byte
	stored  bus.Stored
	again   bool // it comes from the handler's own lane
	event   any  // *Event[T]
	attempt int
	last    attempt // what is known of the earlier ones
	ready   bool    // prepared
	wanted  bool    // by the filters
	begun   bool    // an attempt has been made here
	dead    *verdict
	key     string
	out     outcome

	// What follows is guarded by the handler.
	running   bool // an attempt has it, or it is being prepared
	preparing bool // it is being prepared, by pump
	dropped   bool // it is not this instance's any more
}

// outcome is what becomes of a delivery after an attempt.
type outcome struct {
	kind  outcomeKind
	after time.Duration // of later
}

type outcomeKind int

const (
	outPending outcomeKind = iota
	outDone                // acknowledged
	outBack                // the server delivers it again
	outLater               // it is tried again here
)

func newDelivery(src *source, m pull.Message) *delivery {
	d := &delivery{src: src, msg: m.Msg, place: m.Sequence}
	d.deliveries.Store(int64(m.Delivered))
	d.reply.Store(&m.Reply)
	d.touched.Store(time.Now().UnixNano())
	d.stored = bus.Stored{Stream: bus.EventsStream, Sequence: m.Sequence, Time: m.Stored}
	d.subject, d.header, d.data = m.Subject, m.Header, m.Data
	return d
}

// What the server is told of a delivery (ADR-15).
const (
	ackDone     = "+ACK"
	ackAgain    = "-NAK"
	ackProgress = "+WPI"
)

// answer tells the server what became of the delivery. What is lost on the way
// makes it come again.
func (d *delivery) answer(text string) {
	_ = d.src.h.workers.bus.Conn().Publish(*d.reply.Load(), []byte(text)) // fails only when the bus is closed
}

// giveBack lets the server deliver it again after a while, to any instance.
func (d *delivery) giveBack(after time.Duration) {
	if after <= 0 {
		d.answer(ackAgain)
		return
	}
	d.answer(ackAgain + ` {"delay":` + strconv.FormatInt(int64(after), 10) + `}`)
}

// touch tells the server that the delivery is at work, when it has not been told
// for that long.
func (d *delivery) touch(now time.Time, every time.Duration) {
	if now.UnixNano()-d.touched.Load() < int64(every) {
		return
	}
	d.touched.Store(now.UnixNano())
	d.answer(ackProgress)
}
