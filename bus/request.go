package bus

import (
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// ErrForeignReply is returned for a request whose reply subject is not below
// one of the prefixes a service may answer to. It can't be answered: an answer
// would let the caller steer the service's publishes anywhere.
var ErrForeignReply = errors.New("bus: reply subject outside the allowed prefixes")

// Request is what a message says of the call it carries.
type Request struct {
	// Method is the subject after "rpc.<service>.", or after the object's id.
	Method string
	// Reply is where the answer goes; empty when none is wanted.
	Reply string
	// ID identifies the call, Caller names who makes it; empty when unsaid.
	// Once says that the identity is that of the reply subject or made for this
	// call: only retries, which say so, have it again.
	ID     string
	Once   bool
	Caller string
	// Object is the id of the object that the call is for, if any. Direct says
	// that it came on the object's own subject.
	Object string
	Direct bool
	// Via is the subscription that it came through, if it is Direct.
	Via *nats.Subscription
	// Chain has the object turns that the call is made from, the outermost
	// first. See Link.
	Chain []string
	// Attempt counts from 1.
	Attempt int
	// Timeout is the time left when the request was sent.
	Timeout time.Duration
	// Sent is when that was by the caller's clock; zero when unsaid.
	Sent time.Time
	// Age is how much earlier the first attempt was sent.
	Age time.Duration
	// Header is the user's metadata.
	Header rpc.Header
	// ContentType names the payload's codec; empty for JSON.
	ContentType string
	Payload     []byte
}

// ParseRequest reads a request that arrived for service. The error is
// ErrForeignReply, or an *rpc.Error to answer with; what could be read until
// then is in the Request.
func ParseRequest(msg *nats.Msg, service string, prefixes []string) (Request, error) {
	req := Request{Attempt: 1, Timeout: DefaultTimeout, Payload: msg.Data}
	object := strings.HasPrefix(msg.Subject, ObjectPrefix)
	if !object {
		if head := len(CallPrefix) + len(service) + 1; len(msg.Subject) > head {
			req.Method = msg.Subject[head:]
		}
	}
	if msg.Reply != "" {
		prefix, ok := underPrefix(msg.Reply, prefixes)
		if !ok {
			return req, ErrForeignReply
		}
		req.Reply = msg.Reply
		if info, ok := parseReply(msg.Reply, prefix); ok {
			req.ID, req.Once, req.Caller, req.Timeout, req.Sent = info.identity, true, info.caller, info.timeout, info.sent
		}
	}
	var err error
	if len(msg.Header) > 0 {
		err = req.readHeader(msg.Header)
	}
	if object && err == nil {
		req.Via = msg.Sub
		err = req.readObjectSubject(msg.Subject[len(ObjectPrefix):])
	}
	return req, err
}

func (req *Request) readHeader(h nats.Header) error {
	req.Header = userHeader(h)
	req.ContentType = h.Get(HeaderContentType)
	if v := h.Get(HeaderTimeout); v != "" {
		millis, err := strconv.ParseUint(v, 10, 63)
		if err != nil {
			return rpc.InvalidArgument.Errorf("header %s: want milliseconds, got %.40q", HeaderTimeout, v)
		}
		req.Timeout = clampTimeout(millis)
	}
	if v := h.Get(HeaderAttempt); v != "" {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return rpc.InvalidArgument.Errorf("header %s: want 1 to 65535, got %.40q", HeaderAttempt, v)
		}
		req.Attempt = int(n)
	}
	if v := h.Get(HeaderID); v != "" {
		id, age, err := parseID(v)
		if err != nil {
			return err
		}
		req.ID, req.Once, req.Age = id, false, age
	}
	if v := h.Get(HeaderCaller); v != "" {
		if len(v) > 128 || !utf8.ValidString(v) {
			return rpc.InvalidArgument.Errorf("header %s: want at most 128 bytes of text", HeaderCaller)
		}
		req.Caller = v
	}
	if v := h.Get(HeaderObject); v != "" {
		if err := rpc.ValidateObjectID(v); err != nil {
			return rpc.InvalidArgument.Errorf("header %s: %w", HeaderObject, err)
		}
		req.Object = v
	}
	if v := h.Get(HeaderChain); v != "" {
		chain, err := parseChain(v)
		if err != nil {
			return err
		}
		req.Chain = chain
	}
	return nil
}

// ValidateID checks the identity that a caller gives a call: 1 to 256 bytes of
// printable text without semicolons and without a space at either end, which
// a header would not keep.
func ValidateID(id string) error {
	odd := func(r rune) bool { return r == ';' || !unicode.IsPrint(r) }
	if id == "" || len(id) > 256 || !utf8.ValidString(id) || strings.ContainsFunc(id, odd) {
		return rpc.InvalidArgument.Errorf("call id %.80q: want 1 to 256 bytes of printable text without semicolons", id)
	}
	if id[0] == ' ' || id[len(id)-1] == ' ' {
		return rpc.InvalidArgument.Errorf("call id %.80q: it begins or ends with a space", id)
	}
	return nil
}

// parseID reads "<identity>" or "<identity>;age=<ms>".
func parseID(v string) (id string, age time.Duration, err error) {
	id, param, hasParam := strings.Cut(v, ";")
	if err := ValidateID(id); err != nil {
		return "", 0, err
	}
	if !hasParam {
		return id, 0, nil
	}
	text, ok := strings.CutPrefix(param, "age=")
	millis, perr := strconv.ParseUint(text, 10, 63)
	if !ok || perr != nil {
		return "", 0, rpc.InvalidArgument.Errorf("header %s: want <identity>;age=<milliseconds>, got %.80q", HeaderID, v)
	}
	return id, clampTimeout(millis), nil
}

// RetryID writes the HeaderID of a retry: the first attempt's identity and how
// long ago it was sent.
func RetryID(id string, age time.Duration) string {
	return id + ";age=" + strconv.FormatInt(max(age, 0).Milliseconds(), 10)
}
