package server_test

import (
	"testing"

	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/server"
)

// A service may have a logger of its own, and says what wraps its calls.
func TestLogger(t *testing.T) {
	t.Parallel()
	ofBus, own := newLogbook(), newLogbook()
	logger := zerolog.New(own)
	svc := server.New(bustest.New(t, ofBus.option(zerolog.DebugLevel)), "logged", server.Config{
		Logger:       &logger,
		Interceptors: []rpc.Interceptor{{Name: "auth"}, {Name: "metrics"}},
	})
	svc.Entrypoint("Admin", rpc.Interceptor{Name: "admins-only"})
	start(t, svc)
	own.await(t, "the start", func(l logLine) bool { return l["message"] == "serving" && l.has("interceptors", "[auth metrics]") })
	own.await(t, "the start", func(l logLine) bool { return l["entrypoint"] == "Admin" && l.has("interceptors", "admins-only") })
	if n := ofBus.count(func(l logLine) bool { return l["service"] == "logged" }); n > 0 {
		t.Errorf("the bus's log has %d lines of the service", n)
	}
}
