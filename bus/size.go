package bus

import (
	"net/textproto"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// CheckParams reports a request that the bus would not take.
func CheckParams(call *rpc.Call, header nats.Header, payload []byte, limit int64) error {
	if size := int64(len(payload)) + headerSize(header); size > limit {
		return tooLarge("params", call, size, limit)
	}
	return nil
}

func tooLarge(what string, call *rpc.Call, size, limit int64) *rpc.Error {
	return rpc.ResourceExhausted.Errorf("the %s of %s: the message has %d bytes, the bus takes at most %d (max_payload)",
		what, call.Name(), size, limit)
}

// headerSize is what the headers take on the wire.
func headerSize(h nats.Header) int64 {
	if len(h) == 0 {
		return 0
	}
	size := len("NATS/1.0\r\n") + len("\r\n")
	for name, values := range h {
		for _, v := range values {
			// nats.go trims values when it writes them.
			size += len(name) + len(": ") + len(textproto.TrimString(v)) + len("\r\n")
		}
	}
	return int64(size)
}
