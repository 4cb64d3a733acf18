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
	place place  // in the stream that it comes from
	pin   string // under which it came
	came  time.Time

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
	used    bool    // an attempt has had the data
	keyed   bool    // its key is known
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

// place is where a message is in a stream. The time tells it from one of that
// sequence in a stream that was made anew, or that has lost its end.
type place struct {
	sequence uint64
	stored   int64 // Unix nanoseconds
}

func placeOf(m pull.Message) place { return place{m.Sequence, m.Stored.UnixNano()} }

// String is the place as a part of a key.
func (p place) String() string {
	return strconv.FormatUint(p.sequence, 10) + "-" + strconv.FormatInt(p.stored, 36)
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
	d := &delivery{src: src, msg: m.Msg, place: placeOf(m), pin: m.Pin(), came: time.Now()}
	d.deliveries.Store(int64(m.Delivered))
	d.reply.Store(&m.Reply)
	d.touched.Store(d.came.UnixNano())
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
