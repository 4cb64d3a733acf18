package pipeline_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"rpc.do/pipeline"
)

// A page of many pulls has all of its events, also when they are so large that the
// server says how each pull has ended.
func TestHistoryOfManyPulls(t *testing.T) {
	t.Parallel()
	_, p := newEvents(t)
	const n = 2600
	items := make([]pipeline.Item, n)
	want := make([]uint64, n)
	for i := range items {
		items[i] = pipeline.Item{Event: "Load.more", Data: strings.Repeat("x", 2000)}
		want[i] = uint64(i + 1)
	}
	if _, err := p.SendBatch(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a page has more than a request's time
	defer cancel()
	for range 2 {
		for _, patterns := range [][]string{nil, {"Load.more"}} {
			page, err := p.History(ctx, pipeline.Query{Limit: pipeline.MaxPage, Patterns: patterns})
			if err != nil || page.Next != "" {
				t.Fatalf("next %q, %v", page.Next, err)
			}
			checkSequences(t, "the page", page.Events, want)
		}
	}
}
