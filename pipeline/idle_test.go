package pipeline_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// TestIdleHandlers bounds what handlers cost that have nothing to do.
func TestIdleHandlers(t *testing.T) {
	const handlers, limit = 250, 64 << 10 // "rpcdo bench event" has 1,000
	l := newLab(t)
	g := newLog()
	register := func(svc *server.Service) {
		for i := range handlers {
			pipeline.On(svc, placed, fmt.Sprint("handler-", i), g.handle)
		}
	}
	begun := time.Now()
	l.serve("shop", register)() // the server, in this process as well, has the consumers now
	t.Logf("made in %v", time.Since(begun).Round(time.Millisecond))
	b := bustest.Connect(t, l.srv)
	before, goroutines := memory(), runtime.NumGoroutine()
	begun = time.Now()
	l.serveOn(b, "shop", register)
	t.Logf("started in %v", time.Since(begun).Round(time.Millisecond))
	l.send(1) // each has had something
	l.until("all have handled it", func() bool { return len(g.all()) == handlers })
	l.idle("shop", "handler-249")
	each := (memory() - before) / handlers
	t.Logf("%d bytes and %.2f goroutines a handler", each, float64(runtime.NumGoroutine()-goroutines)/handlers)
	if each > limit {
		t.Errorf("a handler at rest takes %d bytes, at most %d were to be", each, limit)
	}
}

func memory() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
