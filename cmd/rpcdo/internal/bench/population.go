package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable"
)

// fillWindow is how many writes wait for their acknowledgement at once.
const fillWindow = 4096

// fill stores n objects of a class, each as one commit of its first owner would
// have left it.
func (cfg *ObjectConfig) fill(ctx context.Context, b *bus.Bus, class string, n int) error {
	begun := time.Now()
	var failed atomic.Pointer[error]
	js, err := jetstream.New(b.Conn(), jetstream.WithPublishAsyncMaxPending(fillWindow),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { failed.CompareAndSwap(nil, &err) }))
	if err != nil {
		return err
	}
	defer js.CleanupPublisher()
	prefix := "$KV." + durable.Bucket(class) + "."
	header := nats.Header{"Rpc-Commit": {"1-" + nuid.Next()}, "Rpc-Epoch": {"1"}}
	for i := range n {
		_, err := js.PublishMsgAsync(&nats.Msg{Subject: prefix + member(i), Header: header, Data: []byte(`{"value":1}`)},
			jetstream.WithStallWait(patience))
		if e := failed.Load(); e != nil {
			err = *e
		}
		if err = firstError(err, ctx.Err()); err != nil {
			return fmt.Errorf("store %d objects: %w", n, err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
	}
	if e := failed.Load(); e != nil {
		return fmt.Errorf("store %d objects: %w", n, *e)
	}
	if cfg.Stored != nil && ctx.Err() == nil {
		cfg.Stored(n, time.Since(begun))
	}
	return ctx.Err()
}

// member is the name of one of the objects that fill stores.
func member(i int) string { return "member-" + strconv.Itoa(i) }

// activationIdle is how long an object stays in memory that is to be found out
// of it the next time.
const activationIdle = 20 * time.Millisecond

// activations compares views of objects that are not in memory, one after the
// other, with those in a class of few objects, and these with what an activation
// asks of the bus: a read and a conditional write between request and reply.
func (cfg *ObjectConfig) activations(ctx context.Context) ([]Row, error) {
	starts := []start{cfg.activating(cfg.Objects)}
	if cfg.Objects > FewObjects {
		starts = append(starts, cfg.activating(FewObjects))
	}
	return cfg.compare(ctx, 1, append(starts, cfg.requestReadAndWrite)...)
}

func (cfg *ObjectConfig) activating(objects int) start {
	return func(ctx context.Context) (*workload, error) {
		k, err := cfg.serve(ctx, classConfig{objects: objects, idle: activationIdle})
		if err != nil {
			return nil, err
		}
		before, err := k.lastSequence()
		if err != nil {
			return nil, firstError(err, k.stop())
		}
		var calls atomic.Int64
		w := k.viewing(fmt.Sprintf("%s-%d", cfg.row(Activation), objects), func(int) string {
			return member(scattered(int(calls.Add(1)), objects))
		})
		w.name = fmt.Sprintf("the same among %d objects", objects)
		w.stop = func() error { return firstError(k.mustHaveActivated(calls.Load(), before), k.stop()) }
		return w, nil
	}
}

// scattered goes through 0 to n-1 without an order that the bus could profit from.
func scattered(i, n int) int {
	stride := 7919 // primes
	if n%stride == 0 {
		stride = 7907
	}
	return i * stride % n
}

func (k *class) lastSequence() (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := k.serving.JetStream().Stream(ctx, "KV_"+durable.Bucket(k.name))
	if err != nil {
		return 0, err
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// mustHaveActivated makes sure that it was activations that were measured: each
// writes a message, and views write none.
func (k *class) mustHaveActivated(calls int64, before uint64) error {
	now, err := k.lastSequence()
	if err == nil && float64(now-before) < 0.99*float64(calls) {
		return fmt.Errorf("%d of %d calls found their object in memory: measure with more objects", calls-int64(now-before), calls)
	}
	return err
}

// requestReadAndWrite makes a request, and when it has the reply reads a record
// and makes a write that is conditional on it, one after the other.
func (cfg *ObjectConfig) requestReadAndWrite(ctx context.Context) (_ *workload, err error) {
	var open buses
	defer func() {
		if err != nil {
			_ = open.close()
		}
	}()
	serving, calling, err := open.apart(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	bucket, err := cfg.rawBucket(ctx, calling, false)
	if err != nil {
		return nil, err
	}
	nc, subject := calling.Conn(), "bench-"+nuid.Next()
	err = listen(serving, subject, func(msg *nats.Msg) {
		answer(msg, func(rpc.None) count { return count{1} })
	})
	var record *nats.Msg
	if err == nil {
		record, err = bucket.record("counter", 0, counter{1})
	}
	var rev uint64
	if err == nil {
		rev, err = bucket.write(nc, record)
	}
	if err != nil {
		return nil, firstError(err, bucket.remove())
	}
	return &workload{
		name: "raw request/reply + read + conditional publish",
		op: func(context.Context, int) error {
			if _, err := requestRaw[rpc.None, count](nc, subject, rpc.None{}); err != nil {
				return err
			}
			if _, err := nc.Request("$JS.API.DIRECT.GET."+bucket.stream+"."+record.Subject, nil, patience); err != nil {
				return fmt.Errorf("raw nats.go: %w", err)
			}
			_, err := bucket.write(nc, &nats.Msg{Subject: bucket.prefix + "_fence.00", Header: nats.Header{
				jetstream.ExpectedLastSubjSeqHeader:     {strconv.FormatUint(rev, 10)},
				jetstream.ExpectedLastSubjSeqSubjHeader: {record.Subject},
			}})
			return err
		},
		stop: func() error { return firstError(bucket.remove(), open.close()) },
	}, nil
}
