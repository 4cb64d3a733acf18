package server

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"rpc.do"
)

// Bounds on the schema of one type. Types that are used in many places are
// written out in each, so a few lines of Go can make a schema of any size.
const (
	maxSchemaNodes = 2_000
	maxSchemaBytes = 32 << 10
)

// anything is the schema that every value satisfies.
const anything = "{}"

// schemaText returns the JSON Schema of s for people and tools to read.
func schemaText(s *jsonschema.Schema) string {
	text, err := json.Marshal(s)
	if err != nil || len(text) > maxSchemaBytes || string(text) == "true" {
		return anything
	}
	return string(text)
}

// schemaOf returns the JSON Schema of what encoding/json reads and writes for a
// type. Where the Go type does not tell, the schema allows anything: for types
// with an encoding of their own, recursive types, funcs and channels, and types
// of more than maxSchemaNodes parts. It allows fields that the type does not
// have, because readers ignore them.
func schemaOf(t reflect.Type) (s *jsonschema.Schema) {
	defer func() {
		if recover() != nil { // a type that the library did not foresee
			s = new(jsonschema.Schema)
		}
	}()
	g := &schemaGuide{known: map[reflect.Type]*jsonschema.Schema{}, open: map[reflect.Type]bool{}, left: maxSchemaNodes}
	if !g.visit(t) {
		return new(jsonschema.Schema)
	}
	s, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: g.known})
	if err != nil || s == nil {
		return new(jsonschema.Schema)
	}
	loosen(s)
	return s
}

// schemaGuide walks through a type as the library will, and collects the types
// whose schema the library would get wrong or could not end.
type schemaGuide struct {
	known map[reflect.Type]*jsonschema.Schema
	open  map[reflect.Type]bool // named types that the walk is inside of
	left  int
}

// visit reports false when the type can't be described.
func (g *schemaGuide) visit(t reflect.Type) bool {
	g.left--
	if g.left < 0 {
		return false
	}
	if g.known[t] != nil {
		return true
	}
	if s := fixedSchema(t); s != nil {
		g.known[t] = s
		return true
	}
	if t.Name() != "" {
		if g.open[t] {
			g.known[t] = unknown()
			return t.Kind() != reflect.Pointer // the library follows pointers without end
		}
		g.open[t] = true
		defer delete(g.open, t)
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return g.visit(t.Elem())
	case reflect.Map:
		if k := t.Key().Kind(); k != reflect.String && reflect.Int <= k && k <= reflect.Uintptr {
			g.known[t] = &jsonschema.Schema{Types: []string{"null", "object"}} // numbers as text
			return true
		}
		return g.visit(t.Elem())
	case reflect.Struct:
		return g.visitFields(t)
	default:
		return true
	}
}

func (g *schemaGuide) visitFields(t reflect.Type) bool {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" && options == "" || !f.IsExported() && !f.Anonymous {
			continue
		}
		if oddField(f, name, options) {
			g.known[t] = unknown()
			return true
		}
		if !g.visit(f.Type) {
			return false
		}
	}
	return true
}

// oddField reports whether encoding/json treats a field in a way that the
// library does not follow.
func oddField(f reflect.StructField, name, options string) bool {
	for option := range strings.SplitSeq(options, ",") {
		if option == "string" {
			return true
		}
	}
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return f.Anonymous && (name != "" || t.Kind() != reflect.Struct)
}

// fixedSchema returns the schema of a type whose JSON does not follow from its
// parts, nil for all others.
func fixedSchema(t reflect.Type) *jsonschema.Schema {
	switch {
	case t == reflect.TypeFor[rpc.None]():
		return &jsonschema.Schema{Type: "null"}
	case t == reflect.TypeFor[time.Time]():
		return &jsonschema.Schema{Type: "string", Format: "date-time"}
	case t == reflect.TypeFor[json.Number]():
		return &jsonschema.Schema{Type: "number"}
	case t.Kind() == reflect.Interface || t.Kind() == reflect.Pointer:
		return nil // a pointer has the schema of what it points to
	case implements[json.Marshaler](t) || implements[json.Unmarshaler](t):
		return unknown()
	case implements[encoding.TextMarshaler](t) || implements[encoding.TextUnmarshaler](t):
		return &jsonschema.Schema{Type: "string"}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 &&
		!implements[json.Marshaler](t.Elem()) && !implements[encoding.TextMarshaler](t.Elem()):
		return &jsonschema.Schema{Types: []string{"null", "string"}, ContentEncoding: "base64"}
	}
	return nil
}

// implements reports whether a T or a *T is an I.
func implements[I any](t reflect.Type) bool {
	i := reflect.TypeFor[I]()
	return t.Implements(i) || reflect.PointerTo(t).Implements(i)
}

// unknown returns a schema that allows anything, spelt out: an empty one would,
// behind a pointer, come to allow null alone. See loosen.
func unknown() *jsonschema.Schema {
	return &jsonschema.Schema{Types: []string{"null", "boolean", "number", "string", "array", "object"}}
}

// loosen empties the schemas made by unknown and takes "no other properties"
// out of all others.
func loosen(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if len(s.Types) == len(unknown().Types) {
		s.Types = nil
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Not != nil { // "false"
		s.AdditionalProperties = nil
	}
	for _, p := range s.Properties {
		loosen(p)
	}
	loosen(s.Items)
	loosen(s.AdditionalProperties)
}
