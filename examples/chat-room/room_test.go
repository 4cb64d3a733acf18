package chatroom

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable/durabletest"
	"rpc.do/server"
)

func TestMain(m *testing.M) { bustest.Main(m) }

func TestKept(t *testing.T) {
	t.Parallel()
	ctx := durabletest.New(t.Context(), "lobby")
	var r room
	for i := range Kept + 5 {
		if _, err := r.post(ctx, Draft{Author: "ada", Text: fmt.Sprint(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := r.read(ctx.Read(), Range{})
	if err != nil || len(all) != Kept || all[0].Number != 6 || all[Kept-1].Text != fmt.Sprint(Kept+5) {
		t.Errorf("%d messages from %v, %v", len(all), all[0], err)
	}
	some, err := r.read(ctx.Read(), Range{After: 50, Limit: 3})
	if err != nil || len(some) != 3 || some[0].Number != 51 {
		t.Errorf("a range: %v, %v", some, err)
	}
	if n := len(ctx.Events()); n != Kept+5 {
		t.Errorf("%d events", n)
	}
}

func TestRoom(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	svc := server.New(b, "chat", server.Config{})
	Serve(svc)
	durabletest.Run(t, svc)
	c := client.New(b, client.Config{})
	defer c.Close()
	if _, err := Post.Call(t.Context(), c, "lobby", Draft{Author: "ada"}); rpc.CodeOf(err) != rpc.InvalidArgument {
		t.Errorf("an empty text: %v", err)
	}
	posted, err := Post.Call(t.Context(), c, "lobby", Draft{Author: "ada", Text: "hello"})
	if err != nil || posted.Number != 1 || posted.Room != "lobby" {
		t.Fatal(posted, err)
	}
	read, err := Read.Call(t.Context(), c, "lobby", Range{})
	if err != nil || len(read) != 1 || read[0] != posted {
		t.Errorf("read: %v, %v", read, err)
	}
	for _, r := range []Range{{After: -1}, {After: math.MaxInt64}, {Limit: -1}} {
		if got, err := Read.Call(t.Context(), c, "lobby", r); rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("read %+v: %v, %v", r, got, err)
		}
	}
	if rest, err := Read.Call(t.Context(), c, "lobby", Range{After: math.MaxInt64 - 1}); err != nil || len(rest) != 0 {
		t.Errorf("read after the last number: %v, %v", rest, err)
	}
	events, err := b.JetStream().Stream(t.Context(), "EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(10 * time.Second)
	for {
		msg, err := events.GetLastMsgForSubject(t.Context(), "$.Room.posted")
		if err == nil {
			var m Message
			if err := json.Unmarshal(msg.Data, &m); err != nil || m != posted {
				t.Errorf("event: %s, %v", msg.Data, err)
			}
			return
		}
		if time.Now().After(limit) {
			t.Fatal("the message does not become an event")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
