package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Error is the one error type of calls. It crosses processes with its code,
// message and details; the Go error it may wrap does not.
//
// An Error is not changed once it has been returned: the With methods return
// changed copies.
type Error struct {
	// Code says what kind of failure it is.
	Code Code

	// Message is for people. Programs look at Code and Details.
	Message string

	// Details are typed values for programs. See DetailOf.
	Details []Detail

	// Retryable says that the call surely did not run, so that sending it
	// again can't run it twice. The client does so by itself within the call's
	// deadline; an error that still reaches the caller has used that up.
	Retryable bool

	// RetryAfter is how long to wait before the next try; zero when unsaid.
	// Its resolution on the wire is a millisecond.
	RetryAfter time.Duration

	remote  bool
	outcome bool
	cause   error
}

// Error returns the code's name and the message. An error without a code is
// an unknown one.
func (e *Error) Error() string {
	name := e.Code.String()
	if e.Code == 0 {
		name = Unknown.String() // what CodeOf says of it
	}
	if e.Message == "" {
		return name
	}
	return name + ": " + e.Message
}

// Unwrap returns the error wrapped with %w in Errorf, if any.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is the error's code, or the error of package
// context that has the same meaning.
func (e *Error) Is(target error) bool {
	if c, ok := target.(Code); ok {
		return e.Code == c
	}
	switch target {
	case context.DeadlineExceeded:
		return e.Code == DeadlineExceeded
	case context.Canceled:
		return e.Code == Canceled
	}
	return false
}

// Remote reports whether the error was decided by the callee (or by one behind
// it) and came over the wire, rather than made by this process.
func (e *Error) Remote() bool { return e.remote }

// IsRemote reports whether err holds an *Error that came from the callee.
func IsRemote(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e != nil && e.remote
}

// AsRemote returns a copy of the error marked as one that the callee decided.
// It is for transports.
func (e *Error) AsRemote() *Error {
	c := *e
	c.remote = true
	return &c
}

// Outcome reports whether the error is what a call made by this process came
// to, be it that the callee decided it or that the call never got there. Its
// Retryable speaks of that call and of no other: a handler that passes the error
// on has run.
func (e *Error) Outcome() bool { return e.outcome || e.remote }

// AsOutcome returns a copy of the error marked as what a call came to. It is for
// transports.
func (e *Error) AsOutcome() *Error {
	c := *e
	c.outcome = true
	return &c
}

// WithDetail returns a copy of the error with one more detail. It panics when
// value can't be written as JSON, which is a defect of the caller.
func (e *Error) WithDetail(value any) *Error {
	d, err := NewDetail(value)
	if err != nil {
		panic(err)
	}
	c := *e
	c.Details = append(e.Details[:len(e.Details):len(e.Details)], d)
	return &c
}

// WithRetryAfter returns a copy of the error that asks the caller to wait for d.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// NotExecuted returns a copy of the error that says the call surely did not
// run. A handler returns it only when it has changed nothing.
func (e *Error) NotExecuted() *Error {
	c := *e
	c.Retryable = true
	return &c
}

type errorJSON struct {
	Code         Code     `json:"code"`
	Message      string   `json:"message"`
	Details      []Detail `json:"details,omitempty"`
	Retryable    bool     `json:"retryable,omitempty"`
	RetryAfterMs int64    `json:"retryAfterMs,omitempty"`
}

// MarshalJSON writes the body of an error reply:
// {"code","message","details","retryable","retryAfterMs"}.
func (e *Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(errorJSON{e.Code, e.Message, e.Details, e.Retryable, ceilMillis(e.RetryAfter)})
}

// UnmarshalJSON reads the body of an error reply. The result is not yet marked
// as remote.
func (e *Error) UnmarshalJSON(data []byte) error {
	var w errorJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	if !w.Code.valid() {
		return errors.New("rpc: an error without a code")
	}
	const maxWait = int64(24 * time.Hour / time.Millisecond)
	wait := min(max(w.RetryAfterMs, 0), maxWait)
	*e = Error{Code: w.Code, Message: w.Message, Details: w.Details, Retryable: w.Retryable,
		RetryAfter: time.Duration(wait) * time.Millisecond}
	return nil
}

func ceilMillis(d time.Duration) int64 {
	whole := max(d, 0) / time.Millisecond
	if d > whole*time.Millisecond {
		whole++
	}
	return int64(whole)
}
