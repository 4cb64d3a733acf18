package pull

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Message is one message of a stream, as it was delivered.
type Message struct {
	*nats.Msg
	// Sequence is that in the stream.
	Sequence uint64
	// Delivered counts how often the consumer has delivered it, from 1.
	Delivered int
	// Delivery is its place among all that the consumer has delivered, from 1.
	Delivery uint64
	// Stored is when the stream has taken it in.
	Stored time.Time

	name string // "<stream>.<consumer>"
}

// Pin returns the id of the pin that its puller has, empty when the consumer has
// none.
func (m Message) Pin() string { return m.Header.Get("Nats-Pin-Id") }

// readMeta reads the reply subject of a message, which is where it is
// acknowledged: $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer
// sequence>.<time>.<pending>, with a domain and the hash of an account before the
// stream, and more at the end, on newer servers (ADR-15).
func readMeta(msg *nats.Msg) (Message, bool) {
	rest, ok := strings.CutPrefix(msg.Reply, "$JS.ACK.")
	if !ok {
		return Message{}, false
	}
	if n := strings.Count(rest, "."); n < 6 || n == 7 {
		return Message{}, false
	} else if n > 7 {
		_, rest, _ = strings.Cut(rest, ".")
		_, rest, _ = strings.Cut(rest, ".")
	}
	stream := strings.IndexByte(rest, '.')
	consumer := strings.IndexByte(rest[stream+1:], '.')
	m := Message{Msg: msg, name: rest[:stream+1+consumer]}
	tokens := rest[stream+1+consumer+1:]
	var fields [4]int64 // delivered, sequence, consumer sequence, time
	for i := range fields {
		var token string
		token, tokens, _ = strings.Cut(tokens, ".")
		n, err := strconv.ParseInt(token, 10, 64)
		if err != nil {
			return Message{}, false
		}
		fields[i] = n
	}
	m.Delivered, m.Sequence, m.Delivery, m.Stored = int(fields[0]), uint64(fields[1]), uint64(fields[2]), time.Unix(0, fields[3])
	return m, true
}
