package demo_test

import (
	"context"
	"testing"
	"time"

	"rpc.do/bus/bustest"
	"rpc.do/cmd/rpcdo/internal/demo"
	"rpc.do/pipeline"
	"rpc.do/schedule"
)

// Whom a schedule names is greeted; a run for nobody fails.
func TestScheduledGreeting(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	serve(t, b, demo.Greeter(b))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	all := schedule.Open(b)
	for name, payload := range map[string]string{"ada": `{"name":" Ada"}`, "blank": `{"name":" "}`, "number": `7`} {
		spec := schedule.Spec{Name: name, Cron: "@yearly", Handler: demo.TickHandler, Payload: []byte(payload)}
		if _, err := all.Create(ctx, spec, false); err != nil {
			t.Fatal(err)
		}
		if _, err := all.Trigger(ctx, name, nil); err != nil {
			t.Fatal(err)
		}
		var outcomes []schedule.Outcome
		for len(outcomes) < 2 { // fired, and what became of the run
			var err error
			if outcomes, err = all.History(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		if finished := outcomes[0].State == schedule.Finished; finished != (name == "ada") {
			t.Errorf("%s: %+v", name, outcomes)
		}
	}
	page, err := pipeline.New(b, pipeline.Config{}).History(ctx, pipeline.Query{Patterns: []string{demo.Greeted.Name()}})
	if err != nil || len(page.Events) != 1 || string(page.Events[0].Data) != `{"message":"Hello, Ada!"}` || page.Events[0].Subject != "Ada" {
		t.Errorf("%+v, %v", page, err)
	}
}
