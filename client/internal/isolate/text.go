package isolate

import (
	"encoding/binary"
	"unicode/utf8"
	"unsafe"
)

// escapedSize is what a byte takes as \u0041, the longest of the escapes.
const escapedSize = 6

// chargeText takes from left at least what s takes as JSON, without the quotes.
// It returns no when s is not UTF-8.
func chargeText(s string, left int64) int64 {
	if int64(len(s)) > left {
		return no
	}
	left -= int64(len(s))
	for i := 0; i < len(s); {
		i += plainPrefix(s[i:])
		for end := min(i+8, len(s)); i < end; {
			if b := s[i]; b < utf8.RuneSelf {
				if escaped(b) {
					left -= escapedSize - 1
				}
				i++
				continue
			}
			r, size := utf8.DecodeRuneInString(s[i:])
			switch r {
			case utf8.RuneError:
				if size == 1 {
					return no
				}
			case '\u2028', '\u2029':
				left -= escapedSize - int64(size)
			}
			i += size
		}
	}
	return left
}

// escaped reports whether encoding/json writes the ASCII character b otherwise
// than as it is. plainPrefix looks for the same characters.
func escaped(b byte) bool {
	return b < ' ' || b == '"' || b == '\\' || b == '<' || b == '>' || b == '&'
}

// plainPrefix returns the length of a prefix of s that is ASCII and holds no
// character that JSON escapes. It looks at eight bytes at a time and stops at
// the first eight that don't do, or when fewer are left.
func plainPrefix(s string) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x80 * ones
	)
	data := unsafe.Slice(unsafe.StringData(s), len(s))
	i := 0
	for ; len(data)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(data[i:])
		// While no byte has its high bit set, w - n*ones sets the high bit of
		// some byte exactly when some byte is less than n; a byte of x^y is less
		// than 1 where x and y agree. Each | makes one of two characters, which
		// differ in one bit, into the other: < into >, and " into &.
		found := w |
			(w - ' '*ones) |
			(((w | 0x02*ones) ^ '>'*ones) - ones) |
			(((w | 0x04*ones) ^ '&'*ones) - ones) |
			((w ^ '\\'*ones) - ones)
		if found&highs != 0 {
			break
		}
	}
	return i
}
