package client

import "sync/atomic"

// budget bounds retries to one service: each takes a token, and every call that
// succeeds gives a tenth of one back (after gRFC A6, retry throttling).
type budget struct {
	max    int64 // in tenths
	tenths atomic.Int64
}

func newBudget(tokens int) *budget {
	b := &budget{max: int64(tokens) * 10}
	b.tenths.Store(b.max)
	return b
}

// take reports whether a retry may be made.
func (b *budget) take() bool {
	for {
		left := b.tenths.Load()
		if left < 10 {
			return false
		}
		if b.tenths.CompareAndSwap(left, left-10) {
			return true
		}
	}
}

func (b *budget) credit() {
	for {
		left := b.tenths.Load()
		if left >= b.max || b.tenths.CompareAndSwap(left, left+1) {
			return
		}
	}
}

func (c *Client) initBudgets(tokens int) {
	c.budgets.make = func(string) *budget { return newBudget(tokens) }
	c.sharedBudget = newBudget(tokens)
}

// budget returns the budget for retries to a service.
func (c *Client) budget(service string) *budget {
	if own, ok := c.budgets.of(service); ok {
		return own
	}
	return c.sharedBudget
}
