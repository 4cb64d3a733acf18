package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"rpc.do"
)

func TestTerminal(t *testing.T) {
	t.Parallel()
	cause := rpc.NotFound.Errorf("no such user: %w", io.EOF)
	err := rpc.Terminal(cause)
	if err.Error() != cause.Error() || rpc.CodeOf(err) != rpc.NotFound || !errors.Is(err, rpc.NotFound) || !errors.Is(err, io.EOF) {
		t.Errorf("%v has the code %v", err, rpc.CodeOf(err))
	}
	if e, ok := errors.AsType[*rpc.Error](err); !ok || e != cause {
		t.Errorf("%v holds %v", err, e)
	}
	for code, err := range map[rpc.Code]error{
		rpc.Unknown:          rpc.Terminal(io.EOF),
		rpc.Canceled:         rpc.Terminal(context.Canceled),
		rpc.DeadlineExceeded: rpc.Terminal(rpc.DeadlineExceeded),
	} {
		if rpc.CodeOf(err) != code {
			t.Errorf("%v has the code %v, want %v", err, rpc.CodeOf(err), code)
		}
	}
	if rpc.Terminal(nil) != nil {
		t.Error("Terminal of nil is an error")
	}
}

func TestIsTerminal(t *testing.T) {
	t.Parallel()
	err := rpc.Terminal(io.EOF)
	for _, yes := range []error{err, fmt.Errorf("reading: %w", err), errors.Join(io.ErrNoProgress, err), rpc.Internal.Errorf("reading: %w", err), rpc.Terminal(err)} {
		if !rpc.IsTerminal(yes) {
			t.Errorf("%v is terminal", yes)
		}
	}
	for _, no := range []error{nil, io.EOF, rpc.NotFound.Errorf("x"), fmt.Errorf("reading: %v", err)} {
		if rpc.IsTerminal(no) {
			t.Errorf("%v is not terminal", no)
		}
	}
	// What it says does not go over the wire.
	text, jsonErr := rpc.NotFound.Errorf("gone: %w", err).MarshalJSON()
	var back rpc.Error
	if jsonErr != nil || back.UnmarshalJSON(text) != nil || rpc.IsTerminal(&back) {
		t.Errorf("%s: %v", text, jsonErr)
	}
}

func ExampleTerminal() {
	err := rpc.Terminal(rpc.FailedPrecondition.Errorf("the account is closed"))
	fmt.Println(rpc.IsTerminal(err), rpc.CodeOf(err), err)
	// Output: true failed_precondition failed_precondition: the account is closed
}
