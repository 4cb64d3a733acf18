package durabletest

import (
	"context"
	"sync"
	"testing"
	"time"

	"rpc.do/server"
)

// startTimeout bounds how long a service takes to serve.
const startTimeout = 30 * time.Second

// Run runs a service, with its classes, until the test ends or stop is called,
// which returns when it has ended. It returns when the service serves; the test
// fails when it does not, or does not end cleanly.
func Run(t testing.TB, svc *server.Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the service %s: %v", svc.Name(), err)
		}
	})
	t.Cleanup(stop)
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-svc.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("the service %s: %v", svc.Name(), err)
	case <-timeout.C:
		t.Fatalf("the service %s does not serve after %v", svc.Name(), startTimeout)
	}
	return stop
}
