package isolate

import (
	"reflect"
	"slices"
	"strings"
	"unsafe"
)

// A step copies one field of a struct, or several that lie side by side.
type step struct {
	offset uintptr
	// copy is nil where size bytes of plain memory are copied.
	copy copyFunc
	size uintptr
}

// structCopier returns the copier for a struct. Fields that encoding/json
// ignores get no step: they come back zero.
func (c compiler) structCopier(t reflect.Type) *copier {
	var (
		steps []step
		names []string
		base  = int64(pairSize)
		whole = true // nothing ignored, everything plain
		run   = false
	)
	for f := range t.Fields() {
		field, ok := parseField(f)
		if !ok || field.sharesName(names) {
			return nil
		}
		if field.ignored {
			whole, run = false, false
			continue
		}
		names = append(names, field.name)
		elem := c.fieldCopier(f.Type, field)
		if elem == nil {
			return nil
		}
		base += int64(len(field.name)) + pairSize + int64(len(":,")) + elem.base
		last := len(steps) - 1
		switch {
		case elem.plain && run:
			steps[last].size = f.Offset + elem.size - steps[last].offset
		case elem.plain:
			steps = append(steps, step{offset: f.Offset, size: elem.size})
		default:
			steps = append(steps, step{offset: f.Offset, copy: elem.copy})
			whole = false
		}
		run = elem.plain
	}
	if whole {
		return plainCopier(t, base)
	}
	return &copier{copy: copyStruct(steps), base: base}
}

func copyStruct(steps []step) copyFunc {
	return func(dst, src unsafe.Pointer, left int64) int64 {
		for i := range steps {
			s := &steps[i]
			to, from := unsafe.Add(dst, s.offset), unsafe.Add(src, s.offset)
			if s.copy == nil {
				copyMemory(to, from, s.size)
				continue
			}
			if left = s.copy(to, from, left); left < 0 {
				return left
			}
		}
		return left
	}
}

// A field is what encoding/json makes of a struct field.
type field struct {
	name      string
	ignored   bool
	omitEmpty bool
	omitZero  bool
}

// parseField reports false when it can't tell, or when nothing simple can be
// said of the field.
func parseField(f reflect.StructField) (field, bool) {
	tag := f.Tag.Get("json")
	if tag == "-" {
		return field{ignored: true}, true
	}
	if f.Anonymous {
		return field{}, false
	}
	if !f.IsExported() {
		return field{ignored: true}, true
	}
	name, options, _ := strings.Cut(tag, ",")
	out := field{name: name}
	if name == "" {
		out.name = f.Name
	} else if strings.ContainsFunc(name, unusual) {
		return field{}, false
	}
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "":
		case "omitempty":
			out.omitEmpty = true
		case "omitzero":
			out.omitZero = true
		default:
			return field{}, false
		}
	}
	return out, true
}

// unusual reports whether r is a character for which encoding/json might
// disregard a name, or escape it.
func unusual(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	default:
		return !strings.ContainsRune("_-./:$@", r)
	}
}

// sharesName reports whether the field's name is one of names but for upper and
// lower case, which decoding doesn't tell apart.
func (f field) sharesName(names []string) bool {
	return !f.ignored && slices.ContainsFunc(names, func(name string) bool {
		return strings.EqualFold(name, f.name)
	})
}

// fieldCopier returns the copier for a field of type t. A value that is omitted
// comes back zero, which needs care only where the value was not zero already.
func (c compiler) fieldCopier(t reflect.Type, f field) *copier {
	elem := c.compile(t)
	if elem == nil || f.omitZero && hasIsZero(t) {
		return nil
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Array:
		if f.omitZero {
			return nil // a struct that holds a negative zero is omitted
		}
	case reflect.Float32:
		if f.omitEmpty || f.omitZero {
			return elem.unless(isZeroFloat[float32])
		}
	case reflect.Float64:
		if f.omitEmpty || f.omitZero {
			return elem.unless(isZeroFloat[float64])
		}
	case reflect.Slice:
		if f.omitEmpty {
			return elem.unless(isEmptySlice)
		}
	case reflect.Map:
		if f.omitEmpty {
			return elem.unless(func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().Len() == 0 })
		}
	}
	return elem
}

// hasIsZero reports whether t or *t decides by a method what omitzero omits.
func hasIsZero(t reflect.Type) bool {
	isZeroer := reflect.TypeFor[interface{ IsZero() bool }]()
	return t.Implements(isZeroer) || reflect.PointerTo(t).Implements(isZeroer)
}

// unless returns a copier that leaves the value zero where omitted says so.
func (c *copier) unless(omitted func(unsafe.Pointer) bool) *copier {
	out, inner := *c, c.copy
	out.copy = func(dst, src unsafe.Pointer, left int64) int64 {
		if omitted(src) {
			return left
		}
		return inner(dst, src, left)
	}
	return &out
}

// isZeroFloat holds for negative zero too.
func isZeroFloat[F float32 | float64](p unsafe.Pointer) bool { return *(*F)(p) == 0 }

func isEmptySlice(p unsafe.Pointer) bool { return (*sliceHeader)(p).len == 0 }
