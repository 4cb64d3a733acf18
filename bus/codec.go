package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
	"github.com/nats-io/nats.go"

	"rpc.do"
)

// Codec writes values as payloads and reads them back. It is used by many
// goroutines at once.
type Codec interface {
	// ContentType is the codec's name on the wire, without parameters.
	ContentType() string
	Marshal(v any) ([]byte, error)
	// Unmarshal reads the whole of data into the value that v points to and
	// keeps no reference to data.
	Unmarshal(data []byte, v any) error
}

// JSON is the default codec. It refuses text that is not UTF-8.
type JSON struct{}

// ContentType returns "application/json".
func (JSON) ContentType() string { return "application/json" }

// Marshal writes v as encoding/json does.
func (JSON) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

// Unmarshal reads data as encoding/json does.
func (JSON) Unmarshal(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	return json.Unmarshal(data, v)
}

var errNotUTF8 = errors.New("not valid UTF-8")

// CBOR is a binary codec (RFC 8949). Struct fields are named by their json tags.
type CBOR struct{}

// Bounds on what a CBOR payload may make a reader do.
var cborDecoder = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		MaxNestedLevels:  128,
		MaxArrayElements: 1 << 20,
		MaxMapPairs:      1 << 20,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return mode
}()

// ContentType returns "application/cbor".
func (CBOR) ContentType() string { return "application/cbor" }

// Marshal writes v as CBOR.
func (CBOR) Marshal(v any) ([]byte, error) { return cbor.Marshal(v) }

// Unmarshal reads data as CBOR.
func (CBOR) Unmarshal(data []byte, v any) error { return cborDecoder.Unmarshal(data, v) }

// Codec returns the codec for a content type; empty is JSON.
func (b *Bus) Codec(contentType string) (Codec, bool) {
	contentType, _, _ = strings.Cut(contentType, ";")
	contentType = strings.TrimSpace(contentType)
	switch contentType {
	case "", "application/json":
		return JSON{}, true
	case "application/cbor":
		return CBOR{}, true
	}
	for _, c := range b.cfg.Codecs {
		if c.ContentType() == contentType {
			return c, true
		}
	}
	return nil, false
}

// EncodeParams writes the params of a call.
func EncodeParams(c Codec, call *rpc.Call) ([]byte, error) {
	payload, err := c.Marshal(call.Params)
	if err != nil {
		return nil, rpc.InvalidArgument.Errorf("%s: the params can't be encoded as %s: %w", call.Name(), c.ContentType(), err)
	}
	return payload, nil
}

// unsaid is a cause that is for the log and not for the message.
type unsaid struct{ error }

func (unsaid) Error() string   { return "" }
func (u unsaid) Unwrap() error { return u.error }

// EncodeResult writes the result of a call, in at most limit bytes. Why it could
// not be encoded is in the error's chain, not in its message.
func EncodeResult(c Codec, call *rpc.Call, result any, limit int64) ([]byte, *rpc.Error) {
	payload, err := c.Marshal(result)
	if err != nil {
		return nil, rpc.Internal.Errorf("%s: the result can't be encoded as %s%w", call.Name(), c.ContentType(), unsaid{err})
	}
	size := int64(len(payload))
	if _, json := c.(JSON); !json { // the answer names its codec
		size += headerSize(nats.Header{HeaderContentType: {c.ContentType()}})
	}
	if size > limit {
		return nil, tooLarge("result", call, size, limit)
	}
	return payload, nil
}

// DecodeParams reads the params of a call into the value v points to. The error
// is an InvalidArgument that names the field and what was expected there.
func DecodeParams(c Codec, data []byte, v any) error {
	if len(data) == 0 {
		if _, none := v.(*rpc.None); none {
			return nil
		}
		return rpc.InvalidArgument.Errorf("the request has no params: send them as %s", c.ContentType())
	}
	if err := c.Unmarshal(data, v); err != nil {
		return invalidParams(err, reflect.TypeOf(v).Elem())
	}
	if len(data) == len("null") && string(data) == "null" {
		return checkNull(v)
	}
	return nil
}

// checkNull refuses null for params that have no such value: encoding/json
// would take it for a value that was left out.
func checkNull(v any) error {
	switch v.(type) {
	case *rpc.None, json.Unmarshaler:
		return nil
	}
	switch t := reflect.TypeOf(v).Elem(); t.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Slice, reflect.Map:
		return nil
	default:
		return wrongType("", typeName(t), "null")
	}
}

func invalidParams(err error, params reflect.Type) *rpc.Error {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e
	}
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		// Behind the kind of a number comes the number itself.
		kind, _, _ := strings.Cut(te.Value, " ")
		return wrongType(te.Field, typeName(te.Type), kind)
	}
	if te, ok := errors.AsType[*cbor.UnmarshalTypeError](err); ok {
		// The library names the field of the outermost struct, after its Go type.
		field := strings.TrimPrefix(te.StructFieldName, params.String()+".")
		return wrongType(field, te.GoType, "CBOR "+te.CBORType)
	}
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return rpc.InvalidArgument.Errorf("params: malformed JSON at byte %d: %s", se.Offset, se.Error())
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return rpc.InvalidArgument.Errorf("params: malformed: they end too early")
	}
	return rpc.InvalidArgument.Errorf("params: can't be read as %s: %s", typeName(params), Bounded(err.Error()))
}

// wrongType is the error for a field that holds something else than expected.
// It says what kind of value that is, not which: the error is logged, and params
// may be secret.
func wrongType(field, expected, got string) *rpc.Error {
	where := "params"
	if field != "" {
		where += "." + field
	}
	return rpc.InvalidArgument.Errorf("%s: want %s, got %s", where, expected, got).
		WithDetail(rpc.FieldViolation{Field: field, Expected: expected, Got: got})
}

// typeName says what a Go type looks like in a payload.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number (%s)", t.Kind())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 (%s)", t.Kind())
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Pointer:
		return typeName(t.Elem())
	default:
		return t.String()
	}
}

// Cut bounds text to limit bytes, without breaking a character; three dots say that
// there was more.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && text[limit]&0xc0 == 0x80 {
		limit--
	}
	return text[:limit] + "…"
}

// Bounded cuts text from outside to what a log line or an error may hold of it,
// about 200 bytes, without breaking a character.
func Bounded(text string) string {
	const limit = 200
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
