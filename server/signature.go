package server

import (
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"rpc.do"
)

// signature is what a method of a class takes and returns.
type signature struct {
	name         string // of the method, for errors
	takesContext bool
	params       []reflect.Type
	result       reflect.Type // rpc.None when there is none
	hasResult    bool
	hasError     bool

	checks []func(pointer reflect.Value) error // of the params, nil where there is nothing to check
}

// parseSignature reads the type of a method expression; problem, if any, goes
// on from the method's name.
func parseSignature(fn reflect.Type) (sig *signature, problem string) {
	if fn.IsVariadic() {
		return nil, "is variadic"
	}
	sig = &signature{result: reflect.TypeFor[rpc.None]()}
	for i := 1; i < fn.NumIn(); i++ { // 0 is the receiver
		t := fn.In(i)
		if t == reflect.TypeFor[context.Context]() {
			if i > 1 {
				return nil, "takes a context.Context that is not its first param"
			}
			sig.takesContext = true
			continue
		}
		if why := unfit(t, reading); why != "" {
			return nil, fmt.Sprintf("takes a %s that can't be sent: %s", t, why)
		}
		sig.params = append(sig.params, t)
		sig.checks = append(sig.checks, checkOf(t))
	}
	return sig, sig.parseResults(fn)
}

func (sig *signature) parseResults(fn reflect.Type) (problem string) {
	var results []reflect.Type
	for i := range fn.NumOut() {
		results = append(results, fn.Out(i))
	}
	if len(results) > 2 {
		return fmt.Sprintf("returns %d results", len(results))
	}
	errorType := reflect.TypeFor[error]()
	if n := len(results); n > 0 && results[n-1] == errorType {
		sig.hasError = true
		results = results[:n-1]
	}
	switch {
	case len(results) == 0:
		return ""
	case len(results) == 2:
		return fmt.Sprintf("returns a %s where an error is wanted", results[1])
	case results[0].Implements(errorType):
		return fmt.Sprintf("returns a %s as its result: an error is returned last, as error", results[0])
	}
	if why := unfit(results[0], writing); why != "" {
		return fmt.Sprintf("returns a %s that can't be sent: %s", results[0], why)
	}
	sig.result, sig.hasResult = results[0], true
	return ""
}

// deliver hands over what the method returned.
func (sig *signature) deliver(out []reflect.Value, result any) error {
	if sig.hasError {
		if err, _ := out[len(out)-1].Interface().(error); err != nil {
			return err
		}
	}
	if sig.hasResult {
		reflect.ValueOf(result).Elem().Set(out[0])
	}
	return nil
}

// checkOf returns the Validate of a param, given a pointer to the param.
func checkOf(t reflect.Type) func(reflect.Value) error {
	validator := reflect.TypeFor[Validator]()
	switch {
	case t.Kind() == reflect.Pointer && t.Implements(validator):
		return func(p reflect.Value) error {
			if p.Elem().IsNil() {
				return nil
			}
			return p.Elem().Interface().(Validator).Validate()
		}
	case t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(validator):
		return func(p reflect.Value) error { return p.Interface().(Validator).Validate() }
	}
	return nil
}

// direction says whether values of a type are read from payloads or written.
type direction int

const (
	reading direction = iota
	writing
)

// unfit says why encoding/json can't read or write values of t, "" when it can.
func unfit(t reflect.Type, d direction) string {
	return fitness{d, map[reflect.Type]bool{}}.problem(t)
}

type fitness struct {
	direction direction
	seen      map[reflect.Type]bool
}

func (f fitness) problem(t reflect.Type) string {
	if f.seen[t] {
		return ""
	}
	f.seen[t] = true
	if t.Kind() != reflect.Interface && f.encodesItself(t) {
		return ""
	}
	switch t.Kind() {
	case reflect.Func, reflect.Chan, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return fmt.Sprintf("%s has no form in JSON", t)
	case reflect.Interface:
		if f.direction == reading && t.NumMethod() > 0 {
			return fmt.Sprintf("nothing says which %s to make", t)
		}
		return ""
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return f.problem(t.Elem())
	case reflect.Map:
		if !f.fitKey(t.Key()) {
			return fmt.Sprintf("%s can't be a key in JSON", t.Key())
		}
		return f.problem(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			field := t.Field(i)
			if field.Tag.Get("json") == "-" || !field.IsExported() && !field.Anonymous {
				continue
			}
			if why := f.problem(field.Type); why != "" {
				return fmt.Sprintf("%s.%s: %s", t, field.Name, why)
			}
		}
	}
	return ""
}

func (f fitness) encodesItself(t reflect.Type) bool {
	if f.direction == reading {
		return implements[json.Unmarshaler](t) || implements[encoding.TextUnmarshaler](t)
	}
	return implements[json.Marshaler](t) || implements[encoding.TextMarshaler](t)
}

func (f fitness) fitKey(t reflect.Type) bool {
	switch k := t.Kind(); {
	case k == reflect.String, reflect.Int <= k && k <= reflect.Uintptr:
		return true
	case f.direction == reading:
		return implements[encoding.TextUnmarshaler](t)
	default:
		return t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
	}
}

// kinds says what the params look like in a payload, as "number, string".
func (sig *signature) kinds() string {
	names := make([]string, len(sig.params))
	for i, t := range sig.params {
		names[i] = kindName(t)
	}
	return strings.Join(names, ", ")
}

func kindName(t reflect.Type) string {
	for t.Kind() == reflect.Pointer && t.Name() == "" {
		t = t.Elem()
	}
	switch k := t.Kind(); {
	case t.Kind() == reflect.Interface:
		return "any value"
	case implements[json.Unmarshaler](t):
		return t.String()
	case implements[encoding.TextUnmarshaler](t), k == reflect.String,
		k == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return "string"
	case reflect.Int <= k && k <= reflect.Uintptr:
		return "whole number"
	case k == reflect.Float32, k == reflect.Float64:
		return "number"
	case k == reflect.Bool:
		return "true or false"
	case k == reflect.Slice, k == reflect.Array:
		return "array"
	default:
		return "object"
	}
}
