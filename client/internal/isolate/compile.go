package isolate

import (
	"encoding"
	"encoding/json"
	"reflect"
	"unsafe"
)

// The most bytes of JSON that these take.
const (
	boolSize   = 5  // false
	numberSize = 25 // a float64 such as -0.0000012345678901234567
	nullSize   = 4
	pairSize   = 2 // quotes or brackets
)

// maxBase bounds a copier's base, so that sums don't overflow.
const maxBase = 1 << 40

// compiler finds out how types are copied. It holds the types it is at work on.
type compiler map[reflect.Type]bool

// compile returns the copier for t, or nil when t is not copyable. It remembers
// both.
func (c compiler) compile(t reflect.Type) *copier {
	if known, ok := cache.Load(t); ok {
		return known.(*copier)
	}
	if c[t] {
		return nil // t contains itself, and so does every type in between
	}
	c[t] = true
	defer delete(c, t)
	cp := c.compileNew(t)
	if cp != nil && cp.base > maxBase {
		cp = nil
	}
	if cp != nil {
		cp.size = t.Size()
	}
	known, _ := cache.LoadOrStore(t, cp)
	return known.(*copier)
}

func (c compiler) compileNew(t reflect.Type) *copier {
	if encodesItself(t) {
		return nullCopier(t)
	}
	switch t.Kind() {
	case reflect.Bool:
		return plainCopier(t, boolSize)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return plainCopier(t, numberSize)
	case reflect.Float32:
		return &copier{copy: copyFloat[float32], base: numberSize}
	case reflect.Float64:
		return &copier{copy: copyFloat[float64], base: numberSize}
	case reflect.String:
		if t == reflect.TypeFor[json.Number]() {
			return nil // a number in JSON, and "" becomes "0"
		}
		return &copier{copy: copyString, base: pairSize}
	case reflect.Struct:
		return c.structCopier(t)
	case reflect.Array:
		return c.arrayCopier(t)
	case reflect.Slice:
		return c.sliceCopier(t)
	case reflect.Pointer:
		return c.pointerCopier(t)
	case reflect.Map:
		return c.mapCopier(t)
	default:
		return nil
	}
}

// encodesItself reports whether encoding/json leaves t to methods of t or *t.
func encodesItself(t reflect.Type) bool {
	for _, i := range []reflect.Type{
		reflect.TypeFor[json.Marshaler](),
		reflect.TypeFor[json.Unmarshaler](),
		reflect.TypeFor[encoding.TextMarshaler](),
		reflect.TypeFor[encoding.TextUnmarshaler](),
	} {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}

// nullCopier returns the copier for a type that encodes itself, which is nil
// unless t is a struct without fields that encodes as null and leaves decoding
// to encoding/json, such as rpc.None. The only value of t is tried out. A pointer
// to t has the same methods and is not copyable: it would come back nil.
func nullCopier(t reflect.Type) *copier {
	if t.Kind() != reflect.Struct || t.NumField() > 0 {
		return nil
	}
	value := reflect.New(t)
	_, decodes := value.Interface().(json.Unmarshaler)
	_, decodesText := value.Interface().(encoding.TextUnmarshaler)
	_, encodes := value.Elem().Interface().(json.Marshaler)
	if decodes || decodesText || !encodes {
		return nil
	}
	if data, err := json.Marshal(value.Interface()); err != nil || string(data) != "null" {
		return nil
	}
	return plainCopier(t, nullSize)
}

func plainCopier(t reflect.Type, base int64) *copier {
	size := t.Size()
	return &copier{
		copy: func(dst, src unsafe.Pointer, left int64) int64 {
			copyMemory(dst, src, size)
			return left
		},
		base:  base,
		plain: true,
	}
}

// copyMemory copies size bytes that hold no pointers.
func copyMemory(dst, src unsafe.Pointer, size uintptr) {
	copy(unsafe.Slice((*byte)(dst), size), unsafe.Slice((*byte)(src), size))
}
