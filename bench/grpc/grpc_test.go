package grpc

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/natsd"
	"rpc.do/client"
	"rpc.do/server"
)

type echoValue struct {
	Text string `json:"text"`
}

var echo = rpc.NewMethod[echoValue, echoValue]("bench.echo")

// echoes starts the same echo method behind gRPC, behind the bus and behind
// plain nats.go, each over TCP on loopback and with one connection a side.
func echoes(tb testing.TB, size int) (overGRPC, overBus, overNATS func() error) {
	text := strings.Repeat("x", size)
	ctx := context.Background()

	conn := startGRPC(tb)
	overGRPC = func() error {
		out := new(wrapperspb.StringValue)
		return conn.Invoke(ctx, "/bench.Echo/Echo", wrapperspb.String(text), out)
	}

	c, plain := startBus(tb)
	overBus = func() error {
		_, err := echo.Call(ctx, c, echoValue{text})
		return err
	}
	overNATS = func() error {
		params, err := json.Marshal(echoValue{text})
		if err != nil {
			return err
		}
		msg, err := plain.Request("plain.echo", params, 5*time.Second)
		if err != nil {
			return err
		}
		return json.Unmarshal(msg.Data, new(echoValue))
	}
	return overGRPC, overBus, overNATS
}

// servePlain answers requests with plain nats.go.
func servePlain(tb testing.TB, conn *nats.Conn) {
	_, err := conn.QueueSubscribe("plain.>", "q", func(msg *nats.Msg) {
		var v echoValue
		if err := json.Unmarshal(msg.Data, &v); err != nil {
			tb.Error(err)
		}
		result, err := json.Marshal(v)
		if err != nil {
			tb.Error(err)
		}
		if err := msg.Respond(result); err != nil {
			tb.Error(err)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		tb.Fatal(err)
	}
}

func startGRPC(tb testing.TB) *grpc.ClientConn {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	srv := grpc.NewServer()
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Echo",
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				in := new(wrapperspb.StringValue)
				if err := decode(in); err != nil {
					return nil, err
				}
				return wrapperspb.String(in.Value), nil
			},
		}},
	}, struct{}{})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
		srv.Stop()
		<-served
	})
	return conn
}

func startBus(tb testing.TB) (*client.Client, *nats.Conn) {
	srv, err := natsd.Start(tb.Context(), natsd.Config{Port: natsd.FreePort})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(srv.Shutdown)
	connect := func() *bus.Bus {
		b, err := bus.Connect(tb.Context(), bus.Config{URLs: []string{srv.URL()}, Name: "bench"})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := b.Close(); err != nil {
				tb.Error(err)
			}
		})
		return b
	}
	serving, calling := connect(), connect()
	servePlain(tb, serving.Conn())
	svc := server.New(serving, "bench", server.Config{})
	server.Handle(svc, echo, func(_ context.Context, v echoValue) (echoValue, error) { return v, nil })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	<-svc.Ready()
	tb.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return client.New(calling, client.Config{}), calling.Conn()
}

// run makes n calls from that many callers and returns how long it took.
func run(tb testing.TB, n, callers int, call func() error) time.Duration {
	start := time.Now()
	var wg sync.WaitGroup
	var made atomic.Int64
	for range callers {
		wg.Go(func() {
			for made.Add(1) <= int64(n) {
				if err := call(); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// BenchmarkUnary reports the times of a call over gRPC, over the bus and with
// plain nats.go, and how many times gRPC's throughput the latter two are: the
// medians over alternating rounds.
func BenchmarkUnary(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			overGRPC, overBus, overNATS := echoes(b, 128)
			const rounds = 9
			n := max(b.N/rounds, 1)
			for _, call := range []func() error{overGRPC, overBus, overNATS} {
				run(b, n, callers, call) // warms up
			}
			var grpcTimes, busTimes, natsTimes []float64
			b.ResetTimer()
			for range rounds {
				grpcTimes = append(grpcTimes, float64(run(b, n, callers, overGRPC))/float64(n))
				busTimes = append(busTimes, float64(run(b, n, callers, overBus))/float64(n))
				natsTimes = append(natsTimes, float64(run(b, n, callers, overNATS))/float64(n))
			}
			b.ReportMetric(median(busTimes), "bus-ns/op")
			b.ReportMetric(median(natsTimes), "nats-ns/op")
			b.ReportMetric(median(grpcTimes), "grpc-ns/op")
			b.ReportMetric(median(grpcTimes)/median(busTimes), "bus×grpc")
			b.ReportMetric(median(grpcTimes)/median(natsTimes), "nats×grpc")
		})
	}
}

func median(times []float64) float64 {
	slices.Sort(times)
	return times[len(times)/2]
}
