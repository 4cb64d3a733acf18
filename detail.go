package rpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Detail is one typed value of an Error, as JSON.
type Detail struct {
	// Type names the value's type on the wire: "<package>.<Type>" of the Go
	// type, or what its RPCDetail method returns.
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
}

// DetailNamer is implemented by a detail's type that wants a wire name which
// does not depend on where the Go type lives.
type DetailNamer interface {
	RPCDetail() string
}

// NewDetail writes value as a detail. It fails when value can't be written as
// JSON.
func NewDetail(value any) (Detail, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return Detail{}, fmt.Errorf("rpc: detail %T: %w", value, err)
	}
	return Detail{Type: detailType(value), Value: data}, nil
}

// DetailOf returns the first detail of err that has type T; false when there
// is none or it does not decode.
func DetailOf[T any](err error) (T, bool) {
	var zero T
	e, ok := errors.AsType[*Error](err)
	if !ok || e == nil {
		return zero, false
	}
	name := detailType(zero)
	for _, d := range e.Details {
		if d.Type != name {
			continue
		}
		var value T // a fresh one: what does not decode may leave something behind
		if json.Unmarshal(d.Value, &value) == nil {
			return value, true
		}
	}
	return zero, false
}

// detailType names the type of value, which may be a nil pointer: a T and a *T
// have the same name, whichever of them has the method RPCDetail.
func detailType(value any) string {
	t := reflect.TypeOf(value)
	if t == nil {
		return "null"
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n, ok := reflect.New(t).Interface().(DetailNamer); ok {
		return n.RPCDetail()
	}
	return t.String()
}

// FieldViolation is the detail of an InvalidArgument error that is about one
// field of the params.
type FieldViolation struct {
	// Field is the path to the field, such as "items.qty"; empty for the whole.
	Field string `json:"field"`
	// Expected and Got say what the field should hold and what it held.
	Expected string `json:"expected,omitempty"`
	Got      string `json:"got,omitempty"`
}

// RPCDetail returns "rpc.FieldViolation".
func (FieldViolation) RPCDetail() string { return "rpc.FieldViolation" }
