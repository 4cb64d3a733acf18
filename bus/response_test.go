package bus

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// received returns msg as its receiver has it: nats.go writes a header's
// values trimmed and on one line.
func received(t *testing.T, msg *nats.Msg) *nats.Msg {
	t.Helper()
	if len(msg.Header) == 0 {
		return &nats.Msg{Subject: msg.Subject, Data: msg.Data}
	}
	text := "NATS/1.0\r\n"
	for name, values := range msg.Header {
		for _, v := range values {
			text += name + ": " + strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.Trim(v, " \t\r\n")) + "\r\n"
		}
	}
	h, err := nats.DecodeHeadersMsg([]byte(text + "\r\n"))
	if err != nil {
		t.Fatalf("headers %q: %v", text, err)
	}
	return &nats.Msg{Subject: msg.Subject, Header: h, Data: msg.Data}
}

type stock struct {
	SKU  string
	Left int
}

func TestErrorOnTheWire(t *testing.T) {
	t.Parallel()
	for _, code := range rpc.Codes() {
		sent := code.Errorf("order %d: größer, 世界", 7).WithDetail(stock{"abc", 2}).WithDetail("text").WithRetryAfter(1500 * time.Millisecond)
		sent.Retryable = code%2 == 0
		msg := EncodeError("_INBOX.x", sent, 1<<20)

		if msg.Subject != "_INBOX.x" {
			t.Errorf("%v: it goes to %q", code, msg.Subject)
		}
		for name, want := range map[string]string{
			"Nats-Service-Error-Code": strconv.Itoa(code.HTTPStatus()),
			"Nats-Service-Error":      "order 7: größer, 世界",
			"Rpc-Code":                code.String(),
		} {
			if got := msg.Header.Get(name); got != want {
				t.Errorf("%v: header %s is %q, want %q", code, name, got, want)
			}
		}
		got := DecodeError(received(t, msg))
		if got == nil || !got.Remote() {
			t.Fatalf("%v: came back as %v", code, got)
		}
		if want := sent.AsRemote(); !reflect.DeepEqual(got, want) {
			t.Errorf("%v: came back as %+v, want %+v", code, got, want)
		}
		if d, ok := rpc.DetailOf[stock](got); !ok || d != (stock{"abc", 2}) {
			t.Errorf("%v: detail %+v, %t", code, d, ok)
		}
	}
}

// Hops change nothing: what was decoded is encoded again, three times.
func TestErrorOverHops(t *testing.T) {
	t.Parallel()
	want := rpc.FailedPrecondition.Errorf("two\nlines").WithDetail(stock{"abc", 2}).WithRetryAfter(time.Second)
	e := want
	for range 3 {
		e = DecodeError(received(t, EncodeError("_INBOX.x", e, 1<<20)))
	}
	if !reflect.DeepEqual(e, want.AsRemote()) {
		t.Errorf("after three hops: %+v", e)
	}
}

func TestErrorBody(t *testing.T) {
	t.Parallel()
	msg := EncodeError("_INBOX.x", rpc.NotFound.Errorf("order 7").WithDetail(stock{"abc", 2}), 1<<20)
	const want = `{"code":"not_found","message":"order 7","details":[{"type":"bus.stock","value":{"SKU":"abc","Left":2}}]}`
	if string(msg.Data) != want {
		t.Errorf("body %s, want %s", msg.Data, want)
	}
}

// An error that was made without a code is still an error for its receiver.
func TestErrorWithoutCode(t *testing.T) {
	t.Parallel()
	for _, code := range []rpc.Code{0, 17, 255} {
		e := &rpc.Error{Code: code, Message: "x", Retryable: true}
		msg := EncodeError("_INBOX.x", e, 1<<20)
		if got := msg.Header.Get(HeaderErrorCode); got != "500" {
			t.Errorf("code %d: status %q", code, got)
		}
		got := DecodeError(received(t, msg))
		if got == nil || got.Code != rpc.Unknown || got.Message != "x" || !got.Retryable {
			t.Errorf("code %d came back as %+v", code, got)
		}
		if e.Code != code {
			t.Errorf("EncodeError changed the error it was given: %+v", e)
		}
	}
}

func TestErrorInsideItsLimit(t *testing.T) {
	t.Parallel()
	big := rpc.NotFound.Errorf("%s", strings.Repeat("<é>\n", 2000)).
		WithDetail(strings.Repeat("d", 100_000)).WithRetryAfter(time.Second).NotExecuted()
	short := rpc.NotFound.Errorf("order 7").WithDetail(strings.Repeat("d", 100_000)).WithRetryAfter(time.Second).NotExecuted()
	for limit := int64(0); limit < 300_000; limit += 1 + limit/7 {
		for _, e := range []*rpc.Error{big, short} {
			msg := EncodeError("_INBOX.x", e, limit)
			if size := int64(msg.Size() - len(msg.Subject)); size > limit && limit >= 1024 {
				t.Fatalf("%d bytes with a limit of %d", size, limit)
			}
			got := DecodeError(received(t, msg))
			if got == nil || got.Code != rpc.NotFound || !strings.HasPrefix(got.Message, e.Message[:1]) {
				t.Fatalf("limit %d: came back as %+v", limit, got)
			}
			if len(msg.Data) > 0 && (!got.Retryable || got.RetryAfter != time.Second) {
				t.Fatalf("limit %d: the body forgot what to do: %s", limit, msg.Data)
			}
			if e == short && limit > 2000 && (got.Message != "order 7" || !got.Retryable) {
				t.Fatalf("limit %d: more was cut than had to be: %+v", limit, got)
			}
			if limit > 250_000 && len(got.Details) != 1 {
				t.Fatalf("limit %d: the details are gone", limit)
			}
		}
	}
}

// Details that are no JSON can't be sent; the rest is.
func TestErrorWithMalformedDetail(t *testing.T) {
	t.Parallel()
	e := &rpc.Error{Code: rpc.Aborted, Message: "x", Details: []rpc.Detail{{Type: "a", Value: json.RawMessage("{")}}}
	got := DecodeError(received(t, EncodeError("_INBOX.x", e, 1<<20)))
	if got == nil || got.Code != rpc.Aborted || got.Message != "x" || len(got.Details) != 0 {
		t.Errorf("came back as %+v", got)
	}
}

// A message is whatever a handler put into it: it can't add headers.
func TestErrorHeaderIsOneLine(t *testing.T) {
	t.Parallel()
	for _, message := range []string{
		"a\r\nRpc-Code: not_found", "a\nb", "a\rb", "\r\n\r\nPUB x 0\r\n", "a\x00b\x1b[31m\x7f", "\xff\xfe", "a\u2028b",
		strings.Repeat("é", 400), strings.Repeat("x", 511) + "世界", strings.Repeat("\n", 2000),
	} {
		msg := EncodeError("_INBOX.x", rpc.Aborted.Errorf("%s", message), 1<<20)
		text := msg.Header.Get(HeaderError)
		if strings.ContainsAny(text, "\r\n\x00\x1b\x7f") || len(text) > maxErrorText || !utf8.ValidString(text) {
			t.Errorf("%q became the header %q", message, text)
		}
		got := DecodeError(received(t, msg))
		if got == nil || got.Code != rpc.Aborted || got.Message != strings.ToValidUTF8(message, "\uFFFD") &&
			got.Message != strings.ReplaceAll(strings.ReplaceAll(message, "\xff", "\uFFFD"), "\xfe", "\uFFFD") {
			t.Errorf("%q came back as %+v", message, got)
		}
	}
}

func TestDecodeErrorOfResults(t *testing.T) {
	t.Parallel()
	for what, msg := range map[string]*nats.Msg{
		"plain":        {Data: []byte(`{"code":"not_found"}`)},
		"with headers": {Header: nats.Header{"Content-Type": {"application/cbor"}, "Rpc-Id": {"x"}}, Data: []byte{0xa0}},
		"empty":        {},
		"status only":  {Header: nats.Header{"Status": {"503"}}},
	} {
		if e := DecodeError(msg); e != nil {
			t.Errorf("%s: %v", what, e)
		}
	}
}

// Services that know nothing but ADR-32 send a number, a text, and any body.
func TestDecodeErrorOfOthers(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]rpc.Code{
		"400": rpc.InvalidArgument, "401": rpc.Unauthenticated, "403": rpc.PermissionDenied, "404": rpc.NotFound,
		"408": rpc.DeadlineExceeded, "409": rpc.Aborted, "412": rpc.FailedPrecondition, "413": rpc.ResourceExhausted,
		"429": rpc.ResourceExhausted, "499": rpc.Canceled, "500": rpc.Internal, "501": rpc.Unimplemented,
		"503": rpc.Unavailable, "504": rpc.DeadlineExceeded,
		"418": rpc.Unknown, "200": rpc.Unknown, "0": rpc.Unknown, "E_STOCK": rpc.Unknown,
	} {
		for _, body := range []string{"", "plain text", `{"error":"x"}`, `{"code":404}`, `null`, `[]`, "\xff"} {
			e := DecodeError(&nats.Msg{
				Header: nats.Header{"Nats-Service-Error-Code": {status}, "Nats-Service-Error": {"no stock"}}, Data: []byte(body),
			})
			if e == nil || e.Code != want || e.Message != "no stock" || !e.Remote() || e.Retryable || len(e.Details) != 0 {
				t.Errorf("status %s, body %q: %+v, want %v", status, body, e, want)
			}
		}
	}
}

func TestDecodeErrorContradictions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		what               string
		status, name, body string
		want               rpc.Code
		message            string
	}{
		{"only a name", "", "aborted", "", rpc.Aborted, "text"},
		{"header and body differ", "404", "not_found", `{"code":"internal","message":"body"}`, rpc.NotFound, "text"},
		{"an unknown name, a known status", "503", "gone_fishing", `{"code":"gone_fishing","message":"body"}`, rpc.Unavailable, "text"},
		{"an unknown name alone", "", "gone_fishing", "", rpc.Unknown, "text"},
		{"the name ok", "200", "ok", `{"code":"ok"}`, rpc.Unknown, "text"},
		{"half a body", "409", "already_exists", `{"code":"already_exists","mess`, rpc.AlreadyExists, "text"},
		{"a body, no name", "404", "", `{"code":"unimplemented","message":"body"}`, rpc.Unimplemented, "body"},
	} {
		h := nats.Header{"Nats-Service-Error": {"text"}}
		for name, value := range map[string]string{"Nats-Service-Error-Code": test.status, "Rpc-Code": test.name} {
			if value != "" {
				h.Set(name, value)
			}
		}
		e := DecodeError(&nats.Msg{Header: h, Data: []byte(test.body)})
		if e == nil || e.Code != test.want || e.Message != test.message {
			t.Errorf("%s: %+v", test.what, e)
		}
	}
}

func TestNoResponders(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		what string
		msg  nats.Msg
		want bool
	}{
		{"the server's", nats.Msg{Header: nats.Header{"Status": {"503"}}}, true},
		{"another status", nats.Msg{Header: nats.Header{"Status": {"408"}}}, false},
		{"with a body", nats.Msg{Header: nats.Header{"Status": {"503"}}, Data: []byte("x")}, false},
		{"an empty result", nats.Msg{}, false},
		{"an error", *EncodeError("", rpc.Unavailable.Errorf("x"), 1<<20), false},
	} {
		if got := NoResponders(&test.msg); got != test.want {
			t.Errorf("%s: %t", test.what, got)
		}
	}
}

func FuzzDecodeError(f *testing.F) {
	f.Add("Rpc-Code: not_found\nNats-Service-Error-Code: 404\nNats-Service-Error: x", []byte(`{"code":"not_found","message":"x"}`))
	f.Add("Nats-Service-Error-Code: 503", []byte("plain"))
	f.Add("Rpc-Code: ok", []byte(`{"code":"ok"}`))
	f.Add("Nats-Service-Error-Code: 500", []byte(`{"code":"internal","retryAfterMs":-1,"details":[{"type":"x"}]}`))
	f.Add("Status: 503", []byte(nil))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		msg := &nats.Msg{Header: headerOf(header), Data: body}
		failed := msg.Header.Get(HeaderErrorCode) != "" || msg.Header.Get(HeaderCode) != ""
		e := DecodeError(msg)
		if (e != nil) != failed {
			t.Fatalf("%v was read as %v", msg.Header, e)
		}
		if e == nil {
			return
		}
		if rpc.CodeOf(e) != e.Code || !e.Remote() || e.RetryAfter < 0 {
			t.Fatalf("it was read as %+v", e)
		}
		// What was read can be passed on.
		again := DecodeError(EncodeError("_INBOX.x", e, 1<<20))
		if again == nil || again.Code != e.Code || again.Retryable != e.Retryable || again.RetryAfter != e.RetryAfter {
			t.Fatalf("%+v was passed on as %+v", e, again)
		}
	})
}

func FuzzEncodeError(f *testing.F) {
	f.Add(uint8(5), "order 7", "detail", int64(1<<20))
	f.Add(uint8(0), "a\r\nRpc-Code: ok", "\xff", int64(1024))
	f.Add(uint8(200), strings.Repeat("世", 300), "", int64(0))
	f.Fuzz(func(t *testing.T, code uint8, message, detail string, limit int64) {
		sent := (&rpc.Error{Code: rpc.Code(code), Message: message}).WithDetail(detail)
		msg := EncodeError("_INBOX.x", sent, limit)
		if size := int64(msg.Size() - len(msg.Subject)); limit >= 1024 && size > limit {
			t.Fatalf("%d bytes with a limit of %d", size, limit)
		}
		for name, values := range msg.Header {
			if len(values) != 1 || strings.ContainsAny(values[0], "\r\n") || !utf8.ValidString(values[0]) {
				t.Fatalf("header %s: %q", name, values)
			}
		}
		got := DecodeError(received(t, msg))
		if got == nil || got.Code != rpc.CodeOf(sent) {
			t.Fatalf("%+v came back as %+v", sent, got)
		}
	})
}
