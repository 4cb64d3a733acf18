package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// checkJSON says where data is not one JSON value, and what was expected there.
func checkJSON(where string, data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return usagef("%s: empty: want one JSON value, such as {} or null", where)
	}
	if !utf8.Valid(data) {
		line, column := position(data, firstInvalid(data))
		return usagef("%s: not valid UTF-8 at line %d, column %d", where, line, column)
	}
	var any json.RawMessage
	err := json.Unmarshal(data, &any)
	if err == nil {
		return nil
	}
	syntax, ok := errors.AsType[*json.SyntaxError](err)
	if !ok {
		return usagef("%s: malformed JSON: %w", where, err)
	}
	at, text := max(int(syntax.Offset)-1, 0), syntax.Error() // Offset counts the bytes with the one that is wrong
	want := wanted(text)
	if ended(data) {
		at, want = len(bytes.TrimRight(data, "\r\n")), wantedAtEnd(data)
		text = "it ends too early"
	}
	line, column := position(data, at)
	if want != "" {
		text += ": want " + want
	}
	return usagef("%s: malformed JSON at line %d, column %d: %s", where, line, column, text)
}

// position returns the line and the column, from 1, of the byte at offset i.
// Columns count characters.
func position(data []byte, i int) (line, column int) {
	before := data[:min(i, len(data))]
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
}

func firstInvalid(data []byte) int {
	for i := 0; ; {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
}

// misplaced is a byte that JSON has nowhere.
const misplaced = "\x01"

// ended reports whether data, which is not JSON, could be the beginning of it:
// the first thing that is wrong is then what is added to it.
func ended(data []byte) bool {
	syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(append(bytes.Clone(data), misplaced...), new(json.RawMessage)))
	return ok && syntax.Offset == int64(len(data))+1
}

// wantedAtEnd says how data, which ends too early, could go on.
func wantedAtEnd(data []byte) string {
	err := json.Unmarshal(append(bytes.Clone(data), misplaced...), new(json.RawMessage))
	text := err.Error()
	if strings.HasSuffix(text, " in string literal") {
		return `a closing "`
	}
	if _, rest, ok := strings.Cut(text, " in literal "); ok {
		literal, _, _ := strings.Cut(rest, " ")
		return "the rest of " + literal
	}
	return wanted(text)
}

// wanted says what could be in the place of the character that encoding/json
// complains of; empty when its complaint says it, or nothing is known.
func wanted(complaint string) string {
	for _, c := range []struct{ ending, want string }{
		{" looking for beginning of object key string", "a name in double quotes"},
		{" looking for beginning of value", "a value"},
		{" after object key", "a colon"},
		{" after object key:value pair", "a comma or }"},
		{" after array element", "a comma or ]"},
		{" after top-level value", "nothing more: it is one value"},
		{" in string literal", `line ends and the like written as \n`},
		{" in string escape code", `one of \" \\ \/ \b \f \n \r \t \u`},
		{` in \u hexadecimal character escape`, "four hexadecimal digits"},
		{" in numeric literal", "a digit"},
		{" after decimal point in numeric literal", "a digit"},
		{" in exponent of numeric literal", "a digit"},
	} {
		if strings.HasSuffix(complaint, c.ending) {
			return c.want
		}
	}
	return ""
}
