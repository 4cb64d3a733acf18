package durable_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

// bell is the state of the class that the tests of alarms use.
type bell struct {
	Rings int      `json:"rings"`
	Notes []string `json:"notes,omitempty"`
}

// bellOrder is what a turn of a bell does.
type bellOrder struct {
	Set     time.Time `json:"set,omitzero"` // an alarm
	Delete  bool      `json:"delete,omitempty"`
	Destroy bool      `json:"destroy,omitempty"`
	Fail    bool      `json:"fail,omitempty"` // after all that
}

type onBell = func(*bell, durable.Context, durable.Alarm) error

// ring is what a bell does when its alarm is due, if a test has nothing else.
func ring(b *bell, _ durable.Context, _ durable.Alarm) error {
	b.Rings++
	return nil
}

// tower is a bus with a class of bells.
type tower struct {
	*testing.T
	bus    *bus.Bus
	client *client.Client
}

func newTower(t *testing.T, opts ...bustest.Option) *tower {
	t.Helper()
	return towerOn(t, bustest.New(t, opts...))
}

func towerOn(t *testing.T, b *bus.Bus) *tower {
	w := &tower{T: t, bus: b, client: client.New(b, client.Config{NoShortcut: true, Timeout: 20 * time.Second, ResendAfter: time.Second})}
	t.Cleanup(w.client.Close)
	return w
}

// quick is a config with short waits.
func quick(cfg durable.Config) durable.Config {
	return durable.WithAlarmTimes(cfg, 20*time.Millisecond, 2*time.Second)
}

// serveBells runs an instance until the test ends or stop is called.
func (w *tower) serveBells(cfg durable.Config, fn onBell) (stop func()) {
	w.Helper()
	return run(w.T, bellService(w.bus, cfg, fn))
}

func bellService(b *bus.Bus, cfg durable.Config, fn onBell) *server.Service {
	order, look := bellMethods()
	svc := server.New(b, "bells", server.Config{})
	bells := durable.Serve[bell](svc, "bell", cfg)
	durable.Handle(bells, order, func(_ *bell, ctx durable.Context, o bellOrder) (rpc.None, error) {
		if !o.Set.IsZero() {
			ctx.SetAlarm(o.Set)
		}
		if o.Delete {
			ctx.DeleteAlarm()
		}
		if o.Destroy {
			ctx.Destroy()
		}
		if o.Fail {
			return rpc.None{}, rpc.Aborted.Errorf("as asked")
		}
		return rpc.None{}, nil
	})
	durable.View(bells, look, func(b bell, ctx durable.ReadContext, _ rpc.None) (bellLook, error) {
		at, set := ctx.Alarm()
		return bellLook{Bell: b, Alarm: at, Set: set}, nil
	})
	if fn != nil {
		durable.OnAlarm(bells, fn)
	}
	return svc
}

type bellLook struct {
	Bell  bell      `json:"bell"`
	Alarm time.Time `json:"alarm"`
	Set   bool      `json:"set"`
}

func bellMethods() (rpc.ObjectMethod[bellOrder, rpc.None], rpc.ObjectMethod[rpc.None, bellLook]) {
	return rpc.NewObjectMethod[bellOrder, rpc.None]("bell.order"), rpc.NewObjectMethod[rpc.None, bellLook]("bell.look")
}

func (w *tower) order(id string, o bellOrder) error {
	order, _ := bellMethods()
	_, err := order.Call(w.Context(), w.client, id, o)
	return err
}

func (w *tower) must(id string, o bellOrder) {
	w.Helper()
	if err := w.order(id, o); err != nil {
		w.Fatalf("%+v of %q: %v", o, id, err)
	}
}

func (w *tower) look(id string) bellLook {
	w.Helper()
	_, look := bellMethods()
	l, err := look.Call(w.Context(), w.client, id, rpc.None{})
	if err != nil {
		w.Fatalf("look at %q: %v", id, err)
	}
	return l
}

const bellPatience = 30 * time.Second

// until waits for what nothing announces.
func (w *tower) until(what string, holds func() bool) {
	w.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	over := time.After(bellPatience)
	for !holds() {
		select {
		case <-tick.C:
		case <-over:
			w.Fatalf("waited in vain until %s", what)
		}
	}
}

func (w *tower) rings(id string, want int) {
	w.Helper()
	w.until(fmt.Sprintf("%q has rung %d times", id, want), func() bool { return w.look(id).Bell.Rings >= want })
	if got := w.look(id).Bell.Rings; got != want {
		w.Errorf("%q has rung %d times, want %d", id, got, want)
	}
}

// settled waits until no due alarm of the class is left to handle.
func (w *tower) settled() {
	w.Helper()
	w.until("all due alarms are handled", func() bool {
		info := w.consumer()
		return info.NumPending == 0 && info.NumAckPending == 0
	})
}

func (w *tower) consumer() *jetstream.ConsumerInfo {
	w.Helper()
	c, err := w.bus.JetStream().Consumer(w.Context(), "KV_"+durable.Bucket("bell"), "alarms")
	if err != nil {
		w.Fatal(err)
	}
	return c.CachedInfo()
}

// keys returns the keys of the bucket that begin with prefix.
func (w *tower) keys(prefix string) []string {
	w.Helper()
	stream, err := w.bus.JetStream().Stream(w.Context(), "KV_"+durable.Bucket("bell"))
	if err != nil {
		w.Fatal(err)
	}
	subject := "$KV." + durable.Bucket("bell") + "."
	info, err := stream.Info(w.Context(), jetstream.WithSubjectFilter(subject+prefix+">"))
	if err != nil {
		w.Fatal(err)
	}
	var keys []string
	for s := range info.State.Subjects {
		keys = append(keys, strings.TrimPrefix(s, subject))
	}
	slices.Sort(keys)
	return keys
}

// dead returns the dead letter of an object, nil when there is none.
func (w *tower) dead(id string) *durable.DeadAlarm {
	w.Helper()
	kv, err := w.bus.JetStream().KeyValue(w.Context(), durable.Bucket("bell"))
	if err != nil {
		w.Fatal(err)
	}
	entry, err := kv.Get(w.Context(), "_dead."+bus.Escape(id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	d := new(durable.DeadAlarm)
	if err := json.Unmarshal(entry.Value(), d); err != nil {
		w.Fatalf("dead letter %s: %v", entry.Value(), err)
	}
	return d
}

// alarmCall calls the system's method.
func (w *tower) alarmCall(id string, params, result any) error {
	raw, err := json.Marshal(params)
	if err != nil {
		w.Fatal(err)
	}
	p, r := json.RawMessage(raw), json.RawMessage{}
	err = w.client.Call(w.Context(), &rpc.Call{Service: "bell", Method: bus.MethodAlarm, Object: id, Params: &p, Result: &r})
	if err == nil && result != nil {
		err = json.Unmarshal(r, result)
	}
	return err
}
