package durable_test

import (
	"fmt"
	"testing"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/durable"
	"rpc.do/server"
)

// A renamed class has the objects it had, under both names. Instances with the
// old name and with the new one share them.
func TestRenamedClass(t *testing.T) {
	t.Parallel()
	srv := bustest.Server(t)
	old, new := labOn(t, bustest.Connect(t, srv)), labOn(t, bustest.Connect(t, srv))
	add := func(p *page, ctx durable.Context, by string) (string, error) { return add(p, ctx, by) }
	as := func(name, method string) rpc.ObjectMethod[string, string] {
		return rpc.NewObjectMethod[string, string](name + "." + method)
	}
	const objects = 24
	each := func(l *lab, name, method string, want int) {
		t.Helper()
		for i := range objects {
			got, err := as(name, method).Call(t.Context(), l.far, fmt.Sprint("object ", i), "1", rpc.WithTimeout(labPatience))
			if err != nil || got != fmt.Sprint(want) {
				t.Errorf("%s.%s of object %d: %s, %v; want %d", name, method, i, got, err, want)
			}
		}
	}

	stopOld := old.serve(durable.Config{}, turns{"add": add}, views{"read": read})
	each(new, "page", "add", 1)

	svc := server.New(new.bus, "sheets", server.Config{})
	sheets := durable.Serve[page](svc, "sheet", durable.Config{Formerly: "page"})
	durable.Handle(sheets, as("sheet", "add"), add)
	durable.View(sheets, as("sheet", "read"), read)
	run(t, svc)

	// Both are there: the old name reaches all objects, at whichever instance.
	each(old, "page", "add", 2)
	each(new, "page", "read", 2)
	for i := range objects { // an instance with the new name passes on what it does not own
		got, err := new.request("rpc.sheet.read", `""`, "Rpc-Object", fmt.Sprint("object ", i))
		if err != nil || got != `"2"` {
			t.Errorf("by way of the new instance: %s, %v", got, err)
		}
	}

	stopOld()
	each(new, "sheet", "read", 2)
	each(new, "sheet", "add", 3)
	each(new, "page", "add", 4)
	each(old, "page", "read", 4)
	if got := new.stored(bus.Escape("object 1")); got != `{"value":4}` {
		t.Errorf("stored in the old bucket: %s", got)
	}
	if _, err := new.bus.JetStream().KeyValue(t.Context(), durable.Bucket("sheet")); err == nil {
		t.Error("a bucket was made for the new name")
	}

	// A cycle is one under whichever name.
	_, err := as("page", "add").Call(rpc.WithCallInfo(t.Context(), rpc.CallInfo{Chain: []string{bus.Link("sheet", "object 1")}}), new.far, "object 1", "1")
	new.coded(err, rpc.FailedPrecondition, "cycle")
}
