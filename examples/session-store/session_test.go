package sessionstore

import (
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/durable/durabletest"
	"rpc.do/server"
)

func TestMain(m *testing.M) { bustest.Main(m) }

func TestExpire(t *testing.T) {
	t.Parallel()
	ctx := durabletest.New(t.Context(), "s1")
	var s session
	if _, err := s.save(ctx, Data{Values: map[string]string{"user": "ada"}, TTL: 60}); err != nil {
		t.Fatal(err)
	}
	at, set := ctx.Alarm()
	if !set || !at.Equal(s.Expires.Truncate(time.Millisecond)) {
		t.Fatalf("alarm %v, %v, want %v", at, set, s.Expires)
	}
	ctx.DeleteAlarm() // as when it has fired
	if err := s.expire(ctx, durable.Alarm{}); err != nil || ctx.Destroyed() {
		t.Fatalf("a live session: destroyed %v, %v", ctx.Destroyed(), err)
	}
	if _, set := ctx.Alarm(); !set {
		t.Error("the alarm of a live session is not set again")
	}
	s.Expires = time.Now().Add(-time.Second)
	if _, err := s.load(ctx.Read(), rpc.None{}); rpc.CodeOf(err) != rpc.NotFound {
		t.Errorf("load of an ended session: %v", err)
	}
	if _, err := s.keep(ctx, rpc.None{}); rpc.CodeOf(err) != rpc.NotFound {
		t.Errorf("keep of an ended session: %v", err)
	}
	if err := s.expire(ctx, durable.Alarm{}); err != nil || !ctx.Destroyed() {
		t.Errorf("an ended session: destroyed %v, %v", ctx.Destroyed(), err)
	}
}

func TestSession(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	svc := server.New(b, "web", server.Config{})
	Serve(svc)
	durabletest.Run(t, svc)
	c := client.New(b, client.Config{})
	defer c.Close()
	ctx := t.Context()
	if _, err := Load.Call(ctx, c, "s1", rpc.None{}); rpc.CodeOf(err) != rpc.NotFound {
		t.Errorf("load before save: %v", err)
	}
	if _, err := Save.Call(ctx, c, "s1", Data{TTL: -1}); rpc.CodeOf(err) != rpc.InvalidArgument {
		t.Errorf("a negative ttl: %v", err)
	}
	for _, values := range []map[string]string{{"user": "ada"}, {"cart": "7"}} {
		if _, err := Save.Call(ctx, c, "s1", Data{Values: values, TTL: 1}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load.Call(ctx, c, "s1", rpc.None{})
	if err != nil || got.Values["user"] != "ada" || got.Values["cart"] != "7" {
		t.Errorf("load: %v, %v", got, err)
	}
	objects, err := b.JetStream().KeyValue(ctx, durable.Bucket("session"))
	if err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(10 * time.Second)
	for {
		if _, err := objects.Get(ctx, "s1"); err != nil {
			break // the alarm has deleted it
		}
		if time.Now().After(limit) {
			t.Fatal("the session does not delete itself")
		}
		time.Sleep(20 * time.Millisecond)
	}
}
