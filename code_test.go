package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"rpc.do"
)

// wireCodes is the table of docs/protocol.md: it must not drift.
var wireCodes = []struct {
	code   rpc.Code
	name   string
	status int
}{
	{rpc.Canceled, "canceled", 499},
	{rpc.Unknown, "unknown", 500},
	{rpc.InvalidArgument, "invalid_argument", 400},
	{rpc.DeadlineExceeded, "deadline_exceeded", 504},
	{rpc.NotFound, "not_found", 404},
	{rpc.AlreadyExists, "already_exists", 409},
	{rpc.PermissionDenied, "permission_denied", 403},
	{rpc.ResourceExhausted, "resource_exhausted", 429},
	{rpc.FailedPrecondition, "failed_precondition", 412},
	{rpc.Aborted, "aborted", 409},
	{rpc.OutOfRange, "out_of_range", 400},
	{rpc.Unimplemented, "unimplemented", 404},
	{rpc.Internal, "internal", 500},
	{rpc.Unavailable, "unavailable", 503},
	{rpc.DataLoss, "data_loss", 500},
	{rpc.Unauthenticated, "unauthenticated", 401},
}

func TestCodesOnTheWire(t *testing.T) {
	t.Parallel()
	all := rpc.Codes()
	if len(all) != 16 || len(wireCodes) != 16 {
		t.Fatalf("%d codes, %d in the table; want 16", len(all), len(wireCodes))
	}
	for i, want := range wireCodes {
		if all[i] != want.code {
			t.Errorf("Codes()[%d] = %v, want %v", i, all[i], want.code)
		}
		if got := want.code.String(); got != want.name {
			t.Errorf("String of code %d = %q, want %q", want.code, got, want.name)
		}
		if got := want.code.Error(); got != want.name {
			t.Errorf("Error of %v = %q", want.code, got)
		}
		if got := want.code.HTTPStatus(); got != want.status {
			t.Errorf("HTTPStatus of %v = %d, want %d", want.code, got, want.status)
		}
		if got, err := rpc.ParseCode(want.name); err != nil || got != want.code {
			t.Errorf("ParseCode(%q) = %v, %v", want.name, got, err)
		}
	}
}

func TestCodesIsACopy(t *testing.T) {
	t.Parallel()
	rpc.Codes()[0] = rpc.DataLoss
	if got := rpc.Codes()[0]; got != rpc.Canceled {
		t.Errorf("a caller changed the list: it begins with %v", got)
	}
}

func TestParseCodeRefuses(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "ok", "Not_Found", "NOT_FOUND", " not_found", "cancelled", "code(17)", "5"} {
		if c, err := rpc.ParseCode(name); err == nil || c != 0 {
			t.Errorf("ParseCode(%q) = %v, %v; want an error and no code", name, c, err)
		}
	}
}

// Every value of the underlying type is either one of the sixteen and survives
// JSON, or can't be written at all.
func TestCodeTextForAllValues(t *testing.T) {
	t.Parallel()
	for i := range 256 {
		c := rpc.Code(i)
		data, err := json.Marshal(c)
		if valid := slices.Contains(rpc.Codes(), c); valid != (err == nil) {
			t.Errorf("Marshal(Code(%d)): valid %t, error %v", i, valid, err)
			continue
		}
		if err != nil {
			continue
		}
		var back rpc.Code
		if err := json.Unmarshal(data, &back); err != nil || back != c {
			t.Errorf("%s came back as %v, %v", data, back, err)
		}
	}
}

func TestCodeTextKeepsOnError(t *testing.T) {
	t.Parallel()
	c := rpc.Aborted
	if err := c.UnmarshalText([]byte("nonsense")); err == nil {
		t.Error("an unknown name was accepted")
	}
	if c != rpc.Aborted {
		t.Errorf("a refused name changed the code to %v", c)
	}
}

func TestCodeOutsideTheSet(t *testing.T) {
	t.Parallel()
	if got := rpc.Code(0).String(); got != "ok" {
		t.Errorf("the zero code is %q", got)
	}
	if got := rpc.Code(0).HTTPStatus(); got != 200 {
		t.Errorf("the zero code has status %d", got)
	}
	for _, c := range []rpc.Code{17, 200, 255} {
		if got, want := c.String(), fmt.Sprintf("code(%d)", uint8(c)); got != want {
			t.Errorf("String = %q, want %q", got, want)
		}
		if got := c.HTTPStatus(); got != 500 {
			t.Errorf("%v has status %d, want 500", c, got)
		}
	}
}

func TestCodeOf(t *testing.T) {
	t.Parallel()
	plain := errors.New("disk full")
	for _, test := range []struct {
		name string
		err  error
		want rpc.Code
	}{
		{"nil", nil, 0},
		{"plain", plain, rpc.Unknown},
		{"coded", rpc.NotFound.Errorf("x"), rpc.NotFound},
		{"coded, wrapped", fmt.Errorf("placing: %w", rpc.NotFound.Errorf("x")), rpc.NotFound},
		{"coded, joined", errors.Join(plain, rpc.Aborted.Errorf("x")), rpc.Aborted},
		{"a bare code", rpc.DataLoss, rpc.DataLoss},
		{"a bare code, wrapped", fmt.Errorf("x: %w", rpc.DataLoss), rpc.DataLoss},
		{"deadline", context.DeadlineExceeded, rpc.DeadlineExceeded},
		{"canceled", context.Canceled, rpc.Canceled},
		{"canceled, wrapped", fmt.Errorf("x: %w", context.Canceled), rpc.Canceled},
		{"the outer code wins", rpc.Unavailable.Errorf("x: %w", rpc.NotFound.Errorf("y")), rpc.Unavailable},
		{"a code wins over the context's error", rpc.Internal.Errorf("x: %w", context.Canceled), rpc.Internal},
		{"an Error without a code", &rpc.Error{Message: "x"}, rpc.Unknown},
		{"an Error with an invalid code", &rpc.Error{Code: 99}, rpc.Unknown},
		{"a nil *Error", (*rpc.Error)(nil), rpc.Unknown},
		{"a nil *Error, wrapped", fmt.Errorf("%w", error((*rpc.Error)(nil))), rpc.Unknown},
		{"the zero code as an error", rpc.Code(0), rpc.Unknown},
	} {
		if got := rpc.CodeOf(test.err); got != test.want {
			t.Errorf("%s: CodeOf = %v, want %v", test.name, got, test.want)
		}
	}
	for _, c := range rpc.Codes() {
		if got := rpc.CodeOf(c.Errorf("x")); got != c {
			t.Errorf("CodeOf(%v.Errorf) = %v", c, got)
		}
	}
}
