// Package ratelimiter limits how often something is done, per key, over all
// instances of a service: a token bucket in a durable object.
//
//	ratelimiter.Serve(svc, ratelimiter.Limit{PerSecond: 5, Burst: 20})
//
//	got, err := ratelimiter.Take.Call(ctx, c, "user-42", ratelimiter.Params{Tokens: 1})
//	if !got.Allowed { … got.RetryAfter … }
package ratelimiter

import (
	"time"

	"rpc.do"
	"rpc.do/durable"
	"rpc.do/server"
)

// Take takes tokens out of the bucket of a key, if there are enough.
var Take = rpc.NewObjectMethod[Params, Answer]("limit.take", rpc.Description("Takes tokens, if there are enough."))

// Params says how many tokens are wanted.
type Params struct {
	Tokens float64 `json:"tokens"`
}

// Answer says whether there were enough.
type Answer struct {
	Allowed bool    `json:"allowed"`
	Left    float64 `json:"left"`
	// RetryAfter is when there will be enough, in milliseconds; 0 when allowed.
	RetryAfter int64 `json:"retryAfterMs,omitempty"`
}

// Limit is the size of a bucket and how fast it is filled.
type Limit struct {
	PerSecond float64
	Burst     float64
}

// Serve makes svc serve the class limit.
func Serve(svc *server.Service, l Limit) {
	if l.PerSecond <= 0 || l.Burst <= 0 {
		panic("ratelimiter: PerSecond and Burst must be positive")
	}
	buckets := durable.Serve[bucket](svc, "limit", durable.Config{})
	durable.Handle(buckets, Take, func(b *bucket, ctx durable.Context, p Params) (Answer, error) {
		return b.take(ctx, l, p, time.Now())
	})
	durable.OnAlarm(buckets, func(b *bucket, ctx durable.Context, _ durable.Alarm) error {
		b.retire(ctx, l, time.Now())
		return nil
	})
}

// bucket is the state of one key. One that has never been is full.
type bucket struct {
	Taken float64   `json:"taken"` // tokens that are missing, at Since
	Since time.Time `json:"since"`
}

// missing returns how many tokens are missing now.
func (b *bucket) missing(l Limit, now time.Time) float64 {
	return max(0, b.Taken-max(0, now.Sub(b.Since).Seconds())*l.PerSecond)
}

func (b *bucket) take(ctx durable.Context, l Limit, p Params, now time.Time) (Answer, error) {
	if !(p.Tokens > 0 && p.Tokens <= l.Burst) {
		return Answer{}, rpc.InvalidArgument.Errorf("tokens: want more than 0 and at most %g, got %g", l.Burst, p.Tokens)
	}
	missing := b.missing(l, now)
	if left := l.Burst - missing; p.Tokens > left {
		wait := time.Duration((p.Tokens - left) / l.PerSecond * float64(time.Second))
		return Answer{Left: left, RetryAfter: wait.Milliseconds() + 1}, nil
	}
	b.Taken, b.Since = missing+p.Tokens, now
	if _, set := ctx.Alarm(); !set { // once in a while, not each time: it makes the turn dearer
		ctx.SetAlarm(now.Add(l.refill(b.Taken) + time.Minute))
	}
	return Answer{Allowed: true, Left: l.Burst - b.Taken}, nil
}

// retire deletes a bucket that is full, as one that has never been.
func (b *bucket) retire(ctx durable.Context, l Limit, now time.Time) {
	if missing := b.missing(l, now); missing > 0 {
		ctx.SetAlarm(now.Add(l.refill(missing) + time.Minute))
		return
	}
	ctx.Destroy()
}

func (l Limit) refill(tokens float64) time.Duration {
	return time.Duration(tokens / l.PerSecond * float64(time.Second))
}
