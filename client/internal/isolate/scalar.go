package isolate

import "unsafe"

func copyFloat[F float32 | float64](dst, src unsafe.Pointer, left int64) int64 {
	f := *(*F)(src)
	if f-f != 0 { // NaN or infinite
		return no
	}
	*(*F)(dst) = f
	return left
}

func copyString(dst, src unsafe.Pointer, left int64) int64 {
	s := *(*string)(src)
	*(*string)(dst) = s
	return chargeText(s, left)
}
