// Package isolate copies the params and results of calls that stay inside one
// process, so that caller and handler share nothing that either can change.
//
// A copy is worth having only if nobody can tell it from a call over the bus.
// So it is exactly what encoding/json makes of the value when it encodes it and
// decodes it into a fresh one: unexported fields are lost, an empty slice that
// is omitted comes back nil, and so on. What the package can't copy that way
// quickly it leaves alone and says so; then the caller encodes and decodes:
//
//	if !isolate.CopyAny(&params, sent, maxPayload) {
//		// encode *sent, check its size, decode into params
//	}
//
// It copies bools, numbers, strings, structs of exported fields, pointers,
// slices, arrays and maps with string keys. It doesn't copy types that encode or
// decode themselves (time.Time, json.RawMessage), interfaces, recursive types,
// embedded structs, fields that share a name and the json option "string"; nor
// values that JSON changes or refuses: text that is not UTF-8, NaN, infinity.
//
// It is no general deep copy, and it knows no other encoding than JSON.
package isolate

import (
	"reflect"
	"sync"
	"unsafe"
)

// CopyAny sets *dst to what a JSON round trip makes of *src. Both are pointers
// to the same type, and dst does not point into *src. Strings are shared: nobody
// can change them.
//
// It reports false when the type or the value doesn't allow a copy, or when the
// JSON might take more than limit bytes. The last is judged by an upper bound,
// so the value may still fit. *dst is then the zero value, ready to be decoded
// into.
//
// A type's first use costs microseconds, to find out how it is copied. CopyAny
// may be called from many goroutines; nobody may change *src meanwhile.
func CopyAny(dst, src any, limit int64) bool {
	t := reflect.TypeOf(src)
	if t == nil || t.Kind() != reflect.Pointer || reflect.TypeOf(dst) != t {
		return false
	}
	to, from := reflect.ValueOf(dst), reflect.ValueOf(src)
	if to.IsNil() || from.IsNil() {
		return false
	}
	to.Elem().SetZero()
	c := copierOf(t.Elem())
	if c == nil || c.base > limit {
		return false
	}
	if c.copy(to.UnsafePointer(), from.UnsafePointer(), limit-c.base) < 0 {
		to.Elem().SetZero()
		return false
	}
	return true
}

// A copier copies the values of one type.
type copier struct {
	copy copyFunc
	// base is the most that the JSON of a value takes, apart from the parts
	// that copy charges for because their number or length varies.
	base int64
	// size is the size of the type.
	size uintptr
	// plain: copying the memory is all there is to do. There are no pointers in
	// it and every value is allowed.
	plain bool
	// nilable: the type is a pointer, slice or map, so that its first word is
	// nil exactly when the value is, and the JSON then null.
	nilable bool
}

// copyFunc copies the value at src to dst, which is zero. It takes from left
// what the JSON may take beyond the base, and returns the rest, or no.
type copyFunc func(dst, src unsafe.Pointer, left int64) int64

// no is what a copyFunc returns when the value can't be copied. It returns some
// negative number when nothing is left: the two needn't be told apart.
const no = -1

// cache holds a *copier by reflect.Type, nil for a type that is not copyable.
// It only ever grows, by one entry for each type, and what an entry says is
// determined by its type.
var cache sync.Map

// copierOf returns the copier for t, or nil when t is not copyable.
func copierOf(t reflect.Type) *copier {
	if c, ok := cache.Load(t); ok {
		return c.(*copier)
	}
	return compiler{}.compile(t)
}
