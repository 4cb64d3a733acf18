package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"rpc.do/pipeline"
)

// shownEvent is an event for programs.
type shownEvent struct {
	pipeline.RawEvent

	// Raw has data that are not JSON.
	Raw []byte `json:"raw,omitempty"`
}

func newShownEvent(e pipeline.RawEvent) shownEvent {
	s := shownEvent{RawEvent: e}
	if e.Data == nil {
		s.Data, s.Raw = json.RawMessage("null"), e.Raw
	}
	return s
}

// shownData writes the data of an event for people.
func shownData(e *pipeline.RawEvent) string {
	switch {
	case e.Data != nil:
		return compactJSON(e.Data)
	case len(e.Raw) == 0:
		return "-"
	case utf8.Valid(e.Raw):
		return strconv.Quote(string(e.Raw))
	default:
		return fmt.Sprintf("%d bytes", len(e.Raw))
	}
}

// shownSubject writes for people whom an event is about.
func shownSubject(e *pipeline.RawEvent) string {
	if e.Subject == "" {
		return "-"
	}
	return shownID(e.Subject)
}

// printEvent prints an event as a line: when it was stored, its place, and what it
// says.
func (a *app) printEvent(e pipeline.RawEvent) error {
	if a.json {
		return a.printJSON(newShownEvent(e))
	}
	_, err := fmt.Fprintf(a.env.Out, "%s  %d  %s  %s  %s  %s\n", e.Stored.Local().Format("2006-01-02 15:04:05.000"), e.Sequence,
		plain(e.Type), plain(e.ID), shownSubject(&e), shownData(&e))
	return err
}
