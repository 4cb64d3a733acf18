package isolate

import (
	"encoding/base64"
	"reflect"
	"unsafe"
)

// sliceHeader is how a slice lies in memory.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

func (c compiler) arrayCopier(t reflect.Type) *copier {
	elem := c.compile(t.Elem())
	if elem == nil {
		return nil
	}
	n := t.Len()
	if int64(n) > maxBase/(elem.base+1) {
		return nil
	}
	base := pairSize + int64(n)*(elem.base+1)
	if elem.plain {
		return plainCopier(t, base)
	}
	return &copier{base: base, copy: func(dst, src unsafe.Pointer, left int64) int64 {
		return copyElems(dst, src, n, elem, left)
	}}
}

func (c compiler) sliceCopier(t reflect.Type) *copier {
	elem := c.compile(t.Elem())
	if elem == nil {
		return nil
	}
	bytes := t.Elem().Kind() == reflect.Uint8
	copySlice := func(dst, src unsafe.Pointer, left int64) int64 {
		s := *(*sliceHeader)(src)
		if s.data == nil {
			return left
		}
		if s.len == 0 {
			*(*[]struct{})(dst) = []struct{}{}
			return left
		}
		if bytes {
			left -= int64(base64.StdEncoding.EncodedLen(s.len))
		} else {
			left = chargeTimes(s.len, elem.base+1, left)
		}
		if left < 0 {
			return left
		}
		to := reflect.NewAt(t, dst).Elem()
		to.Grow(s.len)
		to.SetLen(s.len)
		return copyElems(to.UnsafePointer(), s.data, s.len, elem, left)
	}
	return &copier{copy: copySlice, base: nullSize, nilable: true}
}

// copyElems copies n values that lie one after the other.
func copyElems(dst, src unsafe.Pointer, n int, elem *copier, left int64) int64 {
	if elem.plain {
		copyMemory(dst, src, uintptr(n)*elem.size)
		return left
	}
	for i := range uintptr(n) {
		at := i * elem.size
		left = elem.copy(unsafe.Add(dst, at), unsafe.Add(src, at), left)
		if left < 0 {
			return left
		}
	}
	return left
}

func (c compiler) pointerCopier(t reflect.Type) *copier {
	elem := c.compile(t.Elem())
	if elem == nil {
		return nil
	}
	copyPointer := func(dst, src unsafe.Pointer, left int64) int64 {
		from := *(*unsafe.Pointer)(src)
		if from == nil {
			return left
		}
		left -= elem.base
		if left < 0 {
			return left
		}
		to := reflect.New(t.Elem()).UnsafePointer()
		left = elem.copy(to, from, left)
		if elem.nilable && *(*unsafe.Pointer)(to) == nil {
			return left // a pointer to what is null in JSON comes back nil
		}
		*(*unsafe.Pointer)(dst) = to
		return left
	}
	return &copier{copy: copyPointer, base: nullSize, nilable: true}
}

func (c compiler) mapCopier(t reflect.Type) *copier {
	if t.Key().Kind() != reflect.String || encodesItself(t.Key()) {
		return nil
	}
	elem := c.compile(t.Elem())
	if elem == nil {
		return nil
	}
	const keySize = pairSize + len(":,")
	copyMap := func(dst, src unsafe.Pointer, left int64) int64 {
		from := reflect.NewAt(t, src).Elem()
		if from.IsNil() {
			return left
		}
		left = chargeTimes(from.Len(), elem.base+int64(keySize), left)
		if left < 0 {
			return left
		}
		to := reflect.MakeMapWithSize(t, from.Len())
		key := reflect.New(t.Key()).Elem()
		in, out := reflect.New(t.Elem()), reflect.New(t.Elem())
		for entries := from.MapRange(); entries.Next(); {
			key.SetIterKey(entries)
			left = chargeText(key.String(), left)
			if left < 0 {
				return left
			}
			in.Elem().SetIterValue(entries)
			out.Elem().SetZero()
			left = elem.copy(out.UnsafePointer(), in.UnsafePointer(), left)
			if left < 0 {
				return left
			}
			to.SetMapIndex(key, out.Elem())
		}
		reflect.NewAt(t, dst).Elem().Set(to)
		return left
	}
	return &copier{copy: copyMap, base: nullSize, nilable: true}
}

// chargeTimes takes n times size from left, size being positive.
func chargeTimes(n int, size, left int64) int64 {
	if int64(n) > left/size {
		return no
	}
	return left - int64(n)*size
}
