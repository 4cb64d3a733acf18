package bus

import (
	"strings"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// Header names of requests and replies.
const (
	HeaderTimeout     = "Rpc-Timeout"
	HeaderID          = "Rpc-Id"
	HeaderAttempt     = "Rpc-Attempt"
	HeaderCaller      = "Rpc-Caller"
	HeaderObject      = "Rpc-Object"
	HeaderChain       = "Rpc-Chain"
	HeaderCode        = "Rpc-Code"
	HeaderContentType = "Content-Type"

	// HeaderErrorCode and HeaderError are those of ADR-32.
	HeaderErrorCode = "Nats-Service-Error-Code"
	HeaderError     = "Nats-Service-Error"

	headerStatus = "Status"
)

// traceHeaders travel by themselves from the call being served, and the event
// being handled, to the calls made and the events sent for it: W3C Trace Context
// and Baggage, and the event that is behind it.
var traceHeaders = [...]string{"traceparent", "tracestate", "baggage", HeaderCorrelation, HeaderCausation, HeaderHops}

// CopyTrace adds the trace headers of from to h, unless h has them or they are
// not fit to be sent. It returns h, made when there was something to add.
func CopyTrace(h, from rpc.Header) rpc.Header {
	if len(from) == 0 {
		return h
	}
	for _, name := range traceHeaders {
		values := from.Values(name)
		if len(values) == 0 || len(h.Values(name)) > 0 || !sendable(name, values) {
			continue
		}
		if h == nil {
			h = rpc.Header{}
		}
		h[name] = values
	}
	return h
}

// sendable reports whether a header that came in may go out again.
func sendable(name string, values []string) bool {
	for _, v := range values {
		if rpc.ValidateHeader(name, v) != nil {
			return false
		}
	}
	return true
}

// system reports whether a header name belongs to the wire format and not to
// the user.
func system(name string) bool {
	const longest = len("Nats-")
	if len(name) >= longest && strings.EqualFold(name[:longest], "Nats-") {
		return true
	}
	return len(name) >= 4 && strings.EqualFold(name[:4], "Rpc-")
}

// userHeader returns what the user sent of a message's headers, nil for none.
func userHeader(h nats.Header) rpc.Header {
	var user rpc.Header
	for name, values := range h {
		if system(name) || name == HeaderContentType {
			continue
		}
		if user == nil {
			user = make(rpc.Header, len(h))
		}
		user[name] = values
	}
	return user
}
