package server

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
)

// Feed subscribes the service to one more subject, whose messages are calls of
// objects. The subscription ends with EndFeed.
//
// It is in no queue group: an owner that is frozen or cut off may be subscribed
// still, and must not get calls in place of the one that has followed it.
func (s *Service) Feed(subject string) (*nats.Subscription, error) {
	s.lifecycle.RLock()
	defer s.lifecycle.RUnlock()
	if s.state != serving {
		return nil, fmt.Errorf("server: %s does not serve", s.name)
	}
	sub, err := s.bus.Conn().ChanSubscribe(subject, s.intake.msgs)
	if err == nil {
		s.feeds.add(sub)
	}
	return sub, err
}

// feeds are the subscriptions that Feed has made. A shutdown ends what is left
// of them before it closes what they feed.
type feeds struct {
	mu    sync.Mutex
	subs  []*nats.Subscription
	prune int // how many there are when those that have ended are let go
}

func (f *feeds) add(sub *nats.Subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = append(f.subs, sub)
	if len(f.subs) > f.prune {
		f.subs = slices.DeleteFunc(f.subs, func(sub *nats.Subscription) bool { return !sub.IsValid() })
		f.prune = 2*len(f.subs) + bus.Slots
	}
}

func (f *feeds) left() []*nats.Subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.subs), func(sub *nats.Subscription) bool { return !sub.IsValid() })
}

// EndFeed ends subscriptions made by Feed without losing a message: all that
// was on its way has been taken in when it returns, at the latest at deadline.
func (s *Service) EndFeed(subs []*nats.Subscription, deadline time.Time) {
	if !s.bus.Connected() {
		for _, sub := range subs {
			_ = sub.Unsubscribe()
		}
		return
	}
	stopIntake(subs, deadline)
}
