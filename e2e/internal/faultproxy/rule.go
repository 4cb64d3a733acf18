package faultproxy

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Action is what a rule does to a message.
type Action int

const (
	// Drop loses the message.
	Drop Action = iota + 1

	// Delay holds up the message, and with it all that follows from the same
	// side of the connection.
	Delay

	// Cut cuts the connection in place of passing on the message. What came
	// before it from the same side has been passed on.
	Cut
)

// Rule says what happens to some messages.
type Rule struct {
	// From is the side that sends them. Required.
	From Side

	// Subject and Reply are what the message's subject and reply subject begin
	// with. Empty matches all.
	Subject string
	Reply   string

	// Action is what happens. Required.
	Action Action

	// Chance is the probability, from 0 to 1, that it happens to a message that
	// matches. Defaults to 1.
	Chance float64

	// UpTo is the longest Delay; any time from 0 on is as likely.
	UpTo time.Duration

	// Skip lets pass the first matches, and Times ends the rule after so many
	// hits: of all connections together, as they come. Times defaults to no end.
	Skip  int
	Times int
}

func (r *Rule) check() error {
	switch {
	case r.From != Client && r.From != Server:
		return fmt.Errorf("faultproxy: Rule.From: %v", r.From)
	case r.Action != Drop && r.Action != Delay && r.Action != Cut:
		return fmt.Errorf("faultproxy: Rule.Action: %d", r.Action)
	case !(r.Chance >= 0 && r.Chance <= 1):
		return fmt.Errorf("faultproxy: Rule.Chance: %v", r.Chance)
	case (r.Action == Delay) != (r.UpTo > 0):
		return fmt.Errorf("faultproxy: Rule.UpTo: %v: it goes with Delay", r.UpTo)
	case r.Skip < 0 || r.Times < 0:
		return fmt.Errorf("faultproxy: Rule.Skip %d, Times %d", r.Skip, r.Times)
	}
	return nil
}

// Active is a rule that a proxy has. Its methods may be called by many
// goroutines at once.
type Active struct {
	rule   Rule
	number uint64
	remove func()

	mu      sync.Mutex
	matches int
	hits    int
	changed chan struct{}
}

// Remove ends the rule. A delay that has begun goes on.
func (a *Active) Remove() { a.remove() }

// Matches returns how many messages matched, hit or not.
func (a *Active) Matches() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.matches
}

// Hits returns to how many messages the rule did something.
func (a *Active) Hits() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hits
}

// Wait waits until the rule has done something to so many messages.
func (a *Active) Wait(ctx context.Context, hits int) error {
	for {
		a.mu.Lock()
		enough, changed := a.hits >= hits, a.changed
		a.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("faultproxy: the rule has hit %d messages, not %d: %w", a.Hits(), hits, context.Cause(ctx))
		}
	}
}

// try decides about a message.
func (a *Active) try(f frame, chance *rand.Rand) (hit bool, delay time.Duration) {
	if !bytes.HasPrefix(f.subject, []byte(a.rule.Subject)) || !bytes.HasPrefix(f.reply, []byte(a.rule.Reply)) {
		return false, 0
	}
	// Drawn in any case, so that what comes later does not depend on it.
	lucky := chance.Float64() >= a.rule.Chance
	if a.rule.UpTo > 0 {
		delay = time.Duration(chance.Int64N(int64(a.rule.UpTo) + 1))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.matches++
	if lucky || a.matches <= a.rule.Skip || a.rule.Times > 0 && a.hits >= a.rule.Times {
		return false, 0
	}
	a.hits++
	close(a.changed)
	a.changed = make(chan struct{})
	return true, delay
}
