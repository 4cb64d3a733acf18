package rpc

import (
	"context"
	"errors"
	"fmt"
)

// Code says what kind of failure an error is. The set is closed: these sixteen
// are all there are, on the wire and in Go. They have the meaning gRPC and
// Connect give them.
//
// A Code is itself an error, so that errors.Is(err, rpc.NotFound) works, for a
// local error as well as for one that came from another process.
type Code uint8

// The codes, with the HTTP status each has at the edge.
const (
	Canceled           Code = iota + 1 // 499: the caller gave up
	Unknown                            // 500: a peer failed in a way it did not name
	InvalidArgument                    // 400: the params are wrong whatever the state
	DeadlineExceeded                   // 504: no answer in time; it may have run
	NotFound                           // 404: the thing asked for does not exist
	AlreadyExists                      // 409: the thing to be made exists
	PermissionDenied                   // 403: the caller is known and may not
	ResourceExhausted                  // 429: too much: too many calls, too large
	FailedPrecondition                 // 412: not in this state
	Aborted                            // 409: lost a race; try the whole again
	OutOfRange                         // 400: past the end
	Unimplemented                      // 404: no such method
	Internal                           // 500: a defect of the callee
	Unavailable                        // 503: nobody there now
	DataLoss                           // 500: data are gone for good
	Unauthenticated                    // 401: the caller is not known
)

var codes = [...]struct {
	name   string
	status int
}{
	Canceled:           {"canceled", 499},
	Unknown:            {"unknown", 500},
	InvalidArgument:    {"invalid_argument", 400},
	DeadlineExceeded:   {"deadline_exceeded", 504},
	NotFound:           {"not_found", 404},
	AlreadyExists:      {"already_exists", 409},
	PermissionDenied:   {"permission_denied", 403},
	ResourceExhausted:  {"resource_exhausted", 429},
	FailedPrecondition: {"failed_precondition", 412},
	Aborted:            {"aborted", 409},
	OutOfRange:         {"out_of_range", 400},
	Unimplemented:      {"unimplemented", 404},
	Internal:           {"internal", 500},
	Unavailable:        {"unavailable", 503},
	DataLoss:           {"data_loss", 500},
	Unauthenticated:    {"unauthenticated", 401},
}

// Codes returns all sixteen codes in their numeric order.
func Codes() []Code {
	all := make([]Code, 0, len(codes)-1)
	for c := Canceled; c.valid(); c++ {
		all = append(all, c)
	}
	return all
}

// ParseCode returns the code with the given wire name, such as "not_found".
func ParseCode(name string) (Code, error) {
	for c := Canceled; c.valid(); c++ {
		if codes[c].name == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("rpc: no code is named %q", name)
}

func (c Code) valid() bool { return c >= Canceled && int(c) < len(codes) }

func (c Code) orUnknown() Code {
	if c.valid() {
		return c
	}
	return Unknown
}

// String returns the code's name on the wire, such as "not_found". The zero
// Code, which no error has, is "ok".
func (c Code) String() string {
	switch {
	case c == 0:
		return "ok"
	case c.valid():
		return codes[c].name
	default:
		return fmt.Sprintf("code(%d)", uint8(c))
	}
}

// Error makes a Code usable as a target of errors.Is.
func (c Code) Error() string { return c.String() }

// HTTPStatus returns the HTTP status the code has at the edge; 200 for the
// zero Code.
func (c Code) HTTPStatus() int {
	switch {
	case c == 0:
		return 200
	case c.valid():
		return codes[c].status
	default:
		return 500
	}
}

// MarshalText writes the wire name.
func (c Code) MarshalText() ([]byte, error) {
	if !c.valid() {
		return nil, fmt.Errorf("rpc: %s is not a code", c)
	}
	return []byte(c.String()), nil
}

// UnmarshalText reads a wire name.
func (c *Code) UnmarshalText(text []byte) error {
	parsed, err := ParseCode(string(text))
	if err != nil {
		return err
	}
	*c = parsed
	return nil
}

// Errorf returns an *Error with this code. The format is that of fmt.Errorf.
// The text of an error wrapped with %w is part of Message, which is sent to
// other processes; the error itself is not: errors.Is and errors.As find it in
// this process only.
func (c Code) Errorf(format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	cause := errors.Unwrap(err)
	if _, several := err.(interface{ Unwrap() []error }); several {
		cause = err
	}
	return &Error{Code: c, Message: err.Error(), cause: cause}
}

// CodeOf returns the code of err: that of the first *Error in its chain,
// DeadlineExceeded or Canceled for the errors of package context, Unknown for
// any other error, a nil *Error or one with an invalid code included, and zero
// for nil alone.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		if e == nil {
			return Unknown
		}
		return e.Code.orUnknown()
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c.orUnknown()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return Canceled
	default:
		return Unknown
	}
}
