package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rpc.do"
)

// usageError is a wrong command line: nothing was done.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// failure is an error of this program with a code for --json.
type failure struct {
	code rpc.Code
	err  error
}

func (e failure) Error() string { return e.err.Error() }
func (e failure) Unwrap() error { return e.err }

func failf(code rpc.Code, format string, args ...any) error {
	return failure{code, fmt.Errorf(format, args...)}
}

// problem is an error as it is printed.
type problem struct {
	Code         string       `json:"code"`
	Message      string       `json:"message"`
	Details      []rpc.Detail `json:"details"`
	RetryAfterMs int64        `json:"retryAfterMs,omitempty"`

	coded bool // the code says something to people too
}

// describe turns an error into what is printed.
func describe(err error) problem {
	p := problem{Code: rpc.Unknown.String(), Message: oneLine(err.Error()), Details: []rpc.Detail{}}
	if usage, ok := errors.AsType[usageError](err); ok {
		p.Code, p.Message = rpc.InvalidArgument.String(), oneLine(usage.Error())
		return p
	}
	if f, ok := errors.AsType[failure](err); ok {
		p.Code = f.code.String()
		return p
	}
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		p.Code, p.Message, p.coded = e.Code.String(), oneLine(e.Message), true
		p.Details = append(p.Details, e.Details...)
		p.RetryAfterMs = e.RetryAfter.Milliseconds()
		return p
	}
	return p
}

// report prints err for the command it came from and returns the exit status.
func (a *app) report(cmd *cobra.Command, err error) int {
	p, status := describe(err), exitFailed
	usage := errors.As(err, new(usageError))
	if usage {
		status = exitUsage
	}
	if a.json {
		var b strings.Builder
		// There is nobody left to tell that something is wrong with it.
		_ = json.NewEncoder(&b).Encode(p)
		fmt.Fprint(a.env.Err, plainJSON(b.String()))
		return status
	}
	var b strings.Builder
	b.WriteString("rpcdo: ")
	if p.coded {
		b.WriteString(p.Code)
		if p.Message != "" {
			b.WriteString(": ")
		}
	}
	b.WriteString(p.Message)
	if usage && cmd != nil {
		fmt.Fprintf(&b, " (see %s --help)", cmd.CommandPath())
	}
	b.WriteByte('\n')
	for _, d := range p.Details {
		fmt.Fprintf(&b, "  %s %s\n", plain(d.Type), compactJSON(d.Value))
	}
	if p.RetryAfterMs > 0 {
		fmt.Fprintf(&b, "  try again after %d ms\n", p.RetryAfterMs)
	}
	fmt.Fprint(a.env.Err, b.String())
	return status
}

// oneLine makes a message one line, without the name of the package that it
// comes from and without what could do something to a terminal.
func oneLine(text string) string {
	for _, prefix := range []string{"bus: ", "natsd: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return plain(strings.Join(lines, "; "))
}
