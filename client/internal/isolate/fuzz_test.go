package isolate

import (
	"math"
	"reflect"
	"testing"
	"unicode/utf8"
)

// Text of all kinds, as a value, a key and bytes: what is copied is right, and
// all UTF-8 is copied.
func FuzzText(f *testing.F) {
	for _, s := range sampleTexts {
		f.Add(s, uint16(len(s)))
	}
	f.Add("cut \xe6\x97", uint16(100))
	f.Fuzz(func(t *testing.T, s string, limit uint16) {
		src := reflect.ValueOf(&struct {
			S string
			M map[string][]byte
		}{s, map[string][]byte{s: []byte(s)}})
		if checkCopy(t, src, math.MaxInt64) != utf8.ValidString(s) {
			t.Errorf("%q: copied although, or not copied because, it is no UTF-8", s)
		}
		checkCopy(t, src, int64(limit))
	})
}
