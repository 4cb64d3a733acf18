package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/server"
)

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

// Call measures calls, one row for each concurrency. It ends early, with an
// error, when ctx ends or a call fails.
func Call(ctx context.Context, cfg Config) (rows []Row, err error) {
	params := request(cfg.Size)
	ours, err := startCalls(ctx, cfg, params, numbers.add)
	if err != nil {
		return nil, err
	}
	ours.row = fmt.Sprintf("call/%s/%s", cfg.Transport, sizeName(cfg.Size))
	defer func() { err = firstError(err, ours.stop()) }()
	sides := []*workload{ours}
	if cfg.Baseline {
		raw, err := startRaw(ctx, cfg, params, numbers.add)
		if err != nil {
			return nil, err
		}
		defer func() { err = firstError(err, raw.stop()) }()
		sides = append(sides, raw)
	}
	for _, n := range cfg.Concurrency {
		measured, err := measure(ctx, cfg, n, sides...)
		if err != nil {
			return nil, err
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

// startCalls runs a service that turns params into results, and makes a client
// of it.
func startCalls[P, R any](ctx context.Context, cfg Config, params P, handle func(P) R) (_ *workload, err error) {
	var open buses
	defer func() {
		if err != nil {
			_ = open.close() // the first error says more
		}
	}()
	serving, calling, err := open.pair(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// The name is nobody else's on a bus that others use.
	name := "bench-" + nuid.Next()
	method := rpc.NewMethod[P, R](name + ".call")
	svc := server.New(serving, name, server.Config{DrainTimeout: patience, Description: description})
	server.Handle(svc, method, func(_ context.Context, p P) (R, error) { return handle(p), nil })
	stop, err := run(ctx, svc)
	if err != nil {
		return nil, err
	}
	c := client.New(calling, client.Config{Timeout: patience})
	return &workload{
		name: "rpc.do call",
		op: func(ctx context.Context, _ int) error {
			_, err := method.Call(ctx, c, params)
			return err
		},
		stop: func() error { return firstError(stop(), open.close()) },
	}, nil
}

// startRaw does the same work with nats.go alone: JSON both ways, a request, a
// subscription in a queue group.
func startRaw[P, R any](ctx context.Context, cfg Config, params P, handle func(P) R) (_ *workload, err error) {
	var open buses
	defer func() {
		if err != nil {
			_ = open.close()
		}
	}()
	serving, calling, err := open.apart(ctx, cfg)
	if err != nil {
		return nil, err
	}
	subject := "bench-" + nuid.Next()
	if err := listen(serving, subject, func(msg *nats.Msg) { answer(msg, handle) }); err != nil {
		return nil, err
	}
	nc := calling.Conn()
	return &workload{
		name: "raw nats.go request/reply",
		op: func(context.Context, int) error {
			_, err := requestRaw[P, R](nc, subject, params)
			return err
		},
		stop: open.close,
	}, nil
}

func requestRaw[P, R any](nc *nats.Conn, subject string, params P) (result R, err error) {
	data, err := json.Marshal(params)
	if err != nil {
		return result, err
	}
	msg, err := nc.Request(subject, data, patience)
	if err != nil {
		return result, fmt.Errorf("raw nats.go: %w", err)
	}
	return result, json.Unmarshal(msg.Data, &result)
}

// answer is the raw handler. What fails shows as a request without an answer.
func answer[P, R any](msg *nats.Msg, handle func(P) R) {
	var p P
	if json.Unmarshal(msg.Data, &p) != nil {
		return
	}
	respond(msg, handle(p))
}

func respond(msg *nats.Msg, result any) {
	if data, err := json.Marshal(result); err == nil {
		_ = msg.Respond(data)
	}
}

func sizeName(size int) string {
	switch {
	case size <= 128:
		return "small"
	case size%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", size>>20)
	case size%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", size>>10)
	default:
		return fmt.Sprintf("%dB", size)
	}
}
