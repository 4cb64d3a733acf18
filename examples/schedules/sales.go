package schedules

import (
	"context"
	"sync"
	"time"

	"rpc.do"
)

// Sales knows what was sold.
type Sales interface {
	Total(ctx context.Context, day string) (int, error)
}

// Opened is the first day of the shop.
const Opened = "2026-01-01"

// FakeSales stands for a database: on each day as many were sold as the day of the
// month says. It is busy whenever it is asked about a day for the first time.
type FakeSales struct {
	mu    sync.Mutex
	asked map[string]bool
}

// Total returns what was sold on a day.
func (s *FakeSales) Total(_ context.Context, day string) (int, error) {
	t, err := time.Parse(time.DateOnly, day)
	switch {
	case err != nil:
		return 0, rpc.Terminal(rpc.InvalidArgument.Errorf("day %q: %v", day, err))
	case day < Opened:
		return 0, rpc.Terminal(rpc.OutOfRange.Errorf("the shop had not opened on %s", day)) // trying again changes nothing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked[day] {
		if s.asked == nil {
			s.asked = map[string]bool{}
		}
		s.asked[day] = true
		return 0, rpc.Unavailable.Errorf("the database is busy")
	}
	return t.Day(), nil
}
