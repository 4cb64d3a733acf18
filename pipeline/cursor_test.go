package pipeline

import (
	"errors"
	"testing"

	"rpc.do"
)

// A cursor that is taken is written as it was read, and any other is refused.
func FuzzParseCursor(f *testing.F) {
	for _, text := range []string{"", "f1", "f7-9", "r1-2", "r3", "f0", "f01", "f+1", "f1-18446744073709551615", "x1-2", "f1-2-3", "f９"} {
		f.Add(text, text != "" && text[0] == 'r')
	}
	f.Fuzz(func(t *testing.T, text string, reverse bool) {
		c, err := parseCursor(Query{Cursor: text, Reverse: reverse})
		switch {
		case err != nil && !errors.Is(err, rpc.InvalidArgument):
			t.Errorf("%q: %v", text, err)
		case err == nil && text != "" && (c.String() != text || c.reverse != reverse || c.from == 0 || c.end < c.from):
			t.Errorf("%q is read as %+v, %s", text, c, c)
		}
	})
}
