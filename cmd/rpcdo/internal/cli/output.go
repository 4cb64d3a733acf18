package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
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
	_, err := a.env.Out.Write(b.Bytes())
	return err
}

// compactJSON returns data without spaces between its tokens, or as it is when
// it is not JSON.
func compactJSON(data []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return string(data)
	}
	return b.String()
}
