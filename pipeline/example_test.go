package pipeline_test

import (
	"context"
	"errors"
	"fmt"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/natsd"
	"rpc.do/pipeline"
)

type User struct {
	Name string `json:"name"`
}

// The contract, for both sides.
var Registered = rpc.NewEvent[User]("User.registered")

// exampleBus returns a bus with a server of its own.
func exampleBus(ctx context.Context) (b *bus.Bus, done func(), err error) {
	srv, err := natsd.Start(ctx, natsd.Config{Port: natsd.FreePort, Sync: natsd.SyncInterval})
	if err != nil {
		return nil, nil, err
	}
	b, err = bus.Connect(ctx, bus.Config{InProcess: srv, Name: "example"})
	if err != nil {
		srv.Shutdown()
		return nil, nil, err
	}
	return b, func() { b.Close(); srv.Shutdown() }, nil
}

func ExampleSend() {
	ctx := context.Background()
	b, done, err := exampleBus(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer done()

	p := pipeline.New(b, pipeline.Config{})
	receipt, err := pipeline.Send(ctx, p, Registered, User{Name: "Ada"}, pipeline.WithSubject("user-17"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(receipt.Subject, receipt.Sequence)

	// The same order twice is one event.
	for range 2 {
		receipt, err = pipeline.Send(ctx, p, Registered, User{Name: "Grace"}, pipeline.WithDedupe("user-18"))
		fmt.Println(receipt.ID, receipt.Sequence, receipt.Duplicate, err)
	}

	// Only when nobody else has sent one in between.
	_, err = pipeline.Send(ctx, p, Registered, User{Name: "Alan"}, pipeline.WithExpectedSequence(1))
	fmt.Println(errors.Is(err, rpc.Aborted), err)
	// Output:
	// $.User.registered 1
	// User.registered/user-18 2 false <nil>
	// User.registered/user-18 2 true <nil>
	// true aborted: send User.registered: not stored: the last event of its type has the sequence 2, expected was 1
}

func ExampleSendBatch() {
	ctx := context.Background()
	b, done, err := exampleBus(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer done()

	p := pipeline.New(b, pipeline.Config{})
	receipts, err := pipeline.SendBatch(ctx, p, Registered, []User{{"Ada"}, {"Grace"}, {"Alan"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, receipt := range receipts {
		fmt.Println(receipt.Sequence)
	}
	// Output:
	// 1
	// 2
	// 3
}

// Of a batch whose events have several types, what is wrong with one is said of
// that one.
func ExamplePipeline_SendBatch() {
	ctx := context.Background()
	b, done, err := exampleBus(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer done()

	p := pipeline.New(b, pipeline.Config{})
	receipts, err := p.SendBatch(ctx, []pipeline.Item{
		{Event: "User.registered", Data: User{"Ada"}, Options: []pipeline.SendOption{pipeline.WithID("1")}},
		{Event: "user registered", Data: User{"Grace"}},
		{Event: "User.invited", Data: User{"Alan"}},
	})
	if failed, ok := errors.AsType[*pipeline.BatchError](err); ok {
		for _, f := range failed.Failed {
			fmt.Println(f.Index, f.Err)
		}
	}
	fmt.Println(receipts[0].ID, receipts[0].Sequence, receipts[2].Sequence)
	// Output:
	// 1 invalid_argument: send: event name "user registered": ' ' is not allowed, only A-Z a-z 0-9 _ -
	// 1 1 2
}

func ExampleParsePattern() {
	for _, text := range []string{"User.*", "$.User.>", "User"} {
		p, err := pipeline.ParsePattern(text)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(p, p.Match("User.registered"), p.Match("User.purchased.Product"))
	}
	// Output:
	// User.* true false
	// User.> true true
	// invalid_argument: pattern "User": one token: an event has two or more: write User.* for those of two, or $.User.> for all that begin with User
}
