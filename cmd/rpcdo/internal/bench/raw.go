package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"rpc.do/bus"
	"rpc.do/durable"
)

// Headers of the server that nats.go has no names for.
const (
	headerBatch          = "Nats-Batch-Id"
	headerBatchSeq       = "Nats-Batch-Sequence"
	headerBatchCommit    = "Nats-Batch-Commit"
	headerSchedule       = "Nats-Schedule"
	headerScheduleTarget = "Nats-Schedule-Target"
)

// maxBatches bounds the atomic batches that are under way: the server takes 50
// for a stream.
const maxBatches = 16

// rawBucket is a bucket like that of a class, to which nats.go writes alone.
type rawBucket struct {
	bus    *bus.Bus
	stream string
	prefix string // of its subjects
	places chan struct{}
}

// rawBucket makes a bucket with the config that a class's has.
func (cfg *ObjectConfig) rawBucket(ctx context.Context, b *bus.Bus, events bool) (*rawBucket, error) {
	if cfg.bucket == nil {
		model, err := cfg.serve(ctx, classConfig{})
		if err != nil {
			return nil, err
		}
		stream, err := b.JetStream().Stream(ctx, "KV_"+durable.Bucket(model.name))
		if err = firstError(err, model.stop()); err != nil {
			return nil, err
		}
		cfg.bucket = &stream.CachedInfo().Config
	}
	name := durable.Bucket("bench-" + nuid.Next())
	r := &rawBucket{bus: b, stream: "KV_" + name, prefix: "$KV." + name + ".", places: make(chan struct{}, maxBatches)}
	like := *cfg.bucket
	like.Name, like.Subjects = r.stream, []string{r.prefix + ">"}
	if _, err := b.JetStream().CreateStream(ctx, like); err != nil {
		return nil, fmt.Errorf("raw bucket: %w", err)
	}
	if events {
		if err := b.SourceEvents(ctx, r.stream, r.prefix+"_out"); err != nil {
			return nil, firstError(err, r.remove())
		}
	}
	return r, nil
}

func (r *rawBucket) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	if err := r.bus.JetStream().DeleteStream(ctx, r.stream); err != nil {
		return fmt.Errorf("remove the raw bucket: %w", err)
	}
	return nil
}

// record is an object's state, to be written if rev is still the last revision.
func (r *rawBucket) record(id string, rev uint64, state counter) (*nats.Msg, error) {
	data, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{
		Subject: r.prefix + id, Data: data,
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(rev, 10)}},
	}, nil
}

// extras are what a turn of an aspect writes beside the state.
func (r *rawBucket) extras(aspect Aspect, id string, n uint64, state counter) ([]*nats.Msg, error) {
	data, err := json.Marshal(count(state))
	if err != nil {
		return nil, err
	}
	var msgs []*nats.Msg
	if aspect == Alarm || aspect == Batch {
		msgs = append(msgs, &nats.Msg{Subject: r.prefix + "_alarm." + id, Header: nats.Header{
			headerSchedule:       {"@at " + time.Now().Add(alarmIn).UTC().Format(time.RFC3339Nano)},
			headerScheduleTarget: {r.prefix + "_due." + id},
			jetstream.MsgRollup:  {jetstream.MsgRollupSubject},
		}})
	}
	if aspect == Event || aspect == Batch {
		event := nuid.Next()
		msgs = append(msgs, &nats.Msg{Subject: r.prefix + "_out." + strconv.FormatUint(n, 10) + "-" + id + "." + eventName, Data: data, Header: nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {event}, "ce-type": {eventName}, "ce-source": {"/bench/" + id},
			"ce-time":              {time.Now().UTC().Format(time.RFC3339Nano)},
			jetstream.MsgIDHeader:  {event},
			jetstream.MsgTTLHeader: {"24h"},
		}})
	}
	if aspect == Storage || aspect == Batch {
		msgs = append(msgs, &nats.Msg{Subject: r.prefix + id + ".last", Data: data})
	}
	return msgs, nil
}

// write stores the messages, several of them as one atomic batch, and returns
// the revision of the first.
func (r *rawBucket) write(nc *nats.Conn, msgs ...*nats.Msg) (uint64, error) {
	last := len(msgs) - 1
	if last > 0 {
		r.places <- struct{}{}
		defer func() { <-r.places }()
		batch := nuid.Next()
		for i, msg := range msgs {
			if msg.Header == nil {
				msg.Header = nats.Header{}
			}
			msg.Header[headerBatch] = []string{batch}
			msg.Header[headerBatchSeq] = []string{strconv.Itoa(i + 1)}
		}
		msgs[last].Header[headerBatchCommit] = []string{"1"}
	}
	for _, msg := range msgs[:last] {
		if err := nc.PublishMsg(msg); err != nil {
			return 0, fmt.Errorf("raw nats.go: %w", err)
		}
	}
	answer, err := nc.RequestMsg(msgs[last], patience)
	if err != nil {
		return 0, fmt.Errorf("raw nats.go: %w", err)
	}
	seq, err := readAck(answer)
	return seq - uint64(last), err
}

// readAck returns the sequence that a message was stored with.
func readAck(msg *nats.Msg) (uint64, error) {
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return 0, fmt.Errorf("raw nats.go: acknowledgement: %w", err)
	}
	if ack.Error != nil {
		return 0, fmt.Errorf("raw nats.go: %w", ack.Error)
	}
	return ack.Seq, nil
}

// requestAndWrite has each caller make a request, and when it has the reply
// write what a turn does, one after the other.
func (cfg *ObjectConfig) requestAndWrite(ctx context.Context, aspect Aspect, callers int) (_ *workload, err error) {
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
	bucket, err := cfg.rawBucket(ctx, calling, aspect == Event || aspect == Batch)
	if err != nil {
		return nil, err
	}
	subject := "bench-" + nuid.Next()
	if err := listen(serving, subject, func(msg *nats.Msg) {
		answer(msg, func(p by) count { return count{p.By} })
	}); err != nil {
		return nil, firstError(err, bucket.remove())
	}
	type object struct {
		id    string
		state counter
		rev   uint64
	}
	objects := make([]object, callers)
	for i := range objects {
		objects[i].id = "counter-" + strconv.Itoa(i)
	}
	nc, name := calling.Conn(), "raw request/reply + raw compare-and-set publish"
	if extras, err := bucket.extras(aspect, "", 0, counter{}); err == nil && len(extras) > 0 {
		name = fmt.Sprintf("raw request/reply + raw atomic batch of %d", 1+len(extras))
	}
	return &workload{
		name: name,
		op: func(_ context.Context, caller int) error {
			o := &objects[caller]
			result, err := requestRaw[by, count](nc, subject, by{1})
			if err != nil {
				return err
			}
			o.state.Value += result.Value
			record, err := bucket.record(o.id, o.rev, o.state)
			if err != nil {
				return err
			}
			extras, err := bucket.extras(aspect, o.id, o.rev, o.state)
			if err != nil {
				return err
			}
			o.rev, err = bucket.write(nc, append([]*nats.Msg{record}, extras...)...)
			return err
		},
		stop: func() error { return firstError(bucket.remove(), open.close()) },
	}, nil
}
