package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// List says which schedules are meant.
type List struct {
	// Prefix is what their names begin with.
	Prefix string
	// Handler is whose ticks they are, when it is set.
	Handler string
}

// List returns schedules by name.
func (s *Schedules) List(ctx context.Context, l List) ([]Info, error) {
	ctx, cancel, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	found := []Info{}
	err = s.engine.store.each(ctx, func(r *record) {
		if strings.HasPrefix(r.Spec.Name, l.Prefix) && (l.Handler == "" || l.Handler == r.Spec.Handler) {
			found = append(found, infoOf(r))
		}
	})
	return found, err
}

// each calls fn for every record, by name.
func (s *store) each(ctx context.Context, fn func(*record)) error {
	consumer, err := s.js.CreateConsumer(ctx, streamName, jetstream.ConsumerConfig{
		FilterSubject: prefix + "*", DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return coded(ctx, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.js.DeleteConsumer(ctx, streamName, consumer.CachedInfo().Name) // else it ends by itself
	}()
	all := map[string]*record{}
	left := consumer.CachedInfo().NumPending
	for left > 0 {
		want := min(left, 500)
		batch, err := consumer.Fetch(int(want), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return coded(ctx, err)
		}
		got := uint64(0)
		for msg := range batch.Messages() {
			got++
			meta, err := msg.Metadata()
			if err != nil {
				return coded(ctx, err)
			}
			left = meta.NumPending
			r := &record{}
			if gone(msg.Headers()) || json.Unmarshal(msg.Data(), r) != nil {
				continue
			}
			all[r.Spec.Name] = r
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return coded(ctx, err)
		}
		if got < want { // the bus is slow, or some are not there any more
			info, err := consumer.Info(ctx)
			if err != nil {
				return coded(ctx, err)
			}
			left = info.NumPending
		}
	}
	for _, r := range byName(all) {
		fn(r)
	}
	return nil
}

func byName(all map[string]*record) []*record {
	list := make([]*record, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name])
	}
	return list
}
