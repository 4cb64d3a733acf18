package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
)

// maxInput bounds what is read from stdin: more than any bus takes.
const maxInput = 64 << 20

// callAttempts is how often a call is sent while nobody listens. With the
// client's backoff that is over in about half a second.
const callAttempts = 4

type callFlags struct {
	connection
	timeout time.Duration
	headers []string
	object  string
}

func (a *app) call() *cobra.Command {
	f := &callFlags{}
	cmd := &cobra.Command{
		Use:   "call <service>.<method> [JSON | -] [flags]",
		Short: "Call a method and print its result",
		Long: `Calls a method and prints its result as JSON on stdout: indented on a terminal,
on one line otherwise.

The params are the second argument, or what is on stdin when that is "-".
Without it they are null, which is right for a method that takes none. They are
checked before anything is sent: JSON that is malformed is a wrong command line,
status 2.

A call that fails prints its code, message and details on stderr, status 1.`,
		Example: `  rpcdo call math.add '{"a":1,"b":2}'
  rpcdo call orders.place - <order.json
  rpcdo call greeter.hello '{"name":"Ada"}' --timeout 2s -H tenant=acme
  rpcdo call cart.add '{"sku":"abc"}' --object alice
  rpcdo call math.divide '{"a":1,"b":0}' --json`,
		GroupID: groupCall,
		Args:    callArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runCall(cmd.Context(), f, args) },
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.timeout, "timeout", bus.DefaultTimeout, "how long to wait for the answer")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "metadata to send along, as name=value; may be repeated")
	flags.StringVar(&f.object, "object", "", "id of the object to call the method on")
	f.register(cmd)
	return cmd
}

func callArgs(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return errors.New("which method? want <service>.<method>, such as math.add")
	case 1, 2:
		return nil
	default:
		return fmt.Errorf("%d arguments after the method: want one; put the JSON in quotes", len(args)-1)
	}
}

func (a *app) runCall(ctx context.Context, f *callFlags, args []string) (err error) {
	call, err := f.build(args[0])
	if err != nil {
		return err
	}
	params, err := a.readParams(ctx, args[1:])
	if err != nil {
		return err
	}
	var result json.RawMessage
	call.Params, call.Result = &params, &result

	b, err := f.open(ctx, a, nil, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	c := client.New(b, client.Config{MaxAttempts: callAttempts})
	if err := c.Call(ctx, call); err != nil {
		return withHint(call, err)
	}
	return a.printJSON(result)
}

// build makes the call that the command line asks for, without its params.
func (f *callFlags) build(name string) (*rpc.Call, error) {
	call := &rpc.Call{Object: f.object, Timeout: f.timeout}
	var err error
	if call.Service, call.Method, err = rpc.SplitName(name); err != nil {
		return nil, usageError{err}
	}
	if f.timeout < time.Millisecond {
		return nil, usagef("--timeout %v: want at least 1ms", f.timeout)
	}
	if f.object != "" {
		if err := rpc.ValidateObjectID(f.object); err != nil {
			return nil, usagef("--object: %w", err)
		}
	}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return nil, usagef("--header %q: want name=value", h)
		}
		if err := rpc.ValidateHeader(name, value); err != nil {
			return nil, usagef("--header: %s", rpcMessage(err))
		}
		if call.Header == nil {
			call.Header = rpc.Header{}
		}
		call.Header[name] = append(call.Header[name], value)
	}
	return call, nil
}

// readParams returns the params that are given on the command line or stdin.
func (a *app) readParams(ctx context.Context, args []string) (json.RawMessage, error) {
	if len(args) == 0 {
		return json.RawMessage("null"), nil
	}
	where, data := "params", []byte(args[0])
	if args[0] == "-" {
		var err error
		if data, err = readAll(ctx, a.env.In); err != nil {
			return nil, err
		}
		where = "params on stdin"
	}
	if err := checkJSON(where, data); err != nil {
		return nil, err
	}
	return data, nil
}

// readAll reads in until its end or until ctx ends. A read of a terminal can't
// be interrupted: in the latter case it is left behind, and ends with the
// program.
func readAll(ctx context.Context, in io.Reader) ([]byte, error) {
	type input struct {
		data []byte
		err  error
	}
	read := make(chan input, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(in, maxInput+1))
		read <- input{data, err}
	}()
	select {
	case <-ctx.Done():
		return nil, failf(rpc.Canceled, "interrupted while reading stdin")
	case in := <-read:
		switch {
		case in.err != nil:
			return nil, failf(rpc.Unknown, "reading stdin: %w", in.err)
		case len(in.data) > maxInput:
			return nil, failf(rpc.ResourceExhausted, "stdin has more than %d bytes, no bus takes that much", maxInput)
		}
		return in.data, nil
	}
}

// checkJSON says where data is not one JSON value.
func checkJSON(where string, data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return usagef("%s: empty: want one JSON value, such as {} or null", where)
	}
	if !utf8.Valid(data) {
		return usagef("%s: not valid UTF-8", where)
	}
	var any json.RawMessage
	err := json.Unmarshal(data, &any)
	if err == nil {
		return nil
	}
	syntax, ok := errors.AsType[*json.SyntaxError](err)
	if !ok {
		return usagef("%s: malformed JSON: %w", where, err)
	}
	// Offset counts the bytes up to and with the one that is wrong.
	before := data[:max(0, min(int(syntax.Offset), len(data))-1)]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return usagef("%s: malformed JSON at line %d, column %d: %w", where, line, column, err)
}

// withHint says how to find out more when there is a way.
func withHint(call *rpc.Call, err error) error {
	e, ok := errors.AsType[*rpc.Error](err)
	if !ok || e.Code != rpc.Unimplemented || !e.Remote() {
		return err
	}
	hinted := *e
	hinted.Message = fmt.Sprintf("%s: %s; `rpcdo services info %s` lists its methods", call.Name(), e.Message, call.Service)
	return &hinted
}

// rpcMessage returns the message of a coded error without its code.
func rpcMessage(err error) string {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e.Message
	}
	return err.Error()
}
