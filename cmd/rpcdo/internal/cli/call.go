package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
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
	noReply bool
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

A call that fails prints its code, message and details on stderr, status 1.

With --no-reply the call is sent and nothing is printed. Status 0 says then that
the bus has it, not that a service took it or did it.`,
		Example: `  rpcdo call math.add '{"a":1,"b":2}'
  echo '{"a":1,"b":2}' | rpcdo call math.add -
  rpcdo call greeter.hello '{"name":"Ada"}' --timeout 2s -H tenant=acme
  rpcdo call greeter.hello '{"name":"Ada"}' --no-reply
  rpcdo call counter.increment '{"by":1}' --object alice
  rpcdo call math.divide '{"a":1,"b":2}' --json`,
		GroupID: groupCall,
		Args:    callArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.object == "" && cmd.Flags().Changed("object") {
				return usagef("--object: the object's id is empty")
			}
			return a.runCall(cmd.Context(), f, args)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.timeout, "timeout", bus.DefaultTimeout, "how long to wait for the answer")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "metadata to send along, as `NAME=VALUE`; may be repeated")
	flags.StringVar(&f.object, "object", "", "`ID` of the object to call the method on")
	flags.BoolVar(&f.noReply, "no-reply", false, "send the call and want no answer; --timeout then bounds how long it may run")
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
	params, err := a.readJSON(ctx, "params", args[1:])
	if err != nil {
		return err
	}
	call.Params = &params
	b, err := f.open(ctx, a, nil, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	c := client.New(b, client.Config{MaxAttempts: callAttempts})
	if f.noReply {
		return send(ctx, b, c, call)
	}
	var result json.RawMessage
	call.Result = &result
	if err := c.Call(ctx, call); err != nil {
		return withHint(call, len(args) == 1, err)
	}
	return a.printJSON(result)
}

// send sends the call and returns when the bus has it.
func send(ctx context.Context, b *bus.Bus, c *client.Client, call *rpc.Call) error {
	call.OneWay = true
	if err := c.Call(ctx, call); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, call.Timeout)
	defer cancel()
	if err := b.Conn().FlushWithContext(ctx); err != nil {
		return rpc.CodeOf(err).Errorf("%s: the bus did not confirm that it has the call: %w", call.Name(), err)
	}
	// The refusal of what was published is there before the answer to a flush.
	if errors.Is(b.Conn().LastError(), nats.ErrPermissionViolation) {
		return rpc.PermissionDenied.Errorf("%s: the bus does not permit this user to publish on %s",
			call.Name(), bus.CallSubject(call.Service, call.Method))
	}
	return nil
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
		name, value, err := splitHeader(h)
		if err != nil {
			return nil, err
		}
		if call.Header == nil {
			call.Header = rpc.Header{}
		}
		call.Header[name] = append(call.Header[name], value)
	}
	return call, nil
}

// splitHeader reads one --header. Its errors do not quote the value, which may
// be a secret.
func splitHeader(text string) (name, value string, err error) {
	const example = "want name=value, such as -H tenant=acme"
	end := strings.IndexAny(text, "=:")
	switch {
	case end < 0:
		return "", "", usagef("--header %.80q: %s", text, example)
	case text[end] == ':':
		return "", "", usagef("--header \"%.80s: …\": %s, with an equals sign and no colon", plain(text[:end]), example)
	}
	name, value = text[:end], text[end+1:]
	if name == "" {
		return "", "", usagef("--header: the name is missing: %s", example)
	}
	if err := rpc.ValidateHeader(name, value); err != nil {
		return "", "", usagef("--header: %s", rpcMessage(err))
	}
	return name, value, nil
}

// readJSON returns the JSON that is given on the command line or on stdin, null
// when there is none. What it is called is for messages.
func (a *app) readJSON(ctx context.Context, what string, args []string) (json.RawMessage, error) {
	if len(args) == 0 {
		return json.RawMessage("null"), nil
	}
	where, data := what, []byte(args[0])
	if args[0] == "-" {
		var err error
		if data, err = readAll(ctx, a.env.In); err != nil {
			return nil, err
		}
		where += " on stdin"
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

// withHint says how to find out more, or what was meant, when there is a way.
// Bare says that the command line has no params.
func withHint(call *rpc.Call, bare bool, err error) error {
	e, ok := errors.AsType[*rpc.Error](err)
	if !ok {
		return err
	}
	hinted := *e
	switch name, prefixed := strings.CutPrefix(call.Name(), bus.CallPrefix); {
	case e.Code == rpc.Unimplemented && e.Remote():
		if !strings.HasPrefix(e.Message, call.Name()) {
			hinted.Message = call.Name() + ": " + e.Message
		}
		hinted.Message += fmt.Sprintf("; `rpcdo services info %s` lists its methods", call.Service)
	case e.Code == rpc.InvalidArgument && e.Remote() && strings.Contains(e.Message, bus.HeaderObject):
		hinted.Message = fmt.Sprintf("%s is a class of objects: name one with --object: rpcdo call %s --object ID", call.Service, call.Name())
	case e.Code == rpc.InvalidArgument && e.Remote() && bare:
		hinted.Message += fmt.Sprintf("; no params were given: rpcdo call %s '{…}'", call.Name())
	case e.Code == rpc.Unavailable && !e.Remote() && prefixed && strings.Contains(name, "."):
		hinted.Message = fmt.Sprintf("%s: nobody listens there: leave out %q, which is put in front: rpcdo call %s", call.Name(), bus.CallPrefix, name)
	}
	return &hinted
}

// rpcMessage returns the message of a coded error without its code.
func rpcMessage(err error) string {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e.Message
	}
	return err.Error()
}
