package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/pipeline"
)

func (a *app) events() *cobra.Command {
	return group(&cobra.Command{
		Use:   "events",
		Short: "Send events, and look at what becomes of them",
		Long: `Sends events and shows those that were sent, and the handlers that have them:
how far they are behind, what they could not handle, and what they are to have
again.

An event has a type, such as User.registered. A pattern says which types:
"User.*" and "*.created" are those of two words with that one, "User.>" is all
that begins with User, "$.>" every event. Put patterns in quotes.

A time is one like 2026-11-29T15:04:05Z or "2026-11-29 15:04", or says how long
ago: 90m, 12h, 7d.`,
		Example: `  rpcdo events send User.registered '{"name":"Ada"}'
  rpcdo events history --limit 10
  rpcdo events handlers`,
		GroupID: groupCall,
	}, a.eventsSend(), a.eventsCancel(), a.eventsTail(), a.eventsHistory(), a.eventsTrace(), a.eventsHandlers(), a.eventsLag(), a.eventsReplay(),
		a.eventsDead(), a.eventsRetention())
}

// withEvents opens the events of a bus for as long as do runs.
func (a *app) withEvents(ctx context.Context, f *connection, do func(*pipeline.Pipeline) error) (err error) {
	b, err := f.open(ctx, a, nil, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return do(pipeline.New(b, pipeline.Config{}))
}

// asUsage makes what the library says of its arguments a wrong command line.
func asUsage(err error) error {
	if e, ok := errors.AsType[*rpc.Error](err); ok && e.Code == rpc.InvalidArgument && !e.Remote() {
		return usagef("%s", e.Message)
	}
	return err
}

// checkEvent checks the type of an event to send.
func checkEvent(name string) error {
	err := rpc.ValidateEvent(name)
	switch bare, prefixed := bus.EventName(name); {
	case err == nil:
		return nil
	case prefixed && rpc.ValidateEvent(bare) == nil:
		return fmt.Errorf("event name %.80q: leave out the $. in front: %s", name, bare)
	case strings.ContainsAny(name, "*>") && checkPatterns(name) == nil:
		return fmt.Errorf("event name %.80q: that is a pattern: an event to send has a type, such as User.registered", name)
	}
	return err
}

// checkPatterns checks patterns, of the command line or of a flag.
func checkPatterns(patterns ...string) error {
	for _, text := range patterns {
		if _, err := pipeline.ParsePattern(text); err != nil {
			return errors.New(rpcMessage(err))
		}
	}
	return nil
}

// onlyPatterns wants any number of patterns.
func onlyPatterns(_ *cobra.Command, args []string) error { return checkPatterns(args...) }

// checkHandler checks the names of a service and, if there is a second, of a
// handler.
func checkHandler(args []string) error {
	for i, name := range args {
		if err := rpc.ValidateService(name); err != nil && i == 0 {
			return err
		} else if err != nil {
			return errors.New(strings.Replace(err.Error(), "service name", "handler", 1))
		}
	}
	return nil
}

// oneHandler wants a service and a handler.
func oneHandler(_ *cobra.Command, args []string) error {
	switch {
	case len(args) < 2:
		return errors.New("which handler? want a service and one of its handlers, such as greeter welcome")
	case len(args) > 2:
		return fmt.Errorf("%d arguments: want a service and one of its handlers, such as greeter welcome", len(args))
	}
	return checkHandler(args)
}

// atMostOneHandler wants a service and a handler, a service, or nothing.
func atMostOneHandler(_ *cobra.Command, args []string) error {
	if len(args) > 2 {
		return fmt.Errorf("%d arguments: want a service and one of its handlers at most, such as greeter welcome", len(args))
	}
	return checkHandler(args)
}

// surely asks whether to do something that can't be undone, unless it is known.
// Nothing says what the answer no comes to.
func (a *app) surely(ctx context.Context, yes bool, question, nothing string) error {
	if yes {
		return nil
	}
	sure, err := a.confirm(ctx, question)
	if err == nil && !sure {
		err = failf(rpc.Canceled, "%s", nothing)
	}
	return err
}
