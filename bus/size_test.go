package bus

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// randomHeader returns headers with names and values that nats.go writes,
// values that it trims included.
func randomHeader(r *rand.Rand) nats.Header {
	pick := func(letters string, most int) string {
		text := make([]byte, r.IntN(most+1))
		for i := range text {
			text[i] = letters[r.IntN(len(letters))]
		}
		return string(text)
	}
	h := nats.Header{}
	for range r.IntN(6) {
		name := "X" + pick("abcXYZ019-_", 20)
		for range 1 + r.IntN(3) {
			h[name] = append(h[name], pick("abc é\t\r\n :", 30))
		}
	}
	return h
}

// The size that is checked is the size that nats.go compares with the server's
// limit.
func TestHeaderSize(t *testing.T) {
	t.Parallel()
	check := func(h nats.Header) {
		t.Helper()
		if got, want := headerSize(h), int64((&nats.Msg{Header: h}).Size()); got != want {
			t.Fatalf("headerSize(%q) = %d, nats.go writes %d", h, got, want)
		}
	}
	for _, h := range []nats.Header{
		nil, {}, {"X": {""}}, {"X": {}}, {"X": {"a", "b"}}, {"X": {" padded\t\r\n"}}, {"X": {"größer"}}, {"X": {"a\r\nb"}},
		{HeaderTimeout: {"5000"}, HeaderCaller: {"shop"}, "X-Tenant": {"acme"}},
	} {
		check(h)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		check(randomHeader(r))
	}
}

func TestHeaderSizeByHand(t *testing.T) {
	t.Parallel()
	const text = "NATS/1.0\r\nX: a\r\nX: bc\r\nYy: d\r\n\r\n"
	h, err := nats.DecodeHeadersMsg([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := headerSize(h); got != int64(len(text)) {
		t.Errorf("headerSize = %d, want %d", got, len(text))
	}
}

func TestCheckParams(t *testing.T) {
	t.Parallel()
	call := &rpc.Call{Service: "orders", Method: "place"}
	h := nats.Header{"X-Tenant": {"acme"}}
	payload := bytes.Repeat([]byte("x"), 1000)
	exact := int64((&nats.Msg{Header: h, Data: payload}).Size())
	if err := CheckParams(call, h, payload, exact); err != nil {
		t.Errorf("exactly the limit: %v", err)
	}
	if err := CheckParams(call, nil, payload, 1000); err != nil {
		t.Errorf("exactly the limit, without headers: %v", err)
	}
	if err := CheckParams(call, nil, nil, 0); err != nil {
		t.Errorf("nothing at all: %v", err)
	}
	err := CheckParams(call, h, payload, exact-1)
	e, ok := errors.AsType[*rpc.Error](err)
	if !ok || e.Code != rpc.ResourceExhausted || e.Retryable {
		t.Fatalf("one byte too many: %v", err)
	}
	for _, want := range []string{"orders.place", "params", "1028", "1027", "max_payload"} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("the message %q does not say %s", e.Message, want)
		}
	}
}
