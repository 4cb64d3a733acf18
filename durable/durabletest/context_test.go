package durabletest_test

import (
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/durable"
	"rpc.do/durable/durabletest"
)

func TestStorage(t *testing.T) {
	t.Parallel()
	ctx := durabletest.New(t.Context(), "a")
	s := ctx.Storage()
	for _, key := range []string{"b/2", "a", "b/1", "c"} {
		if err := s.Put(key, len(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete("a"); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List(durable.ListOptions{Prefix: "b/", Reverse: true})
	if err != nil || len(entries) != 2 || entries[0].Key != "b/2" || string(entries[0].Value) != "3" {
		t.Errorf("List: %v, %v", entries, err)
	}
	if _, found, err := durable.Get[int](ctx.Read().Storage(), "a"); found || err != nil {
		t.Errorf("a deleted entry: found %v, %v", found, err)
	}
	for _, err := range []error{
		s.Put("", 1), s.Put(strings.Repeat("x", 257), 1), s.Put("x", func() {}), s.Delete("\xff"),
		ctx.Emit("Order", 1), ctx.Emit("Order.placed", func() {}),
	} {
		if rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("error %v, want invalid_argument", err)
		}
	}
	if _, err := s.Get("c", new([]string)); rpc.CodeOf(err) != rpc.InvalidArgument {
		t.Errorf("a value of another type: %v", err)
	}
}

func TestDestroy(t *testing.T) {
	t.Parallel()
	ctx := durabletest.New(t.Context(), "a")
	ctx.SetAlarm(time.Now())
	if err := ctx.Storage().Put("k", 1); err != nil {
		t.Fatal(err)
	}
	ctx.Destroy()
	_, alarm := ctx.Alarm()
	entries, err := ctx.Read().Storage().List(durable.ListOptions{})
	if !ctx.Destroyed() || alarm || len(entries) != 0 || err != nil {
		t.Errorf("destroyed %v, alarm %v, entries %v, %v", ctx.Destroyed(), alarm, entries, err)
	}
	ctx.SetAlarm(time.Now())
	ctx.DeleteAlarm()
	if _, alarm := ctx.Alarm(); alarm {
		t.Error("a deleted alarm is set")
	}
}
