package bus

import (
	"github.com/nats-io/nats.go"

	"rpc.do"
)

// CheckSize reports a message that the bus would not take: ResourceExhausted
// naming both sizes. What is, for the message, "the params of orders.place".
func CheckSize(what string, header nats.Header, payload []byte, limit int64) error {
	size := int64(len(payload)) + headerSize(header)
	if size <= limit {
		return nil
	}
	return rpc.ResourceExhausted.Errorf("%s: the message has %d bytes, the bus takes at most %d (max_payload)", what, size, limit)
}

// headerSize is what the headers take on the wire.
func headerSize(h nats.Header) int64 {
	if len(h) == 0 {
		return 0
	}
	size := len("NATS/1.0\r\n") + len("\r\n")
	for name, values := range h {
		for _, v := range values {
			size += len(name) + len(": ") + len(v) + len("\r\n")
		}
	}
	return int64(size)
}
