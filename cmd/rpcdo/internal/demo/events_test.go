package demo_test

import (
	"context"
	"testing"
	"time"

	"rpc.do/bus/bustest"
	"rpc.do/cmd/rpcdo/internal/demo"
	"rpc.do/pipeline"
)

// Who registers is greeted, once; who has no name becomes a dead letter.
func TestWhoRegistersIsGreeted(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serve(t, b, demo.Greeter(b))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p := pipeline.New(b, pipeline.Config{})
	watched, err := p.Watch(ctx, pipeline.WatchOptions{Patterns: []string{demo.Greeted.Name()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{" ", "Ada"} {
		if _, err := pipeline.Send(ctx, p, demo.Registered, demo.Person{Name: name}, pipeline.WithID("id-"+name+"x")); err != nil {
			t.Fatal(err)
		}
	}
	for e, err := range watched {
		if err != nil || string(e.Data) != `{"message":"Hello, Ada!"}` || e.CausationID != "id-Adax" || e.Source != "/greeter" || e.Subject != "Ada" {
			t.Errorf("got %+v, %v", e, err)
		}
		break
	}
	for {
		h, err := p.Handler(ctx, "greeter", demo.Handler)
		if err != nil {
			t.Fatal(err)
		}
		if h.Dead == 1 {
			break
		}
	}
}
