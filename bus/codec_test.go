package bus

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

type line struct {
	Qty  int     `json:"qty"`
	SKU  string  `json:"sku"`
	Rate float64 `json:"rate"`
}

type basket struct {
	Owner string          `json:"owner"`
	Main  line            `json:"main"`
	Lines []line          `json:"lines"`
	Named map[string]line `json:"named"`
	Small uint8           `json:"small"`
	Open  bool            `json:"open"`
	Next  *basket         `json:"next"`
	Raw   []byte          `json:"raw"`
}

// invalid fails unless err is an InvalidArgument that is fit to be sent.
func invalid(t *testing.T, what string, err error) *rpc.Error {
	t.Helper()
	e, ok := errors.AsType[*rpc.Error](err)
	if !ok || e.Code != rpc.InvalidArgument {
		t.Errorf("%s: %v, want InvalidArgument", what, err)
		return new(rpc.Error)
	}
	if len(e.Message) > 500 || !utf8.ValidString(e.Message) {
		t.Errorf("%s: %d bytes of message: %.100q…", what, len(e.Message), e.Message)
	}
	return e
}

func TestDecodeParams(t *testing.T) {
	t.Parallel()
	want := basket{Owner: "ann", Lines: []line{{Qty: 1, SKU: "abc"}, {Qty: 2}}, Small: 255, Next: &basket{Open: true}}
	for _, c := range []Codec{JSON{}, CBOR{}} {
		data, err := c.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got basket
		if err := DecodeParams(c, data, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", c.ContentType(), got, err)
		}
	}
}

// The error says where, what was wanted and what was there, in the message for
// people and as a detail for programs. encoding/json names fields, not the
// indexes and keys on the way.
func TestWrongTypes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ params, field, expected, got string }{
		{`"x"`, "", "an object", "string"},
		{`[1]`, "", "an object", "array"},
		{`5`, "", "an object", "number"},
		{`{"owner":5}`, "owner", "a string", "number"},
		{`{"owner":{}}`, "owner", "a string", "object"},
		{`{"main":{"qty":"x"}}`, "main.qty", "a whole number (int)", "string"},
		{`{"main":{"qty":1.5}}`, "main.qty", "a whole number (int)", "number"},
		{`{"main":{"rate":"x"}}`, "main.rate", "a number", "string"},
		{`{"main":[]}`, "main", "an object", "array"},
		{`{"lines":{}}`, "lines", "an array", "object"},
		{`{"lines":[{"qty":1},{"qty":2},{"qty":true}]}`, "lines.qty", "a whole number (int)", "bool"},
		{`{"named":{"k":{"sku":1}}}`, "named.sku", "a string", "number"},
		{`{"named":[]}`, "named", "an object", "array"},
		{`{"small":256}`, "small", "a whole number from 0 (uint8)", "number"},
		{`{"small":-1}`, "small", "a whole number from 0 (uint8)", "number"},
		{`{"main":{"qty":1e3}}`, "main.qty", "a whole number (int)", "number"},
		{`{"main":{"rate":1e999}}`, "main.rate", "a number", "number"},
		{`{"open":"yes"}`, "open", "true or false", "string"},
		{`{"next":{"next":{"lines":[{"sku":[]}]}}}`, "next.next.lines.sku", "a string", "array"},
		{`{"next":5}`, "next", "an object", "number"},
	} {
		e := invalid(t, test.params, DecodeParams(JSON{}, []byte(test.params), new(basket)))
		where := "params"
		if test.field != "" {
			where += "." + test.field
		}
		if want := where + ": want " + test.expected + ", got " + test.got; e.Message != want {
			t.Errorf("%s: %q, want %q", test.params, e.Message, want)
		}
		want := rpc.FieldViolation{Field: test.field, Expected: test.expected, Got: test.got}
		if v, ok := rpc.DetailOf[rpc.FieldViolation](e); !ok || v != want {
			t.Errorf("%s: detail %+v, %t; want %+v", test.params, v, ok, want)
		}
	}
}

// Params are not sent back and not logged whole.
func TestWrongTypesAreBounded(t *testing.T) {
	t.Parallel()
	e := invalid(t, "a long number", DecodeParams(JSON{}, []byte(`{"small":`+strings.Repeat("9", 1<<20)+`}`), new(basket)))
	if body, err := json.Marshal(e); err != nil || len(body) > 1500 {
		t.Errorf("the error takes %d bytes, %v", len(body), err)
	}
	long := strings.Repeat("é", 1<<20)
	invalid(t, "a long text", DecodeParams(JSON{}, []byte(`"`+long+`"`), new(time.Time)))
	e = invalid(t, "a long key", DecodeParams(JSON{}, []byte(`{"`+long+`":1}`), new(map[int]int)))
	if !strings.HasSuffix(e.Message, ", got number") {
		t.Errorf("a key is quoted: %q", e.Message)
	}
}

func TestWrongTypesInCBOR(t *testing.T) {
	t.Parallel()
	encode := func(v any) []byte {
		data, err := CBOR{}.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for what, test := range map[string]struct {
		data    []byte
		v       any
		message string
		field   string
	}{
		"the whole":  {encode("x"), new(int), "params: want int, got CBOR UTF-8 text string", ""},
		"a field":    {encode(map[string]any{"owner": 5}), new(basket), "params.owner: want string, got CBOR positive integer", "owner"},
		"a range":    {encode(map[string]any{"small": 256}), new(basket), "params.small: want uint8, got CBOR positive integer", "small"},
		"an element": {encode(map[string]any{"lines": []any{map[string]any{"qty": "x"}}}), new(basket), "params.lines: want int, got CBOR UTF-8 text string", "lines"},
	} {
		e := invalid(t, what, DecodeParams(CBOR{}, test.data, test.v))
		if e.Message != test.message {
			t.Errorf("%s: %q, want %q", what, e.Message, test.message)
		}
		if v, ok := rpc.DetailOf[rpc.FieldViolation](e); !ok || v.Field != test.field {
			t.Errorf("%s: detail %+v, %t", what, v, ok)
		}
	}
}

func TestMalformedParams(t *testing.T) {
	t.Parallel()
	nested, err := CBOR{}.Marshal([]int{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what  string
		codec Codec
		data  string
		want  string
	}{
		{"cut off", JSON{}, `{"owner":`, "malformed JSON at byte 9"},
		{"cut off in a text", JSON{}, `{"owner":"x`, "malformed JSON at byte 11"},
		{"no JSON", JSON{}, `hello`, "malformed JSON at byte 1"},
		{"trailing garbage", JSON{}, `{} x`, "malformed JSON at byte 4"},
		{"two values", JSON{}, `{}{}`, "malformed JSON at byte 3"},
		{"trailing comma", JSON{}, `{"owner":"x",}`, "malformed JSON at byte 14"},
		{"single quotes", JSON{}, `{'owner':1}`, "malformed JSON at byte 2"},
		{"a comment", JSON{}, `{} // x`, "malformed JSON"},
		{"a line end in a text", JSON{}, "{\"owner\":\"a\nb\"}", "malformed JSON"},
		{"white space only", JSON{}, " \n", "malformed JSON"},
		{"NUL", JSON{}, "\x00", "malformed JSON"},
		{"byte order mark", JSON{}, "\uFEFF{}", "malformed JSON at byte 1"},
		{"not UTF-8", JSON{}, "{\"owner\":\"\xff\"}", "not valid UTF-8"},
		{"a surrogate in UTF-8", JSON{}, "{\"owner\":\"\xed\xa0\x80\"}", "not valid UTF-8"},
		{"overlong UTF-8", JSON{}, "{\"owner\":\"\xc0\xaf\"}", "not valid UTF-8"},
		{"half a character", JSON{}, "{\"owner\":\"\xe4\xb8\"}", "not valid UTF-8"},
		{"UTF-16", JSON{}, "{\x00}\x00", "malformed JSON"},
		{"not base64", JSON{}, `{"raw":"!"}`, "illegal base64"},

		{"CBOR cut off", CBOR{}, string(nested[:2]), "end too early"},
		{"CBOR with a trailing byte", CBOR{}, string(nested) + "\x00", "extraneous"},
		{"CBOR text that is not UTF-8", CBOR{}, "\x61\xff", "invalid UTF-8"},
		{"CBOR of a length that is not there", CBOR{}, "\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", ""},
		{"CBOR array of a length that is not there", CBOR{}, "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", ""},
		{"CBOR map of a length that is not there", CBOR{}, "\xbb\x00\x00\x00\x00\xff\xff\xff\xff", ""},
		{"JSON sent as CBOR", CBOR{}, `{"owner":"x"}`, ""},
		{"CBOR sent as JSON", JSON{}, string(nested), ""},
	} {
		e := invalid(t, test.what, DecodeParams(test.codec, []byte(test.data), new(basket)))
		if !strings.Contains(e.Message, test.want) || !strings.HasPrefix(e.Message, "params: ") {
			t.Errorf("%s: %q, want %q in it", test.what, e.Message, test.want)
		}
	}
}

func TestEmptyParams(t *testing.T) {
	t.Parallel()
	for _, c := range []Codec{JSON{}, CBOR{}} {
		for _, data := range [][]byte{nil, {}} {
			if err := DecodeParams(c, data, new(rpc.None)); err != nil {
				t.Errorf("%s: a method without params: %v", c.ContentType(), err)
			}
			for _, v := range []any{new(basket), new(int), new(any), new(*basket), new([]int)} {
				e := invalid(t, c.ContentType(), DecodeParams(c, data, v))
				if !strings.Contains(e.Message, "no params") || !strings.Contains(e.Message, c.ContentType()) {
					t.Errorf("into %T: %q", v, e.Message)
				}
			}
		}
	}
}

func TestNoneAsParams(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		codec Codec
		data  string
		ok    bool
	}{
		{JSON{}, "null", true}, {JSON{}, "{}", true}, {JSON{}, " {} ", true}, {JSON{}, "[]", false}, {JSON{}, "1", false},
		{CBOR{}, "\xf6", true}, {CBOR{}, "\xa0", true}, {CBOR{}, "\x01", false},
	} {
		err := DecodeParams(test.codec, []byte(test.data), new(rpc.None))
		if (err == nil) != test.ok {
			t.Errorf("%s %q: %v", test.codec.ContentType(), test.data, err)
		}
		if err != nil {
			invalid(t, test.data, err)
		}
	}
	for _, c := range []Codec{JSON{}, CBOR{}} {
		data, err := c.Marshal(rpc.None{})
		if err != nil {
			t.Fatal(err)
		}
		if err := DecodeParams(c, data, new(rpc.None)); err != nil {
			t.Errorf("%s: its own %q: %v", c.ContentType(), data, err)
		}
	}
}

// A type that reads itself may say what is wrong in its own words.
type picky struct{}

func (*picky) UnmarshalJSON([]byte) error { return rpc.OutOfRange.Errorf("no such page") }

func TestParamsWithTheirOwnError(t *testing.T) {
	t.Parallel()
	err := DecodeParams(JSON{}, []byte(`{"a":1}`), new(picky))
	if rpc.CodeOf(err) != rpc.OutOfRange || err.Error() != "out_of_range: no such page" {
		t.Errorf("err = %v", err)
	}
}

// What costs a sender nothing must not cost the reader much.
func TestBombs(t *testing.T) {
	t.Parallel()
	const size = 10 << 20
	targets := map[string]func() any{
		"a struct": func() any { return new(basket) },
		"anything": func() any { return new(any) },
		"nothing":  func() any { return new(rpc.None) },
		"raw":      func() any { return new(json.RawMessage) },
	}
	for _, bomb := range []struct {
		what  string
		codec Codec
		data  []byte
	}{
		{"arrays that do not close", JSON{}, bytes.Repeat([]byte("["), size)},
		{"arrays that close", JSON{}, append(bytes.Repeat([]byte("["), size/2), bytes.Repeat([]byte("]"), size/2)...)},
		{"objects", JSON{}, bytes.Repeat([]byte(`{"a":`), size/5)},
		{"arrays in a field", JSON{}, append([]byte(`{"owner":`), bytes.Repeat([]byte("["), size)...)},
		{"CBOR arrays", CBOR{}, bytes.Repeat([]byte{0x81}, size)},
		{"CBOR arrays without a length", CBOR{}, bytes.Repeat([]byte{0x9f}, size)},
		{"CBOR maps", CBOR{}, bytes.Repeat([]byte{0xa1, 0x01}, size/2)},
		{"CBOR tags", CBOR{}, bytes.Repeat([]byte{0xc1}, size)},
		{"too many CBOR elements", CBOR{}, append([]byte{0x9a, 0x00, 0x10, 0x00, 0x01}, bytes.Repeat([]byte{0x00}, 1<<20+1)...)},
	} {
		t.Run(bomb.what, func(t *testing.T) {
			t.Parallel()
			for what, target := range targets {
				began := time.Now()
				err := DecodeParams(bomb.codec, bomb.data, target())
				invalid(t, what, err)
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("into %s: %v", what, took)
				}
			}
		})
	}
}

func TestCBORNestingBound(t *testing.T) {
	t.Parallel()
	nested := func(levels int) []byte { return append(bytes.Repeat([]byte{0x81}, levels), 0x00) }
	if err := DecodeParams(CBOR{}, nested(128), new(any)); err != nil {
		t.Errorf("128 levels: %v", err)
	}
	invalid(t, "129 levels", DecodeParams(CBOR{}, nested(129), new(any)))
}

// What a codec read has nothing of the message's bytes in it.
func TestCodecsKeepNothing(t *testing.T) {
	t.Parallel()
	type all struct {
		Text string
		Raw  []byte
		Any  any
	}
	for _, c := range []Codec{JSON{}, CBOR{}} {
		want := all{"text", []byte("raw"), "any"}
		data, err := c.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got all
		if err := c.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		for i := range data {
			data[i] = '#'
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v changed with the payload", c.ContentType(), got)
		}
	}
}

func TestCBORRoundTrip(t *testing.T) {
	t.Parallel()
	want := basket{
		Owner: "größer 世界\x00", Main: line{Qty: math.MinInt64, Rate: math.Inf(1)},
		Lines: []line{}, Named: map[string]line{"": {Qty: math.MaxInt64}}, Raw: []byte{0, 1, 255}, Next: &basket{},
	}
	data, err := CBOR{}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got basket
	if err := (CBOR{}).Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	var fields map[string]any
	if err := (CBOR{}).Unmarshal(data, &fields); err != nil || fields["owner"] != want.Owner {
		t.Errorf("fields are not named by their json tags: %v, %v", fields, err)
	}
}

func TestEncodeParamsFails(t *testing.T) {
	t.Parallel()
	call := &rpc.Call{Service: "orders", Method: "place", Params: math.NaN()}
	_, err := EncodeParams(JSON{}, call)
	e := invalid(t, "NaN", err)
	if !strings.Contains(e.Message, "orders.place") || !strings.Contains(e.Message, "application/json") {
		t.Errorf("message %q", e.Message)
	}
	if _, ok := errors.AsType[*json.UnsupportedValueError](err); !ok {
		t.Errorf("the cause of %v is out of reach", err)
	}
}

func TestEncodeResultFails(t *testing.T) {
	t.Parallel()
	call := &rpc.Call{Service: "orders", Method: "place"}
	_, err := EncodeResult(JSON{}, call, make(chan int), 1<<20)
	if err == nil || err.Code != rpc.Internal || !strings.Contains(err.Message, "orders.place") {
		t.Errorf("err = %v", err)
	}
}

// A result is refused exactly when the message with it would be too large.
func TestEncodeResultLimit(t *testing.T) {
	t.Parallel()
	call := &rpc.Call{Service: "orders", Method: "place"}
	result := strings.Repeat("x", 1000)
	for _, c := range []Codec{JSON{}, CBOR{}} {
		payload, err := c.Marshal(result)
		if err != nil {
			t.Fatal(err)
		}
		msg := &nats.Msg{Data: payload}
		if c != (JSON{}) {
			msg.Header = nats.Header{HeaderContentType: {c.ContentType()}}
		}
		exact := int64(msg.Size())
		if got, err := EncodeResult(c, call, result, exact); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%s: exactly the limit: %v", c.ContentType(), err)
		}
		_, tooLarge := EncodeResult(c, call, result, exact-1)
		if tooLarge == nil || tooLarge.Code != rpc.ResourceExhausted || !strings.Contains(tooLarge.Message, "result of orders.place") {
			t.Errorf("%s: one byte too many: %v", c.ContentType(), tooLarge)
		}
	}
}

// shout is a codec of the user's.
type shout struct{ JSON }

func (shout) ContentType() string { return "text/shout" }

func TestCodecByContentType(t *testing.T) {
	t.Parallel()
	b := &Bus{cfg: Config{Codecs: []Codec{shout{}}}}
	for contentType, want := range map[string]Codec{
		"": JSON{}, "application/json": JSON{}, "application/json; charset=utf-8": JSON{}, " application/json ": JSON{},
		"application/cbor": CBOR{}, "application/cbor;x=y": CBOR{}, "text/shout": shout{}, "text/shout;loud=yes": shout{},
		"application/xml": nil, "json": nil, "text": nil, "application/json,application/cbor": nil, "\xff": nil,
	} {
		if got, ok := b.Codec(contentType); got != want || ok != (want != nil) {
			t.Errorf("%q is %T, %t; want %T", contentType, got, ok, want)
		}
	}
}

func FuzzDecodeParams(f *testing.F) {
	f.Add(false, []byte(`{"owner":"x","lines":[{"qty":1}],"next":{"open":true}}`))
	f.Add(false, []byte(`{"lines":[{"qty":"x"}]}`))
	f.Add(false, []byte("{\"owner\":\"\xff\"}"))
	f.Add(true, []byte{0xa1, 0x65, 'o', 'w', 'n', 'e', 'r', 0x61, 'x'})
	f.Add(true, []byte{0x9f, 0x9f, 0xff, 0xff})
	f.Add(true, []byte(nil))
	f.Fuzz(func(t *testing.T, binary bool, data []byte) {
		var c Codec = JSON{}
		if binary {
			c = CBOR{}
		}
		for _, v := range []any{new(basket), new(any), new(rpc.None), new([]int), new(map[int]string), new(time.Time)} {
			if err := DecodeParams(c, data, v); err != nil {
				e := invalid(t, string(data), err)
				if got := DecodeError(EncodeError("_INBOX.x", e, 1<<20)); got.Message != e.Message {
					t.Fatalf("%q became %q on the way", e.Message, got.Message)
				}
			}
		}
	})
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 0, ""}, {"abc", 3, "abc"}, {"abcd", 3, "abc…"}, {"aüb", 2, "a…"}, {"aüb", 3, "aü…"}, {"€€", 4, "€…"}, {"€", 1, "…"},
	} {
		if got := Cut(test.text, test.limit); got != test.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", test.text, test.limit, got, test.want)
		}
	}
}
