package isolate

import (
	"math"
	"testing"
)

// Every byte at every place of a short text: what JSON escapes is charged for,
// and nothing else is.
func TestChargeText(t *testing.T) {
	t.Parallel()
	for b := range 256 {
		for at := range 20 {
			text := []byte("plain, plain, plain!")
			text[at] = byte(b)
			left := chargeText(string(text), math.MaxInt64)
			if b >= 0x80 {
				if left >= 0 {
					t.Errorf("%q: taken for UTF-8", text)
				}
				continue
			}
			charged := int64(math.MaxInt64) - left
			size := int64(len(mustEncode(t, string(text))) - len(`""`))
			if plain := size == int64(len(text)); charged < size || plain && charged > size {
				t.Errorf("%q: charged %d bytes for %d", text, charged, size)
			}
		}
	}
}

// The prefix is as long as can be: up to the eight bytes that hold the first
// character of note.
func TestPlainPrefix(t *testing.T) {
	t.Parallel()
	for b := range 256 {
		for at := range 24 {
			text := []byte("plain, plain, plain, ok!")
			text[at] = byte(b)
			want := len(text)
			if b >= 0x80 || escaped(byte(b)) {
				want = at &^ 7
			}
			if got := plainPrefix(string(text)); got != want {
				t.Errorf("%q: got %d, want %d", text, got, want)
			}
		}
	}
}
