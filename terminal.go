package rpc

import "errors"

// Terminal returns err as one that trying again does not mend: who retries what
// failed with it, as the handlers of events are retried, stops. It has err's
// code and text, and errors.Is and errors.As see through it. Terminal of nil is
// nil. What it says does not go over the wire.
func Terminal(err error) error {
	if err == nil {
		return nil
	}
	return &terminalError{err}
}

// IsTerminal reports whether err, or an error in its chain, came from Terminal.
func IsTerminal(err error) bool {
	_, ok := errors.AsType[*terminalError](err)
	return ok
}

type terminalError struct{ err error }

func (e *terminalError) Error() string { return e.err.Error() }
func (e *terminalError) Unwrap() error { return e.err }
