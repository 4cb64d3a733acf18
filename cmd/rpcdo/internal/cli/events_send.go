package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
)

type sendFlags struct {
	connection
	id, subject, dedupe, correlation string
	at, after                        string
	expect                           uint64
	headers                          []string
	timeout                          time.Duration
	lines                            bool

	given func(flag string) bool
}

func (a *app) eventsSend() *cobra.Command {
	f := &sendFlags{}
	cmd := &cobra.Command{
		Use:   "send <Event.name> [JSON | -] [flags]",
		Short: "Send an event",
		Long: `Sends an event, and prints where it was stored: its subject, sequence and id.
The data are the second argument, or what is on stdin when that is "-". Without
it they are null. They are checked before anything is sent.

An event with the id, or the dedupe key and the type, of one that was sent
within two minutes is not stored again: "already stored" is said then, and it
is no error. With --expect it is stored only when the last event of its type
has that sequence, 0 for none.

With --at or --after it waits on the bus and is sent then; "rpcdo events cancel"
takes it back until that time. Times without an offset are of this machine's
clock.

With --lines each line of stdin is the data of one event, sent as it comes.
Lines that are empty are left out. Those that can't be sent are told with their
number and the others are sent all the same; the exit status is 1 then. With
--json there is a line for each on stdout, with what was stored or with
"error".`,
		Example: `  rpcdo events send User.registered '{"name":"Ada"}'
  echo '{"name":"Ada"}' | rpcdo events send User.registered -
  rpcdo events send User.registered '{"name":"Ada"}' --subject ada -H tenant=acme
  rpcdo events send Trial.ends '{"user":"ada"}' --after 14d --id trial-ada
  echo '{"name":"Ada"}' | rpcdo events send User.registered --lines --json`,
		Args: func(cmd *cobra.Command, args []string) error { return sendArgs(args, f.lines) },
		RunE: func(cmd *cobra.Command, args []string) error {
			f.given = cmd.Flags().Changed
			if f.lines {
				return a.runSendLines(cmd.Context(), f, args[0])
			}
			return a.runSend(cmd.Context(), f, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.id, "id", "", "`ID` of the event (default one of its own)")
	flags.StringVar(&f.subject, "subject", "", "`ENTITY` that the event is about, such as the id of a user")
	flags.StringVar(&f.dedupe, "dedupe", "", "`KEY` with which it is stored once for its type")
	flags.StringVar(&f.correlation, "correlation", "", "`ID` of the event that everything began with")
	flags.Uint64Var(&f.expect, "expect", 0, "`SEQUENCE` that the last event of its type must have; 0 for none")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "metadata to send along, as `NAME=VALUE`; may be repeated")
	flags.StringVar(&f.at, "at", "", "`TIME` at which it is sent, such as \"2026-12-24 18:00\"")
	flags.StringVar(&f.after, "after", "", "`TIME` from now on after which it is sent, such as 90m or 7d")
	flags.DurationVar(&f.timeout, "timeout", bus.DefaultTimeout, "how long to try")
	flags.BoolVar(&f.lines, "lines", false, "send an event for each line of stdin")
	f.register(cmd)
	return cmd
}

func sendArgs(args []string, lines bool) error {
	switch {
	case len(args) == 0:
		return errors.New("which event? want its type, such as User.registered")
	case len(args) > 2:
		return fmt.Errorf("%d arguments after the event: want one; put the JSON in quotes", len(args)-1)
	case lines && len(args) == 2 && args[1] != "-":
		return errors.New("--lines takes the data from stdin: leave out the argument after the event")
	}
	return checkEvent(args[0])
}

// options returns what the flags say of an event.
func (f *sendFlags) options() ([]pipeline.SendOption, error) {
	switch {
	case f.timeout < time.Millisecond:
		return nil, usagef("--timeout %v: want at least 1ms", f.timeout)
	case f.given("id") && f.given("dedupe"):
		return nil, usagef("--id and --dedupe both say what its id is: give one of them")
	case f.given("dedupe") && f.dedupe == "":
		return nil, usagef("--dedupe: the key is empty")
	}
	var opts []pipeline.SendOption
	for flag, opt := range map[string]pipeline.SendOption{
		"id": pipeline.WithID(f.id), "dedupe": pipeline.WithDedupe(f.dedupe), "expect": pipeline.WithExpectedSequence(f.expect),
		"subject": pipeline.WithSubject(f.subject), "correlation": pipeline.WithCorrelation(f.correlation),
	} {
		if f.given(flag) {
			opts = append(opts, opt)
		}
	}
	later, err := f.later(time.Now())
	if err != nil {
		return nil, err
	}
	if !later.IsZero() {
		opts = append(opts, pipeline.At(later))
	}
	for _, h := range f.headers {
		name, value, err := splitHeader(h)
		if err != nil {
			return nil, err
		}
		opts = append(opts, pipeline.WithHeader(name, value))
	}
	return opts, nil
}

// later returns when the event is to be sent, zero for now.
func (f *sendFlags) later(now time.Time) (time.Time, error) {
	at, after := f.given("at"), f.given("after")
	switch {
	case !at && !after:
		return time.Time{}, nil
	case at && after:
		return time.Time{}, usagef("--at and --after both say when it is sent: give one of them")
	case f.given("expect"):
		return time.Time{}, usagef("--expect is about the stream as it is now: it does not go with --at and --after")
	case after:
		wait, err := parseAge(f.after)
		if err != nil || wait < 0 {
			return time.Time{}, usagef("--after %.80q: want a time with its unit, such as 90m or 7d", f.after)
		}
		return now.Add(wait), nil
	}
	if t, ok := clockTime(f.at, time.Local); ok {
		return t, nil
	}
	return time.Time{}, usagef("--at %.80q: want a time, such as 2026-11-29T15:04:05Z or \"2026-11-29 15:04\"; --after takes how far ahead it is", f.at)
}

func (a *app) runSend(ctx context.Context, f *sendFlags, args []string) error {
	opts, err := f.options()
	if err != nil {
		return err
	}
	data, err := a.readJSON(ctx, "data", args[1:])
	if err != nil {
		return err
	}
	return a.withEvents(ctx, &f.connection, func(p *pipeline.Pipeline) error {
		ctx, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		receipt, err := p.Send(ctx, args[0], data, opts...)
		if err != nil {
			return asUsage(err)
		}
		return a.printReceipt(receipt)
	})
}

func (a *app) printReceipt(r pipeline.Receipt) error {
	if a.json {
		return a.printJSON(r)
	}
	did := "stored"
	if r.Duplicate {
		did = "already stored"
	}
	where := fmt.Sprintf("sequence %d", r.Sequence)
	if !r.At.IsZero() {
		where = "sent at " + shownTime(r.At)
	}
	_, err := fmt.Fprintf(a.env.Out, "%s %s, %s, id %s\n", did, plain(r.Subject), where, plain(r.ID))
	return err
}

// failedLine is a line that was not sent, for programs.
type failedLine struct {
	Line  int     `json:"line"`
	Error problem `json:"error"`
}

// sentLine is a line that was stored, for programs.
type sentLine struct {
	Line int `json:"line"`
	pipeline.Receipt
}

// codeOf returns the code of an error as it is printed.
func codeOf(err error) rpc.Code {
	switch f, isFailure := errors.AsType[failure](err); {
	case errors.As(err, new(usageError)):
		return rpc.InvalidArgument
	case isFailure:
		return f.code
	}
	return rpc.CodeOf(err)
}
