package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/server"
)

// patience bounds one call, and the end of what was started.
const patience = 5 * time.Second

// numbers and sum are the values of what is measured: those of an addition,
// with padding that comes back.
type numbers struct {
	A   float64 `json:"a"`
	B   float64 `json:"b"`
	Pad string  `json:"pad,omitempty"`
}

type sum struct {
	Sum float64 `json:"sum"`
	Pad string  `json:"pad,omitempty"`
}

func (n numbers) add() sum { return sum{n.A + n.B, n.Pad} }

// request returns params whose JSON has size bytes, if that is enough for the
// numbers and the name of the padding.
func request(size int) numbers {
	const bare = len(`{"a":1,"b":2,"pad":""}`)
	return numbers{A: 1, B: 2, Pad: strings.Repeat("x", max(size-bare, 0))}
}

// workload is one thing to measure, ready to run.
type workload struct {
	name string
	op   func(context.Context) error
	stop func() error
}

// startCalls runs a service and makes a client of it.
func startCalls(ctx context.Context, cfg Config) (_ *workload, err error) {
	var open buses
	defer func() {
		if err != nil {
			_ = open.close() // the first error says more
		}
	}()
	serving, err := open.connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	calling := serving
	if cfg.Transport != Shortcut {
		if calling, err = open.connect(ctx, cfg); err != nil {
			return nil, err
		}
	}
	// The name is nobody else's on a bus that others use.
	name := "bench-" + nuid.Next()
	add := rpc.NewMethod[numbers, sum](name + ".add")
	svc := server.New(serving, name, server.Config{DrainTimeout: patience, Description: "Runs while rpcdo bench measures."})
	server.Handle(svc, add, func(_ context.Context, n numbers) (sum, error) { return n.add(), nil })
	stop, err := run(ctx, svc)
	if err != nil {
		return nil, err
	}
	c := client.New(calling, client.Config{Timeout: patience})
	params := request(cfg.Size)
	return &workload{
		name: "rpc.do call",
		op: func(ctx context.Context) error {
			_, err := add.Call(ctx, c, params)
			return err
		},
		stop: func() error { return firstError(stop(), open.close()) },
	}, nil
}

// run starts the service and returns when it takes calls.
func run(ctx context.Context, svc *server.Service) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
		return func() error { cancel(); return <-ended }, nil
	case err := <-ended:
		cancel()
		return nil, err
	}
}

// startRaw does the same work with nats.go alone: JSON both ways, a request, a
// subscription in a queue group.
func startRaw(ctx context.Context, cfg Config) (_ *workload, err error) {
	var open buses
	defer func() {
		if err != nil {
			_ = open.close()
		}
	}()
	serving, err := open.connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	calling, err := open.connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	subject := "bench-" + nuid.Next()
	if _, err := serving.Conn().QueueSubscribe(subject, "bench", answer); err != nil {
		return nil, fmt.Errorf("raw nats.go: %w", err)
	}
	if err := serving.Conn().FlushTimeout(patience); err != nil {
		return nil, fmt.Errorf("raw nats.go: %w", err)
	}
	params, nc := request(cfg.Size), calling.Conn()
	return &workload{
		name: "raw nats.go request/reply",
		op: func(context.Context) error {
			data, err := json.Marshal(params)
			if err != nil {
				return err
			}
			msg, err := nc.Request(subject, data, patience)
			if err != nil {
				return fmt.Errorf("raw nats.go: %w", err)
			}
			var s sum
			return json.Unmarshal(msg.Data, &s)
		},
		stop: open.close,
	}, nil
}

// answer is the raw handler. What fails shows as a request without an answer.
func answer(msg *nats.Msg) {
	var n numbers
	if json.Unmarshal(msg.Data, &n) != nil {
		return
	}
	data, err := json.Marshal(n.add())
	if err != nil {
		return
	}
	_ = msg.Respond(data)
}

// buses are connections to close at the end.
type buses []*bus.Bus

func (o *buses) connect(ctx context.Context, cfg Config) (*bus.Bus, error) {
	b, err := cfg.Connect(ctx)
	if err == nil {
		*o = append(*o, b)
	}
	return b, err
}

func (o *buses) close() error {
	var first error
	for _, b := range *o {
		first = firstError(first, b.Close())
	}
	return first
}
