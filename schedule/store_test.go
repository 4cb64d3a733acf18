package schedule

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

// What a process arms that was overtaken does not take the place of what is newer,
// nor does its record.
func TestStale(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	all := Open(b)
	if _, err := all.Create(t.Context(), Spec{Name: "stale", Cron: "@daily"}, false); err != nil {
		t.Fatal(err)
	}
	s := &all.engine.store
	old, rev, err := s.load(t.Context(), "stale")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all.Update(t.Context(), "stale", func(s *Spec) { s.Cron = "@yearly" }); err != nil {
		t.Fatal(err)
	}
	if err := s.arm(t.Context(), old, rev); !errors.Is(err, errChanged) {
		t.Errorf("arm: %v", err)
	}
	if _, err := s.save(t.Context(), old, rev); !errors.Is(err, errChanged) {
		t.Errorf("save: %v", err)
	}
	if err := s.remove(t.Context(), "stale", rev); !errors.Is(err, errChanged) {
		t.Errorf("remove: %v", err)
	}
	now, _, err := s.load(t.Context(), "stale")
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.last(t.Context(), prefix+armedKey+"stale")
	if err != nil || m == nil {
		t.Fatal(err)
	}
	var a armed
	if err := json.Unmarshal(m.Data, &a); err != nil || a.Arm != now.Arm || a.Arm == old.Arm {
		t.Errorf("armed is %+v, the record wants %d, before %d: %v", a, now.Arm, old.Arm, err)
	}
}

// An event is taken once however often it is sent, and EVENTS is told its id.
func TestSendAgain(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	all := Open(b)
	if _, err := all.Create(t.Context(), Spec{Name: "again", Cron: "@daily"}, false); err != nil {
		t.Fatal(err)
	}
	e := &emission{ID: "again@1", Event: "Clock.struck", Data: json.RawMessage("1"), Time: time.Now()}
	for range 3 {
		if err := all.engine.store.send(t.Context(), "again", e); err != nil {
			t.Fatal(err)
		}
	}
	e.ID = "again@2"
	if err := all.engine.store.send(t.Context(), "again", e); err != nil {
		t.Fatal(err)
	}
	stream, err := b.JetStream().Stream(t.Context(), bus.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{}
	limit := time.After(30 * time.Second)
	for len(ids) == 0 || ids[len(ids)-1] != "again@2" {
		msg, err := stream.GetMsg(t.Context(), uint64(len(ids)+1))
		switch {
		case err == nil:
			ids = append(ids, msg.Header.Get("Nats-Msg-Id"))
			continue
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			t.Fatal(err)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-limit:
			t.Fatalf("EVENTS has %q", ids)
		}
	}
	if len(ids) != 2 || ids[0] != "again@1" {
		t.Errorf("EVENTS has %q", ids)
	}
}

// On a bus with small messages the history gives way, and what does not fit is
// refused with both sizes.
func TestSmallMessages(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.WithServer(func(c *natsd.Config) { c.MaxPayload = 16 << 10 }))
	all := Open(b)
	_, err := all.Create(t.Context(), Spec{Name: "small", Cron: "@daily", Payload: fmt.Appendf(nil, "%q", strings.Repeat("x", 5000))}, false)
	if rpc.CodeOf(err) != rpc.InvalidArgument || !strings.Contains(err.Error(), "5002 bytes") || !strings.Contains(err.Error(), "4096") {
		t.Errorf("%v", err)
	}
	spec := Spec{Name: "small", Cron: "@daily", Payload: fmt.Appendf(nil, "%q", strings.Repeat("x", 4000))}
	if _, err := all.Create(t.Context(), spec, false); err != nil {
		t.Fatal(err)
	}
	for range 120 { // the first runs, the others are skipped
		if _, err := all.Trigger(t.Context(), "small", nil); err != nil {
			t.Fatal(err)
		}
	}
	info, err := all.Get(t.Context(), "small")
	if err != nil || info.Counts.Skipped[ReasonOverlap] != 119 {
		t.Errorf("%+v, %v", info.Counts, err)
	}
	if list, err := all.History(t.Context(), "small"); err != nil || len(list) < 10 || len(list) == maxHistory {
		t.Errorf("%d outcomes, %v", len(list), err)
	}
	r, _, err := all.engine.store.load(t.Context(), "small")
	if err != nil {
		t.Fatal(err)
	}
	r.Spec.Payload = fmt.Appendf(nil, "%q", strings.Repeat("x", 17<<10))
	if _, err := all.engine.store.save(t.Context(), r, 0); rpc.CodeOf(err) != rpc.ResourceExhausted || !strings.Contains(err.Error(), "15360") {
		t.Errorf("%v", err)
	}
}

// Whoever claims a run has it; no other service does.
func TestClaim(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	e := newEngine(b, zerolog.Nop())
	if _, err := e.store.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"reports", "billing", "reports"} {
		if owner, err := e.store.claim(t.Context(), "x@1", service, time.Minute); err != nil || owner != "reports" {
			t.Errorf("%s: %s, %v", service, owner, err)
		}
	}
}
