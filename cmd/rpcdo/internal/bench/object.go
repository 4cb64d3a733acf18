package bench

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
)

// Aspect is something of objects that Object measures.
type Aspect string

// The aspects.
const (
	Increment  Aspect = "increment"  // turns that change the state; every caller has an object
	Hot        Aspect = "hot"        // the same, all callers have one object
	View       Aspect = "view"       // views of an object
	Event      Aspect = "event"      // turns that also emit an event
	Alarm      Aspect = "alarm"      // turns that also set the alarm
	Storage    Aspect = "storage"    // turns that also write an entry of the storage
	Batch      Aspect = "batch"      // turns that do all three
	Activation Aspect = "activation" // views of objects that are not in memory
	Rest       Aspect = "rest"       // what owning objects costs while nobody calls
	Memory     Aspect = "memory"     // what active objects take while nobody calls
)

// Aspects returns all aspects, in the order in which they are measured.
func Aspects() []Aspect {
	return []Aspect{Increment, Hot, View, Event, Alarm, Storage, Batch, Activation, Rest, Memory}
}

// ObjectConfig says what to measure of objects.
type ObjectConfig struct {
	Config

	// Aspects are what to measure; empty for all.
	Aspects []Aspect

	// Objects is how many objects the class has of Activation and Rest. With
	// Baseline they are compared with a class of FewObjects.
	Objects int

	// Active is how many objects are in memory for Memory.
	Active int

	// Stored, if any, is called when the objects of a class have been stored.
	Stored func(objects int, took time.Duration)

	// SharedBus says that others use the bus. What emits events is left out then:
	// the stream EVENTS would keep them.
	SharedBus bool

	bucket *jetstream.StreamConfig // of a class, once it has been looked at
}

// FewObjects is the least that a class can have for Activation: calling them one
// after the other takes longer than an object stays in memory there.
const FewObjects = 1000

// Object measures calls of objects. It ends early, with an error, when ctx ends
// or a call fails. What it stores on the bus it removes.
func Object(ctx context.Context, cfg ObjectConfig) ([]Row, error) {
	cfg.cpu = true
	rows := []Row{}
	for _, aspect := range Aspects() {
		if len(cfg.Aspects) > 0 && !slices.Contains(cfg.Aspects, aspect) {
			continue
		}
		measured, err := cfg.aspect(ctx, aspect)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.row(aspect), err)
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

func (cfg *ObjectConfig) aspect(ctx context.Context, aspect Aspect) ([]Row, error) {
	switch aspect {
	case Increment:
		return cfg.increments(ctx)
	case Hot:
		return cfg.hot(ctx)
	case View:
		return cfg.views(ctx)
	case Activation:
		return cfg.activations(ctx)
	case Rest:
		return cfg.rest(ctx)
	case Memory:
		return cfg.memory(ctx)
	default:
		return cfg.effects(ctx, aspect)
	}
}

// row names the rows of an aspect.
func (cfg *ObjectConfig) row(aspect Aspect) string {
	return fmt.Sprintf("object/%s/%s", cfg.Transport, aspect)
}

// callers are the numbers of callers from least up.
func (cfg *ObjectConfig) callers(least int) []int {
	var some []int
	for _, n := range cfg.Concurrency {
		if n >= least {
			some = append(some, n)
		}
	}
	return some
}

// compare measures what starts starts, all but the first only with a baseline.
func (cfg *ObjectConfig) compare(ctx context.Context, callers int, starts ...start) ([]Row, error) {
	return compare(ctx, cfg.Config, callers, starts...)
}

// increments compares one caller with what a turn costs at least: a request and
// its reply, then a write. Several are compared with a service that does these
// for each of its callers with nothing around it.
func (cfg *ObjectConfig) increments(ctx context.Context) (rows []Row, err error) {
	for _, n := range cfg.Concurrency {
		ours := func(ctx context.Context) (*workload, error) {
			return cfg.turns(ctx, Increment, func(caller int) string { return "counter-" + strconv.Itoa(caller) })
		}
		baseline := cfg.prototype
		if n == 1 {
			baseline = func(ctx context.Context) (*workload, error) { return cfg.requestAndWrite(ctx, Increment, 1) }
		}
		measured, err := cfg.compare(ctx, n, ours, baseline)
		if err != nil {
			return nil, err
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

// hot has all callers call one object.
func (cfg *ObjectConfig) hot(ctx context.Context) (rows []Row, err error) {
	for _, n := range cfg.callers(2) {
		ours := func(ctx context.Context) (*workload, error) {
			return cfg.turns(ctx, Hot, func(int) string { return "hot" })
		}
		measured, err := cfg.compare(ctx, n, ours, cfg.oneByOne)
		if err != nil {
			return nil, err
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

// views compares a view with a call of a service with the same params and
// result, and that with a raw request.
func (cfg *ObjectConfig) views(ctx context.Context) (rows []Row, err error) {
	value := func(rpc.None) count { return count{Value: 1} }
	for _, n := range cfg.Concurrency {
		ours := func(ctx context.Context) (*workload, error) {
			k, err := cfg.serve(ctx, classConfig{})
			if err != nil {
				return nil, err
			}
			return k.viewing(cfg.row(View), func(caller int) string { return "counter-" + strconv.Itoa(caller) }), nil
		}
		plain := func(ctx context.Context) (*workload, error) {
			w, err := startCalls(ctx, cfg.Config, rpc.None{}, value)
			if err == nil {
				w.row = fmt.Sprintf("call/%s/as-view", cfg.Transport)
			}
			return w, err
		}
		raw := func(ctx context.Context) (*workload, error) { return startRaw(ctx, cfg.Config, rpc.None{}, value) }
		measured, err := cfg.compare(ctx, n, ours, plain, raw)
		if err != nil {
			return nil, err
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}

// effects compares turns that store more than the state with a request and its
// reply, then an atomic batch of as many messages.
func (cfg *ObjectConfig) effects(ctx context.Context, aspect Aspect) (rows []Row, err error) {
	events := aspect == Event || aspect == Batch
	if events && cfg.SharedBus {
		return nil, nil
	}
	for _, n := range cfg.Concurrency {
		ours := func(ctx context.Context) (*workload, error) {
			return cfg.turns(ctx, aspect, func(caller int) string { return "counter-" + strconv.Itoa(caller) })
		}
		baseline := func(ctx context.Context) (*workload, error) { return cfg.requestAndWrite(ctx, aspect, n) }
		measured, err := cfg.compare(ctx, n, ours, baseline)
		if events {
			err = firstError(err, cfg.removeStream(ctx, bus.EventsStream))
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, measured...)
	}
	return rows, nil
}
