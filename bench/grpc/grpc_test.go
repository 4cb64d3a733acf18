package grpc

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// both starts the same echo method behind gRPC and behind the bus, each over
// TCP on loopback and with one connection a side.
func both(tb testing.TB, size int) (overGRPC, overBus func() error) {
	text := strings.Repeat("x", size)
	ctx := tb.Context()

	conn := startGRPC(tb)
	overGRPC = func() error {
		out := new(wrapperspb.StringValue)
		return conn.Invoke(ctx, "/bench.Echo/Echo", wrapperspb.String(text), out)
	}

	c := startBus(tb)
	overBus = func() error {
		_, err := echo.Call(ctx, c, echoValue{text})
		return err
	}
	return overGRPC, overBus
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

func startBus(tb testing.TB) *client.Client {
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
	svc := server.New(connect(), "bench", server.Config{})
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
	return client.New(connect(), client.Config{})
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

// BenchmarkUnary reports, beside the time of a call over the bus, how many
// times the throughput of gRPC that is: the median over alternating rounds.
func BenchmarkUnary(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			overGRPC, overBus := both(b, 128)
			const rounds = 9
			n := max(b.N/rounds, 1)
			var ratios []float64
			var grpcTime, busTime time.Duration
			b.ResetTimer()
			for range rounds {
				g := run(b, n, callers, overGRPC)
				r := run(b, n, callers, overBus)
				grpcTime, busTime = grpcTime+g, busTime+r
				ratios = append(ratios, float64(g)/float64(r))
			}
			slices.Sort(ratios)
			calls := float64(n * rounds)
			b.ReportMetric(float64(busTime.Nanoseconds())/calls, "bus-ns/op")
			b.ReportMetric(float64(grpcTime.Nanoseconds())/calls, "grpc-ns/op")
			b.ReportMetric(ratios[rounds/2], "×grpc")
		})
	}
}
