package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"rpc.do"
)

// ServiceName is the name of the pipeline service: what this package and package
// schedule do for programs in Go, for every client of the bus. Package
// server/workers/pipelineworker serves it.
const ServiceName = "pipeline"

// The methods for events. EventSend is recognised when the same call is sent
// again, see EventSendParams. What retries or discards dead letters is not
// declared idempotent, since it tells how many there were.
var (
	EventSend = rpc.NewMethod[EventSendParams, EventSendResult]("pipeline.event.send", rpc.Idempotent(),
		rpc.Description("Sends an event, now or later."))
	EventCancel = rpc.NewMethod[EventCancelParams, EventCancelResult]("pipeline.event.cancel", rpc.Idempotent(),
		rpc.Description("Takes back an event that waits for its time."))
	EventHistory = rpc.NewMethod[EventHistoryParams, EventHistoryResult]("pipeline.event.history", rpc.Idempotent(),
		rpc.Description("Lists events that were sent."))
	EventGet = rpc.NewMethod[EventGetParams, EventItem]("pipeline.event.get", rpc.Idempotent(),
		rpc.Description("Returns the event with a sequence."))
	EventHandlers = rpc.NewMethod[EventHandlersParams, EventHandlersResult]("pipeline.event.handlers", rpc.Idempotent(),
		rpc.Description("Lists the handlers of events, and how far each is behind."))

	EventDeadList = rpc.NewMethod[EventDeadListParams, EventDeadListResult]("pipeline.event.dead.list", rpc.Idempotent(),
		rpc.Description("Lists events that their handlers could not handle."))
	EventDeadGet = rpc.NewMethod[EventDeadGetParams, DeadItem]("pipeline.event.dead.get", rpc.Idempotent(),
		rpc.Description("Returns a dead letter."))
	EventDeadRetry = rpc.NewMethod[EventDeadRetryParams, EventDeadResult]("pipeline.event.dead.retry", rpc.Timeout(30*time.Second),
		rpc.Description("Has handlers have their dead letters again."))
	EventDeadDiscard = rpc.NewMethod[EventDeadDiscardParams, EventDeadResult]("pipeline.event.dead.discard", rpc.Timeout(30*time.Second),
		rpc.Description("Deletes dead letters for good."))
)

// MaxListed is the most that the pipeline service lists in one answer. An answer
// has fewer, but one at least, when more do not fit in a message.
const MaxListed = 1000

// EventSendParams are the params of EventSend. Without ID and Dedupe the event has
// the identity of the call as its id: of a call that is sent again one event is
// stored. Later than 100 seconds after it was made, when the stream may not know
// it any more, such a call is Aborted; but with At it is known for a day.
type EventSendParams struct {
	// EventType is the event's name, such as "User.registered".
	EventType string `json:"eventType"`
	// Payload is the event's data. Defaults to null.
	Payload json.RawMessage `json:"payload,omitempty"`
	// ID is the event's identity, see WithID, and Dedupe the key of one, see
	// WithDedupe. There is one of them at most.
	ID     string `json:"id,omitempty"`
	Dedupe string `json:"dedupe,omitempty"`
	// Subject names the entity that the event is about.
	Subject string `json:"subject,omitempty"`
	// At is when to send it. Defaults to now.
	At time.Time `json:"at,omitzero"`
	// CorrelationID is the id of the event that everything began with. Defaults to
	// that of the call's.
	CorrelationID string `json:"correlationId,omitempty"`
}

// Validate checks all but the size.
func (p EventSendParams) Validate() error {
	if err := rpc.ValidateEvent(p.EventType); err != nil {
		return inField("eventType", err)
	}
	if p.ID != "" && p.Dedupe != "" {
		return rpc.InvalidArgument.Errorf("id and dedupe both name the event: give one of them")
	}
	c := sendConfig{
		id: p.ID, hasID: p.ID != "", dedupe: p.Dedupe, hasDedupe: p.Dedupe != "",
		subject: p.Subject, at: p.At, correlation: p.CorrelationID,
	}
	return c.check(p.EventType)
}

// EventSendResult says where the event was stored.
type EventSendResult struct {
	EventID string `json:"eventId"`
	// Subject is that of the message, such as "$.User.registered".
	Subject string `json:"subject"`
	// Sequence is its place in the stream EVENTS, from 1; 0 while it waits.
	Sequence uint64 `json:"sequence,omitempty"`
	// Duplicate says that there was an event with the ID or Dedupe of the params
	// already: that of another call, or of this one when it was sent before.
	Duplicate bool `json:"duplicate,omitempty"`
	// At is when an event is sent that waits.
	At time.Time `json:"at,omitzero"`
}

// EventCancelParams are the params of EventCancel.
type EventCancelParams struct {
	EventID string `json:"eventId"`
}

// Validate checks the id.
func (p EventCancelParams) Validate() error {
	if !validID(p.EventID) {
		return notOf("eventId", "the id of an event", fmt.Sprintf("%.80q", p.EventID))
	}
	return nil
}

// EventCancelResult says whether the event was taken back: false is that it was
// sent before.
type EventCancelResult struct {
	Cancelled bool `json:"cancelled"`
}

// EventHistoryParams are the params of EventHistory, as in Query.
type EventHistoryParams struct {
	Patterns []string  `json:"patterns,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
	// Limit is at most MaxListed. Defaults to DefaultPage.
	Limit   int  `json:"limit,omitempty"`
	Reverse bool `json:"reverse,omitempty"`
	// Cursor is the Next of the page before, of the same params but for Limit.
	Cursor string `json:"cursor,omitempty"`
}

// Validate checks all.
func (p EventHistoryParams) Validate() error {
	if _, err := parsePatterns(p.Patterns); err != nil {
		return inField("patterns", err)
	}
	if _, err := parseCursor(Query{Cursor: p.Cursor, Reverse: p.Reverse}); err != nil {
		return inField("cursor", err)
	}
	if err := inOrder("since", p.Since, "until", p.Until); err != nil {
		return err
	}
	return inRange("limit", p.Limit)
}

// EventHistoryResult is one page. Next is empty when it is the last.
type EventHistoryResult struct {
	Events []EventItem `json:"events"`
	Next   string      `json:"next,omitempty"`
}

// EventItem is an event that was stored.
type EventItem struct {
	RawEvent
	// Omitted says that the event has data that are not here: they are not JSON, or
	// there is no room for them in an answer.
	Omitted bool `json:"omitted,omitempty"`
}

// EventGetParams are the params of EventGet.
type EventGetParams struct {
	Sequence uint64 `json:"sequence"`
}

// Validate checks that there is a sequence.
func (p EventGetParams) Validate() error { return aboveZero("sequence", p.Sequence) }

// EventHandlersParams are the params of EventHandlers: all handlers, those of a
// service, or one of them. One that is not there is none, and no error.
type EventHandlersParams struct {
	Service string `json:"service,omitempty"`
	Handler string `json:"handler,omitempty"`
}

// Validate checks the names.
func (p EventHandlersParams) Validate() error { return ofHandler(p.Service, p.Handler) }

// EventHandlersResult has the handlers, by service and name.
type EventHandlersResult struct {
	Handlers []HandlerInfo `json:"handlers"`
}

// EventDeadListParams are the params of EventDeadList, as in DeadQuery.
type EventDeadListParams struct {
	Service string `json:"service,omitempty"`
	Handler string `json:"handler,omitempty"`
	// After is the Next of the page before.
	After uint64 `json:"after,omitempty"`
	// Limit is at most MaxListed. Defaults to 100.
	Limit int `json:"limit,omitempty"`
}

// Validate checks all.
func (p EventDeadListParams) Validate() error {
	if err := ofHandler(p.Service, p.Handler); err != nil {
		return err
	}
	return inRange("limit", p.Limit)
}

// EventDeadListResult is one page, the oldest first. Next is 0 when it is the
// last; the page after one that is full may be empty.
type EventDeadListResult struct {
	DeadLetters []DeadItem `json:"deadLetters"`
	Next        uint64     `json:"next,omitempty"`
}

// DeadItem is a dead letter.
type DeadItem struct {
	DeadLetter
	// Omitted is as in EventItem.
	Omitted bool `json:"omitted,omitempty"`
}

// EventDeadGetParams are the params of EventDeadGet.
type EventDeadGetParams struct {
	ID uint64 `json:"id"`
}

// Validate checks that there is an id.
func (p EventDeadGetParams) Validate() error { return aboveZero("id", p.ID) }

// EventDeadDiscardParams are the params of EventDeadDiscard: the dead letter with
// an ID, or All there are, of a service or a handler when these are named.
type EventDeadDiscardParams struct {
	ID      uint64 `json:"id,omitempty"`
	All     bool   `json:"all,omitempty"`
	Service string `json:"service,omitempty"`
	Handler string `json:"handler,omitempty"`
}

// Validate checks that one or all are meant.
func (p EventDeadDiscardParams) Validate() error {
	switch {
	case p.All == (p.ID != 0):
		return rpc.InvalidArgument.Errorf("which dead letters? Give the id of one, or all: true, with service and handler for those of one")
	case p.ID != 0 && (p.Service != "" || p.Handler != ""):
		return rpc.InvalidArgument.Errorf("service and handler go with all: a dead letter is known by its id")
	}
	return ofHandler(p.Service, p.Handler)
}

// EventDeadRetryParams are the params of EventDeadRetry: which, as in
// EventDeadDiscardParams.
type EventDeadRetryParams struct {
	EventDeadDiscardParams
	// Data take the place of the event's, for a single dead letter. Null is none.
	Data json.RawMessage `json:"data,omitempty"`
}

// Validate checks that one or all are meant.
func (p EventDeadRetryParams) Validate() error {
	if p.All && len(p.Data) > 0 && string(p.Data) != "null" {
		return rpc.InvalidArgument.Errorf("data go with the id of one dead letter, not with all")
	}
	return p.EventDeadDiscardParams.Validate()
}

// EventDeadResult says how many dead letters it was. More says that the time of
// the call did not do for all: call again for the others.
type EventDeadResult struct {
	Count int  `json:"count"`
	More  bool `json:"more,omitempty"`
}

// What is wrong with a field of params. The errors are InvalidArgument, with a
// FieldViolation.

func notOf(field, expected, got string) error {
	return rpc.InvalidArgument.Errorf("%s: want %s, got %s", field, expected, got).
		WithDetail(rpc.FieldViolation{Field: field, Expected: expected, Got: got})
}

func inField(field string, err error) error {
	return rpc.InvalidArgument.Errorf("%s: %s", field, messageOf(err)).WithDetail(rpc.FieldViolation{Field: field})
}

func nameIn(field, name string) error {
	err := rpc.ValidateService(name)
	if err == nil {
		return nil
	}
	return inField(field, errors.New(strings.TrimPrefix(err.Error(), "service name ")))
}

func ofHandler(service, handler string) error {
	if handler != "" && service == "" {
		return notOf("service", "that of the handler", "none")
	}
	return tokens("service", service, "handler", handler)
}

// tokens checks names that may be empty: each follows its field.
func tokens(fieldsAndNames ...string) error {
	for i := 0; i < len(fieldsAndNames); i += 2 {
		if name := fieldsAndNames[i+1]; name != "" {
			if err := nameIn(fieldsAndNames[i], name); err != nil {
				return err
			}
		}
	}
	return nil
}

func inRange(field string, n int) error {
	if n < 0 || n > MaxListed {
		return notOf(field, fmt.Sprintf("1 to %d, or none for the default", MaxListed), strconv.Itoa(n))
	}
	return nil
}

func aboveZero(field string, n uint64) error {
	if n == 0 {
		return notOf(field, "a number from 1", "none")
	}
	return nil
}

func inOrder(first string, a time.Time, second string, b time.Time) error {
	if !a.IsZero() && !b.IsZero() && !a.Before(b) {
		return notOf(second, "a time after "+first+", "+a.Format(time.RFC3339), b.Format(time.RFC3339))
	}
	return nil
}
