package bus

import (
	"context"
	"sync"
	"testing"
)

// localFake is a service of this process.
type localFake struct{ name string }

func (*localFake) ServeLocal(context.Context, *Request, LocalParams) (any, error) { return nil, nil }

func TestLocal(t *testing.T) {
	t.Parallel()
	l := newLocal()
	a, b, other := &localFake{"a"}, &localFake{"b"}, &localFake{"other"}
	finds := func(when, name string, want LocalService) {
		t.Helper()
		if got := l.Find(name); got != want {
			t.Errorf("%s: Find(%q) = %v, want %v", when, name, got, want)
		}
	}

	finds("nothing added", "orders", nil)
	stopA := l.Add("orders", a)
	finds("a added", "orders", a)
	finds("a added", "order", nil)
	finds("a added", "", nil)

	stopB, stopOther := l.Add("orders", b), l.Add("stock", other)
	finds("b added too", "orders", a)
	finds("other added too", "stock", other)

	stopA()
	finds("a stopped", "orders", b)
	stopA()
	finds("a stopped twice", "orders", b)
	stopB()
	finds("both stopped", "orders", nil)
	stopB()
	finds("both stopped twice", "orders", nil)
	finds("the others went on", "stock", other)

	stopOther()
	if len(l.services) != 0 {
		t.Errorf("left behind: %v", l.services)
	}
}

// Each bus makes its own, so that services of two buses in one process do not
// meet.
func TestLocalsAreSeparate(t *testing.T) {
	t.Parallel()
	one, two := newLocal(), newLocal()
	one.Add("orders", new(localFake))
	if two.Find("orders") != nil {
		t.Error("one finds the services of the other")
	}
}

// Services come and go while others look; one that stays is found all the time.
func TestLocalConcurrently(t *testing.T) {
	t.Parallel()
	l := newLocal()
	stays := &localFake{"stays"}
	l.Add("orders", stays)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				stop := l.Add("orders", &localFake{"goes"})
				if l.Find("orders") == nil {
					t.Error("nobody was found")
				}
				stop()
			}
		})
	}
	wg.Wait()
	if got := l.Find("orders"); got != stays || len(l.services["orders"]) != 1 {
		t.Errorf("in the end: %v of %v", got, l.services)
	}
}
