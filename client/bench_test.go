package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/server"
)

type sumParams struct {
	A   float64 `json:"a"`
	B   float64 `json:"b"`
	Pad string  `json:"pad,omitempty"`
}

type sumResult struct {
	Sum float64 `json:"sum"`
	Pad string  `json:"pad,omitempty"`
}

var sum = rpc.NewMethod[sumParams, sumResult]("bench.sum")

func addUp(_ context.Context, p sumParams) (sumResult, error) {
	return sumResult{p.A + p.B, p.Pad}, nil
}

// BenchmarkCall measures a call against a plain nats.go request whose handler
// does the same, over the same kind of connection.
func BenchmarkCall(b *testing.B) {
	for _, transport := range []string{"tcp", "inprocess"} {
		for _, size := range []int{0, 64 << 10} {
			for _, callers := range []int{1, 64} {
				name := fmt.Sprintf("%s/size=%d/callers=%d", transport, size, callers)
				params := sumParams{1, 2, strings.Repeat("x", size)}
				b.Run(name+"/raw", func(b *testing.B) { each(b, callers, rawCall(b, transport, params)) })
				b.Run(name+"/rpc", func(b *testing.B) { each(b, callers, typedCall(b, transport, params, true)) })
				if transport == "inprocess" {
					b.Run(name+"/shortcut", func(b *testing.B) { each(b, callers, typedCall(b, transport, params, false)) })
				}
			}
		}
	}
}

// each runs op b.N times, spread over callers goroutines.
func each(b *testing.B, callers int, op func() error) {
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	var n atomic.Int64
	for range callers {
		wg.Go(func() {
			for n.Add(1) <= int64(b.N) {
				if err := op(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func rawCall(b testing.TB, transport string, params sumParams) func() error {
	srv := benchServer(b)
	serving, calling := benchConn(b, srv, transport), benchConn(b, srv, transport)
	_, err := serving.Conn().QueueSubscribe("raw.>", "q", func(m *nats.Msg) {
		var p sumParams
		if err := json.Unmarshal(m.Data, &p); err != nil {
			b.Error(err)
		}
		r, err := json.Marshal(sumResult{p.A + p.B, p.Pad})
		if err != nil {
			b.Error(err)
		}
		if err := m.Respond(r); err != nil {
			b.Error(err)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := serving.Conn().Flush(); err != nil {
		b.Fatal(err)
	}
	return func() error {
		data, err := json.Marshal(params)
		if err != nil {
			return err
		}
		m, err := calling.Conn().Request("raw.sum", data, 5*time.Second)
		if err != nil {
			return err
		}
		var r sumResult
		return json.Unmarshal(m.Data, &r)
	}
}

func typedCall(b testing.TB, transport string, params sumParams, remote bool) func() error {
	srv := benchServer(b)
	serving := benchConn(b, srv, transport)
	calling := serving
	if remote {
		calling = benchConn(b, srv, transport)
	}
	svc := server.New(serving, "bench", server.Config{})
	server.Handle(svc, sum, addUp)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	<-svc.Ready()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	c := client.New(calling, client.Config{})
	return func() error {
		_, err := sum.Call(context.Background(), c, params)
		return err
	}
}

func benchServer(b testing.TB) *natsd.Server {
	srv, err := natsd.Start(context.Background(), natsd.Config{Port: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(srv.Shutdown)
	return srv
}

func benchConn(b testing.TB, srv *natsd.Server, transport string) *bus.Bus {
	cfg := bus.Config{Name: "bench"}
	if transport == "inprocess" {
		cfg.InProcess = srv
	} else {
		cfg.URLs = []string{srv.URL()}
	}
	conn, err := bus.Connect(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := conn.Close(); err != nil {
			b.Error(err)
		}
	})
	return conn
}
