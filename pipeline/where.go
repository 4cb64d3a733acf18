package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"

	"rpc.do/bus"
)

// Condition is something that a field of an event's data must meet, see Where.
type Condition struct {
	text string
	met  func(value any, there bool) bool
}

// String returns the condition as it is written in Go.
func (c Condition) String() string { return c.text }

// Where has the handler get only events whose data have a field that meets all of
// the conditions; the others are done. The field is named by its
// path, such as "customer.country". Without a condition it must be there. Several
// Where must all hold.
//
// Unlike Filter it looks at what was sent, not at the handler's type, so it works
// for fields that the type does not have. It panics when the path is malformed.
func Where(path string, conditions ...Condition) HandlerOption {
	fields := strings.Split(path, ".")
	for _, field := range fields {
		if field == "" {
			panic(fmt.Sprintf("pipeline: Where(%q): a field between dots is empty", path))
		}
	}
	if len(conditions) == 0 {
		conditions = []Condition{Exists()}
	}
	return func(c *handlerConfig) {
		c.keep = append(c.keep, func(d *delivery) (bool, error) {
			data, err := asJSON(d)
			if err != nil {
				return false, &unreadable{err}
			}
			value, there := field(data, fields)
			for _, condition := range conditions {
				if !condition.met(value, there) {
					return false, nil
				}
			}
			return true, nil
		})
	}
}

// unreadable is the error of data that can't be looked at.
type unreadable struct{ error }

// asJSON returns the data of an event as JSON.
func asJSON(d *delivery) ([]byte, error) {
	codec := codecOf(d.src.h.workers.bus, d.meta.ContentType)
	switch codec.(type) {
	case nil:
		return nil, fmt.Errorf("its content type %.80q is not known here", d.meta.ContentType)
	case bus.JSON:
		return d.data, nil
	}
	var value any
	if err := codec.Unmarshal(d.data, &value); err != nil {
		return nil, fmt.Errorf("its data can't be read: %w", err)
	}
	return json.Marshal(textKeys(value))
}

// textKeys makes maps, as codecs read them whose keys can be anything, those of
// JSON.
func textKeys(value any) any {
	switch v := value.(type) {
	case map[any]any:
		object := make(map[string]any, len(v))
		for key, value := range v {
			object[fmt.Sprint(key)] = textKeys(value)
		}
		return object
	case map[string]any:
		for key, value := range v {
			v[key] = textKeys(value)
		}
	case []any:
		for i, value := range v {
			v[i] = textKeys(value)
		}
	}
	return value
}

// field returns a field of a JSON document. Numbers come as json.Number.
func field(data []byte, path []string) (value any, there bool) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if dec.Decode(&value) != nil {
		return nil, false
	}
	for _, name := range path {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, there = object[name]; !there {
			return nil, false
		}
	}
	return value, true
}

// Exists is met by a field that is there, whatever its value, null included.
func Exists() Condition {
	return Condition{"Exists()", func(_ any, there bool) bool { return there }}
}

// Is is met by a field that has one of these values: texts, numbers, true, false
// or nil for null.
func Is(values ...any) Condition {
	wanted := make([]any, len(values))
	for i, v := range values {
		data, err := json.Marshal(v)
		if err != nil {
			panic(fmt.Sprintf("pipeline: Is(%v): %v", v, err))
		}
		wanted[i], _ = field([]byte(`{"v":`+string(data)+`}`), []string{"v"})
		switch wanted[i].(type) {
		case map[string]any, []any:
			panic(fmt.Sprintf("pipeline: Is(%v): want a text, a number, true, false or nil", v))
		}
	}
	return Condition{fmt.Sprintf("Is(%v)", values), func(value any, there bool) bool {
		for _, want := range wanted {
			if there && equal(value, want) {
				return true
			}
		}
		return false
	}}
}

func equal(a, b any) bool {
	x, ok := number(a)
	y, ok2 := number(b)
	if ok && ok2 {
		return x.Cmp(y) == 0
	}
	switch a.(type) {
	case map[string]any, []any:
		return false
	}
	return ok == ok2 && a == b
}

// number returns the exact value of a number.
func number(v any) (*big.Rat, bool) {
	n, ok := v.(json.Number)
	if !ok || len(n) > 64 { // what is longer is no number that anybody compares with
		return nil, false
	}
	if _, exponent, has := strings.Cut(strings.ToLower(n.String()), "e"); has && len(exponent) > 4 {
		return nil, false
	}
	return new(big.Rat).SetString(n.String())
}

// HasPrefix is met by a text that begins with one of these.
func HasPrefix(prefixes ...string) Condition {
	return Condition{fmt.Sprintf("HasPrefix(%q)", prefixes), func(value any, _ bool) bool {
		text, ok := value.(string)
		for _, prefix := range prefixes {
			if ok && strings.HasPrefix(text, prefix) {
				return true
			}
		}
		return false
	}}
}

// AtLeast is met by a number that is n or more.
func AtLeast(n float64) Condition {
	return compared("AtLeast", n, func(sign int) bool { return sign >= 0 })
}

// AtMost is met by a number that is n or less.
func AtMost(n float64) Condition {
	return compared("AtMost", n, func(sign int) bool { return sign <= 0 })
}

func compared(name string, n float64, met func(sign int) bool) Condition {
	limit := new(big.Rat).SetFloat64(n)
	if limit == nil {
		panic(fmt.Sprintf("pipeline: %s(%v): want a finite number", name, n))
	}
	return Condition{fmt.Sprintf("%s(%v)", name, n), func(value any, _ bool) bool {
		x, ok := number(value)
		return ok && met(x.Cmp(limit))
	}}
}

// Not is met by what the condition is not met by, a field that is not there
// included.
func Not(c Condition) Condition {
	return Condition{"Not(" + c.text + ")", func(value any, there bool) bool { return !c.met(value, there) }}
}
