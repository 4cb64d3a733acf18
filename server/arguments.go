package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"rpc.do"
	"rpc.do/bus"
)

// Arguments are the params of a call of a method that was registered with
// Register, as its interceptors see them in Call.Params. As JSON they are what
// the payload of the call is.
type Arguments struct {
	sig      *signature
	pointers []reflect.Value // to the arguments
	decoded  bool
}

func newArguments(sig *signature) *Arguments {
	a := &Arguments{sig: sig, pointers: make([]reflect.Value, len(sig.params))}
	for i, t := range sig.params {
		a.pointers[i] = reflect.New(t)
	}
	return a
}

// Len returns how many params the method has, apart from its context.
func (a *Arguments) Len() int { return len(a.pointers) }

// Pointer returns a pointer to argument i, from 0, through which it can be
// changed.
func (a *Arguments) Pointer(i int) any { return a.pointers[i].Interface() }

// MarshalJSON writes the value of the only argument, or an array of them.
func (a *Arguments) MarshalJSON() ([]byte, error) {
	if len(a.pointers) == 1 {
		return json.Marshal(a.Pointer(0))
	}
	all := make([]any, len(a.pointers))
	for i := range all {
		all[i] = a.Pointer(i)
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads the payload of a call. The error is an InvalidArgument
// that tells the argument and what was expected there.
func (a *Arguments) UnmarshalJSON(data []byte) error { return a.decode(bus.JSON{}, data) }

// UnmarshalCBOR does for CBOR what UnmarshalJSON does for JSON.
func (a *Arguments) UnmarshalCBOR(data []byte) error { return a.decode(bus.CBOR{}, data) }

func (a *Arguments) decode(codec bus.Codec, data []byte) error {
	a.decoded = true
	if len(a.pointers) > 1 {
		return a.decodeList(codec, data)
	}
	err := bus.DecodeParams(codec, data, a.Pointer(0))
	if err == nil || isList(a.sig.params[0]) {
		return err
	}
	if _, list := countElements(codec, data); !list {
		return err
	}
	a.pointers[0].Elem().SetZero() // may be filled in part
	return a.decodeList(codec, data)
}

func isList(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Slice || t.Kind() == reflect.Array
}

// decodeList reads the arguments from an array of exactly as many elements.
func (a *Arguments) decodeList(codec bus.Codec, data []byte) error {
	// An array of Go has room for one too many and for no more, however long
	// the payload's is.
	room := reflect.New(reflect.ArrayOf(len(a.pointers)+1, reflect.TypeFor[element]()))
	if err := codec.Unmarshal(data, room.Interface()); err != nil {
		return a.sig.wrongCount(codec, data)
	}
	elements := room.Elem().Slice(0, len(a.pointers)+1).Interface().([]element)
	if elements[len(a.pointers)-1] == nil || elements[len(a.pointers)] != nil {
		return a.sig.wrongCount(codec, data)
	}
	for i, p := range a.pointers {
		if err := bus.DecodeParams(codec, elements[i], p.Interface()); err != nil {
			return argumentError(i, err)
		}
	}
	return nil
}

// element is an argument that has not been decoded yet, in any codec.
type element []byte

func (e *element) UnmarshalJSON(data []byte) error { return e.UnmarshalCBOR(data) }

func (e *element) UnmarshalCBOR(data []byte) error {
	*e = append((*e)[:0], data...)
	return nil
}

// countElements returns the length of an array; false when data is none.
func countElements(codec bus.Codec, data []byte) (int, bool) {
	var all []skipped
	err := codec.Unmarshal(data, &all)
	return len(all), err == nil && all != nil
}

// skipped is an element that takes no room.
type skipped struct{}

func (*skipped) UnmarshalJSON([]byte) error { return nil }
func (*skipped) UnmarshalCBOR([]byte) error { return nil }

// wrongCount is the error for a payload that is not an array of the right
// length.
func (sig *signature) wrongCount(codec bus.Codec, data []byte) error {
	got := "no array"
	if n, list := countElements(codec, data); list {
		got = fmt.Sprint(n)
	}
	want := fmt.Sprintf("an array of %d arguments (%s)", len(sig.params), sig.kinds())
	if len(sig.params) == 1 {
		want = fmt.Sprintf("1 argument (%s)", sig.kinds())
	}
	return rpc.InvalidArgument.Errorf("%s: want %s, got %s", sig.name, want, got).
		WithDetail(rpc.FieldViolation{Expected: want, Got: got})
}

// argumentError says which argument an error of bus.DecodeParams is about.
func argumentError(i int, err error) error {
	e, ok := errors.AsType[*rpc.Error](err)
	if !ok {
		return rpc.InvalidArgument.Errorf("argument %d: %w", i+1, err)
	}
	text, ours := strings.CutPrefix(e.Message, "params")
	if !ours {
		text = ": " + e.Message
	}
	about := *e
	about.Message = fmt.Sprintf("argument %d%s", i+1, text)
	if v, ok := rpc.DetailOf[rpc.FieldViolation](e); ours && ok {
		about.Details = nil
		path := fmt.Sprintf("[%d]", i)
		if v.Field != "" {
			path += "." + v.Field
		}
		v.Field = path
		return about.WithDetail(v)
	}
	return &about
}

// check runs the Validate of each argument that has one.
func (a *Arguments) check() error {
	if !a.decoded {
		return rpc.InvalidArgument.Errorf("%s: its params can be sent as %s or %s only",
			a.sig.name, bus.JSON{}.ContentType(), bus.CBOR{}.ContentType())
	}
	for i, check := range a.sig.checks {
		if check == nil {
			continue
		}
		if err := check(a.pointers[i]); err != nil {
			if _, coded := errors.AsType[*rpc.Error](err); coded || len(a.pointers) == 1 {
				return err
			}
			return fmt.Errorf("argument %d: %w", i+1, err)
		}
	}
	return nil
}

// schemaText describes the payload of a call.
func (a *Arguments) schemaText() string {
	if len(a.sig.params) == 1 {
		return schemaText(schemaOf(a.sig.params[0]))
	}
	s := &jsonschema.Schema{
		Type:     "array",
		MinItems: jsonschema.Ptr(len(a.sig.params)), MaxItems: jsonschema.Ptr(len(a.sig.params)),
	}
	for _, t := range a.sig.params {
		s.PrefixItems = append(s.PrefixItems, schemaOf(t))
	}
	return schemaText(s)
}
