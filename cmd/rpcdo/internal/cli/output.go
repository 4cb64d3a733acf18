package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// printJSON prints v as JSON with a line end: indented when a person looks at
// it, on one line otherwise.
func (a *app) printJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if a.env.OutTerminal && !a.json {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	_, err := io.WriteString(a.env.Out, plainJSON(b.String()))
	return err
}

// note tells people something on stderr; programs, who use --json, are told in
// the result.
func (a *app) note(format string, args ...any) {
	if !a.json {
		fmt.Fprintf(a.env.Err, format+"\n", args...)
	}
}

// printTable prints what write writes, with tabs between columns.
func (a *app) printTable(write func(*tabwriter.Writer)) error {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	write(w)
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(a.env.Out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// compactJSON returns data without spaces between its tokens, or as it is when
// it is not JSON.
func compactJSON(data []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return plain(string(data))
	}
	return plainJSON(b.String())
}

// plainJSON writes as escapes the control characters that JSON allows in a text,
// DEL and U+0080 to U+009F: a terminal may take them for commands. The value
// stays the same.
func plainJSON(text string) string {
	var b strings.Builder
	for _, r := range text { // a byte that is not UTF-8 comes as U+FFFD
		if r >= 0x7f && r <= 0x9f {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// plain takes out of a text that came from elsewhere what could do something to
// a terminal or a table.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// micros writes a time in microseconds for people.
func micros(us float64) string {
	switch {
	case us < 100:
		return fmt.Sprintf("%.1f µs", us)
	case us < 10_000:
		return fmt.Sprintf("%.0f µs", us)
	case us < 10_000_000:
		return fmt.Sprintf("%.0f ms", us/1e3)
	default:
		return fmt.Sprintf("%.0f s", us/1e6)
	}
}
