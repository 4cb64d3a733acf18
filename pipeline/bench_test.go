package pipeline_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
)

type benchUser struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

var benchRegistered = rpc.NewEvent[benchUser]("User.registered")

func newBenchUser() benchUser {
	return benchUser{ID: "user-17", Name: "Ada Lovelace", Email: "ada@example.com"}
}

// benchBus is a bus whose server writes to disk now and then, with the stream of
// events.
func benchBus(b *testing.B, transport string) *bus.Bus {
	b.Helper()
	var opts []bustest.Option
	if transport == "inprocess" {
		opts = append(opts, bustest.InProcess())
	}
	bs := bustest.New(b, opts...)
	if _, err := bs.EnsureEvents(b.Context()); err != nil {
		b.Fatal(err)
	}
	return bs
}

// benchMessage is the message of the event, as somebody would make it who has its
// headers.
func benchMessage(id string, payload []byte) *nats.Msg {
	meta := bus.EventMeta{ID: id, Type: benchRegistered.Name(), Source: "/test"}
	return &nats.Msg{Subject: "$.User.registered", Header: meta.Header(), Data: payload}
}

// BenchmarkSend is one event at a time, by one sender and by 64, against the same
// messages published to JetStream.
func BenchmarkSend(b *testing.B) {
	payload, err := (bus.JSON{}).Marshal(newBenchUser())
	if err != nil {
		b.Fatal(err)
	}
	senders := map[string]func(*bus.Bus) func(ctx context.Context, n int64) error{
		"raw": func(bs *bus.Bus) func(context.Context, int64) error {
			js := bs.JetStream()
			return func(ctx context.Context, n int64) error {
				_, err := js.PublishMsg(ctx, benchMessage("00000000-0000-7000-8000-"+strconv.FormatInt(1e11+n, 10), payload))
				return err
			}
		},
		"rpc": func(bs *bus.Bus) func(context.Context, int64) error {
			p := pipeline.New(bs, pipeline.Config{})
			user := newBenchUser()
			return func(ctx context.Context, _ int64) error {
				_, err := pipeline.Send(ctx, p, benchRegistered, user)
				return err
			}
		},
	}
	for _, transport := range []string{"tcp", "inprocess"} {
		for _, callers := range []int{1, 64} {
			for _, how := range []string{"raw", "rpc"} {
				b.Run(transport+"/"+strconv.Itoa(callers)+"/"+how, func(b *testing.B) {
					send := senders[how](benchBus(b, transport))
					b.ReportAllocs()
					b.ResetTimer()
					var wg sync.WaitGroup
					var n atomic.Int64
					for range callers {
						wg.Go(func() {
							for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
								if err := send(b.Context(), i); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					wg.Wait()
				})
			}
		}
	}
}

// BenchmarkSendBatch is a thousand events at once, against the same messages
// published without waiting for each answer. A op is one event.
func BenchmarkSendBatch(b *testing.B) {
	const size = 1000
	payload, err := (bus.JSON{}).Marshal(newBenchUser())
	if err != nil {
		b.Fatal(err)
	}
	raw := func(b *testing.B, bs *bus.Bus) func(n int) error {
		js, err := jetstream.New(bs.Conn())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(js.CleanupPublisher)
		sent := 0
		return func(n int) error {
			all := make([]jetstream.PubAckFuture, n)
			for i := range all {
				sent++
				var err error
				if all[i], err = js.PublishMsgAsync(benchMessage("00000000-0000-7000-8000-"+strconv.Itoa(1e11+sent), payload)); err != nil {
					return err
				}
			}
			for _, ack := range all {
				select {
				case <-ack.Ok():
				case err := <-ack.Err():
					return err
				}
			}
			return nil
		}
	}
	rpc := func(b *testing.B, bs *bus.Bus) func(n int) error {
		p := pipeline.New(bs, pipeline.Config{})
		users := make([]benchUser, size)
		for i := range users {
			users[i] = newBenchUser()
		}
		return func(n int) error {
			_, err := pipeline.SendBatch(b.Context(), p, benchRegistered, users[:n])
			return err
		}
	}
	for _, transport := range []string{"tcp", "inprocess"} {
		for _, how := range []string{"raw", "rpc"} {
			b.Run(transport+"/"+how, func(b *testing.B) {
				sender := raw
				if how == "rpc" {
					sender = rpc
				}
				send := sender(b, benchBus(b, transport))
				b.ReportAllocs()
				b.ResetTimer()
				for done := 0; done < b.N; {
					n := min(size, b.N-done)
					if err := send(n); err != nil {
						b.Fatal(err)
					}
					done += n
				}
			})
		}
	}
}
