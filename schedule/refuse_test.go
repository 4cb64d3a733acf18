package schedule_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/schedule"
	"rpc.do/server"
)

// subjects are those that the bucket has, without its prefix.
func (l *lab) subjects() map[string]uint64 {
	l.Helper()
	stream, err := l.b.JetStream().Stream(l.Context(), "KV_"+schedule.Bucket)
	if err != nil {
		l.Fatal(err)
	}
	info, err := stream.Info(l.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		l.Fatal(err)
	}
	found := map[string]uint64{}
	for subject, n := range info.State.Subjects {
		found[strings.TrimPrefix(subject, "$KV."+schedule.Bucket+".")] = n
	}
	return found
}

// What is wrong is said, with what is allowed, and nothing is stored.
func TestRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	if _, err := l.all.Create(ctx, schedule.Spec{Name: "right", Cron: "@hourly"}, false); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	type spec = schedule.Spec
	for what, test := range map[string]struct {
		spec  spec
		words []string
	}{
		"cron line of words":    {spec{Cron: "every day"}, []string{"every day", "5 (minute, hour, day of month, month, day of week)"}},
		"minute that is not":    {spec{Cron: "61 * * * *"}, []string{"61", "0-59"}},
		"line that never ticks": {spec{Cron: "0 0 30 2 *"}, []string{"never"}},
		"too often":             {spec{Cron: "@every 10ms"}, []string{"at least 1s"}},
		"zone":                  {spec{Cron: "@daily", Zone: "Europe/Birlin"}, []string{"Europe/Birlin", "IANA"}},
		"two zones":             {spec{Cron: "CRON_TZ=Asia/Tokyo 0 3 * * *", Zone: "Europe/Berlin"}, []string{"Asia/Tokyo", "Europe/Berlin"}},
		"neither":               {spec{}, []string{"neither cron nor at"}},
		"both":                  {spec{Cron: "@daily", At: now.Add(time.Hour)}, []string{"both cron and at", "one of them"}},
		"year 2100":             {spec{At: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}, []string{"2100", "1970 to 2099"}},
		"the past":              {spec{At: now.Add(-time.Second)}, []string{"has passed"}},
		"its end has come":      {spec{Cron: "@daily", End: now.Add(-time.Second)}, []string{"never tick", "its end"}},
		"end before start":      {spec{Cron: "@daily", Start: now.Add(2 * time.Hour), End: now.Add(time.Hour)}, []string{"is not after its start"}},
		"overlap":               {spec{Cron: "@daily", Overlap: "wait"}, []string{`"wait"`, "skip, buffer-one, buffer-all, allow, cancel"}},
		"catch-up":              {spec{Cron: "@daily", Catchup: "some"}, []string{`"some"`, "latest, all, none"}},
		"gap":                   {spec{Cron: "@daily", Gap: "jump"}, []string{`"jump"`, "run-after, skip"}},
		"repeat":                {spec{Cron: "@daily", Repeat: "thrice"}, []string{`"thrice"`, "once, twice"}},
		"runs":                  {spec{Cron: "@daily", Runs: -1}, []string{"runs -1", "1 or more"}},
		"window":                {spec{Cron: "@daily", CatchupWindow: 1}, []string{"catchupWindow 1ns", "1s to"}},
		"jitter":                {spec{Cron: "@daily", Jitter: -1}, []string{"jitter -1ns", "0s to"}},
		"timeout":               {spec{Cron: "@daily", RunTimeout: schedule.Duration(10000 * time.Hour)}, []string{"runTimeout 10000h0m0s", "to 8784h"}},
		"payload":               {spec{Cron: "@daily", Payload: []byte(`{`)}, []string{"not JSON"}},
		"large payload":         {spec{Cron: "@daily", Payload: fmt.Appendf(nil, "%q", strings.Repeat("x", 256<<10))}, []string{"262146 bytes", "at most 262144"}},
		"event":                 {spec{Cron: "@daily", Event: "order"}, []string{"order"}},
		"event and handler":     {spec{Cron: "@daily", Event: "Order.placed", Handler: "x"}, []string{"both event and handler"}},
		"handler":               {spec{Cron: "@daily", Handler: "a.b"}, []string{"a.b"}},
		"long handler":          {spec{Cron: "@daily", Handler: strings.Repeat("h", 56)}, []string{"56 bytes", "at most 55"}},
	} {
		test.spec.Name = "wrong"
		_, err := l.all.Create(ctx, test.spec, true)
		if rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, w := range append(test.words, "wrong") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v: it does not say %q", what, err, w)
			}
		}
		_, err = l.all.Update(ctx, "right", func(s *spec) {
			test.spec.Name = s.Name
			*s = test.spec
		})
		if rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("%s, as an update: %v", what, err)
		}
	}
	for _, name := range []string{"", "a.b", "a b", "_armed", "$x", "ü", strings.Repeat("n", 65), "*", ">"} {
		_, err := l.all.Create(ctx, schedule.Spec{Name: name, Cron: "@daily"}, false)
		l.coded(err, rpc.InvalidArgument, "schedule")
		_, err = l.all.Get(ctx, name)
		l.coded(err, rpc.InvalidArgument)
		l.coded(l.all.Delete(ctx, name), rpc.InvalidArgument)
	}
	_, err := l.all.Trigger(ctx, "right", []byte("{"))
	l.coded(err, rpc.InvalidArgument, "not JSON")
	_, err = l.all.Trigger(ctx, "right", fmt.Appendf(nil, "%q", strings.Repeat("x", 256<<10)))
	l.coded(err, rpc.InvalidArgument, "262146", "262144")
	_, err = l.all.Backfill(ctx, "right", now, now.Add(-time.Hour))
	l.coded(err, rpc.InvalidArgument, "before its start")
	_, err = l.all.Backfill(ctx, "right", now, now.Add(time.Hour))
	l.coded(err, rpc.InvalidArgument, "yet to come")
	_, err = l.all.Backfill(ctx, "right", now.Add(-9000*time.Hour), now)
	l.coded(err, rpc.InvalidArgument, "more than 1000")
	_, err = l.all.Pause(ctx, "nobody", "")
	l.coded(err, rpc.NotFound, "nobody")
	for subject := range l.subjects() {
		if subject != "right" && subject != "_armed.right" {
			t.Errorf("%s was stored", subject)
		}
	}
	if info := l.get("right"); info.Spec.Cron != "@hourly" || info.Counts.Fired != 0 {
		t.Errorf("%+v", info)
	}
}

// Names of the greatest length have handlers.
func TestLongNames(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var g ticks
	handler := strings.Repeat("h", 55)
	l.serve(func(svc *server.Service) {
		schedule.Add(svc, handler, "@yearly", g.handle)
		for _, wrong := range []string{handler + "h", "a.b", ""} {
			func() {
				defer func() {
					if said := fmt.Sprint(recover()); !strings.HasPrefix(said, "schedule: Handle: ") {
						t.Errorf("%q: %s", wrong, said)
					}
				}()
				schedule.Handle(svc, wrong, g.handle)
			}()
		}
	})
	name := strings.Repeat("n", 64)
	l.create(schedule.Spec{Name: name, Cron: "@yearly", Handler: handler})
	for _, name := range []string{name, handler} {
		if _, err := l.all.Trigger(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
		l.until("it has finished", func() bool { return l.get(name).Counts.Finished == 1 })
	}
	_, err := l.all.Create(t.Context(), schedule.Spec{Name: strings.Repeat("n", 56), Cron: "@yearly"}, false)
	l.coded(err, rpc.InvalidArgument, "the handler", "at most 55")
}

// A list is whole, whatever its length, and does not wait for more.
func TestLongList(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.makeMany(0, 600)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	list, err := l.all.List(ctx, schedule.List{})
	if err != nil || len(list) != 600 || list[0].Spec.Name != "s-0" {
		t.Errorf("%d, %v", len(list), err)
	}
}

// What waits is bounded by bytes, and whoever triggers hears of it.
func TestFull(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	payload := fmt.Appendf(nil, "%q", strings.Repeat("<", 256<<10-2))
	spec := schedule.Spec{Name: "big", Cron: "@yearly", Overlap: schedule.OverlapBufferAll, Payload: payload}
	if _, err := l.all.Create(t.Context(), spec, false); err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		_, err := l.all.Trigger(t.Context(), "big", payload)
		if err == nil && n < 5 {
			continue
		}
		l.coded(err, rpc.ResourceExhausted, "buffer full", "big")
		if info := l.get("big"); n < 2 || info.Waiting != n-2 || info.Counts.Fired != 1 || info.Counts.Skipped != nil {
			t.Errorf("the %d. was refused: %d wait, %+v", n, info.Waiting, info.Counts)
		}
		break
	}
	if list, err := l.all.List(t.Context(), schedule.List{}); err != nil || len(list) != 1 {
		t.Errorf("%d, %v", len(list), err)
	}
}
