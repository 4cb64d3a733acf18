package pipelineworker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/pipeline"
	"rpc.do/server/workers/pipelineworker"
)

// demo runs a bus with the pipeline service and returns a connection to it.
func demo() (b *bus.Bus, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	srv, err := natsd.Start(ctx, natsd.Config{Port: natsd.FreePort})
	if err != nil {
		panic(err)
	}
	b, err = bus.Connect(ctx, bus.Config{InProcess: srv, Name: "example"})
	if err != nil {
		panic(err)
	}
	svc := pipelineworker.New(b, pipelineworker.Config{})
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	<-svc.Ready()
	return b, func() {
		cancel()
		if err := errors.Join(<-ended, settled(b), b.Close()); err != nil {
			panic(err)
		}
		srv.Shutdown()
	}
}

// A client sends an event and makes a schedule by calls.
func Example() {
	b, stop := demo()
	defer stop()
	ctx := context.Background()

	c := client.New(b, client.Config{})
	sent, err := pipeline.EventSend.Call(ctx, c, pipeline.EventSendParams{
		EventType: "user.created", Payload: json.RawMessage(`{"userId":"123"}`),
	})
	fmt.Println(sent.Subject, sent.Sequence, err)

	made, err := pipeline.ScheduleCreate.Call(ctx, c, pipeline.ScheduleCreateParams{
		ScheduleSpec: pipeline.ScheduleSpec{Cron: "0 0 * * *", Handler: "daily-report"},
	})
	fmt.Println(made.Name, made.Next.Format("15:04"), err)

	_, err = pipeline.ScheduleCreate.Call(ctx, c, pipeline.ScheduleCreateParams{
		ScheduleSpec: pipeline.ScheduleSpec{Cron: "every day", Handler: "weekly-report"},
	})
	fmt.Println(rpc.CodeOf(err))
	// Output:
	// $.user.created 1 <nil>
	// daily-report 00:00 <nil>
	// invalid_argument
}
