package bus

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// maxErrorText bounds an error's message in a header; the body has it whole.
const maxErrorText = 512

// EncodeError writes err as the answer to a request on reply: the headers of
// ADR-32, the code's name, and the error as JSON in the body. What does not fit
// into limit bytes is left out, details first.
func EncodeError(reply string, err *rpc.Error, limit int64) *nats.Msg {
	if code := rpc.CodeOf(err); code != err.Code { // no code at all would read as "ok"
		coded := *err
		coded.Code = code
		err = &coded
	}
	msg := nats.NewMsg(reply)
	msg.Header.Set(HeaderErrorCode, strconv.Itoa(err.Code.HTTPStatus()))
	msg.Header.Set(HeaderError, headerText(err.Message))
	msg.Header.Set(HeaderCode, err.Code.String())
	const headers = maxErrorText + 256
	body, jerr := json.Marshal(err)
	if jerr != nil || int64(len(body))+headers > limit {
		short := *err
		short.Details = nil
		short.Message = headerText(err.Message)
		body, jerr = json.Marshal(&short)
	}
	if jerr == nil && int64(len(body))+headers <= limit {
		msg.Data = body
	}
	return msg
}

// headerText makes text fit for a header value: one line, bounded.
func headerText(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxErrorText {
		cut := maxErrorText
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut]
	}
	return text
}

// NoResponders reports whether msg is the server's own answer that nobody
// listens on the subject of the request.
func NoResponders(msg *nats.Msg) bool {
	return len(msg.Data) == 0 && msg.Header != nil && msg.Header.Get(headerStatus) == "503"
}

// DecodeError returns the error that a reply carries, nil for a result. It
// understands the errors of any ADR-32 service.
func DecodeError(msg *nats.Msg) *rpc.Error {
	if len(msg.Header) == 0 {
		return nil
	}
	status, name := msg.Header.Get(HeaderErrorCode), msg.Header.Get(HeaderCode)
	if status == "" && name == "" {
		return nil
	}
	e := new(rpc.Error)
	if json.Unmarshal(msg.Data, e) != nil || name != "" && e.Code.String() != name {
		code, err := rpc.ParseCode(name)
		if err != nil {
			code = codeOfStatus(status)
		}
		*e = rpc.Error{Code: code, Message: msg.Header.Get(HeaderError)}
	}
	return e.AsRemote()
}

// codeOfStatus maps the number of a service that does not know codes.
func codeOfStatus(status string) rpc.Code {
	switch status {
	case "400":
		return rpc.InvalidArgument
	case "401":
		return rpc.Unauthenticated
	case "403":
		return rpc.PermissionDenied
	case "404":
		return rpc.NotFound
	case "408", "504":
		return rpc.DeadlineExceeded
	case "409":
		return rpc.Aborted
	case "412":
		return rpc.FailedPrecondition
	case "413", "429":
		return rpc.ResourceExhausted
	case "499":
		return rpc.Canceled
	case "500":
		return rpc.Internal
	case "501":
		return rpc.Unimplemented
	case "503":
		return rpc.Unavailable
	default:
		return rpc.Unknown
	}
}
