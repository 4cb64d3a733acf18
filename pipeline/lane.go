package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// LaneStream is the stream of what a handler is to have again: dead letters that
// somebody retries, and replays. Each handler has a lane in it,
// $RPC.retry.<service>.<handler>, so that no other handler is disturbed.
const LaneStream = "EVENTS_RETRY"

const (
	laneVersion = 1

	// laneIdle is how long a handler's consumer of its lane outlives the handler.
	laneIdle = 10 * time.Minute
)

func laneSubject(service, handler string) string { return "$RPC.retry." + service + "." + handler }

func (p *Pipeline) laneStream(ctx context.Context) (jetstream.Stream, error) {
	return p.ensure(ctx, LaneStream, func(ctx context.Context) (jetstream.Stream, error) {
		return p.bus.EnsureStream(ctx, jetstream.StreamConfig{
			Name: LaneStream, Subjects: []string{laneSubject("*", "*")}, Description: "events that handlers are to have again",
			Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, AllowDirect: true, Duplicates: 2 * time.Minute,
		}, laneVersion)
	})
}

// openLanes begins to pull the lanes that have something in them.
func (w *workers) openLanes() {
	ctx, cancel := context.WithTimeout(w.life, requestTimeout)
	defer cancel()
	stream, err := w.pipeline.js.Stream(ctx, LaneStream)
	if err != nil {
		if !errors.Is(err, jetstream.ErrStreamNotFound) && w.life.Err() == nil {
			w.log.Debug().Err(err).Msg("the lanes of the handlers can't be looked at; they are later")
		}
		return
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(laneSubject(w.svc.Name(), "*")))
	if err != nil {
		return
	}
	for _, h := range w.handlers {
		h.mu.Lock()
		open := h.lane != nil || h.stopping
		h.mu.Unlock()
		if open || info.State.Subjects[h.laneSubject()] == 0 {
			continue
		}
		h.openLane(ctx)
	}
}

// openLane makes the lane one of the handler's sources.
func (h *handler) openLane(ctx context.Context) {
	if _, err := h.workers.ensure(ctx, LaneStream, h.laneConfig(), false); err != nil {
		h.log.Warn().Err(err).Msg("the handler's lane can't be pulled; it is tried again")
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return
	}
	h.lane = h.newSource(LaneStream)
	h.fillLocked()
}

// ensureLane makes the consumer of an open lane again.
func (h *handler) ensureLane(ctx context.Context) error {
	h.mu.Lock()
	open := h.lane != nil
	h.mu.Unlock()
	if !open {
		return nil
	}
	_, err := h.workers.ensure(ctx, LaneStream, h.laneConfig(), true)
	return err
}

func (h *handler) laneConfig() jetstream.ConsumerConfig {
	cfg := h.config()
	cfg.Description = "what the handler " + h.name + " of " + h.service + " is to have again"
	cfg.FilterSubjects = []string{h.laneSubject()}
	cfg.DeliverPolicy, cfg.InactiveThreshold = jetstream.DeliverAllPolicy, laneIdle
	return cfg
}
