package linear

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What the plan of one seed is must not change without notice: seeds are
// written down to be replayed.
func TestScheduleIsTheSame(t *testing.T) {
	t.Parallel()
	const want = `2.309s remove 1;
5.649s pause 0 for 10.71s;
7.796s restart-bus;
9.599s add 3;
13.087s partition 3 for 7.803s;
15.485s cut 2;
17.032s kill 2;
19.704s add 4;
21.661s cut 0;
24.769s pause 4 for 9.887s;
26.829s remove 0;
31.043s restart-bus;
33.916s cut 3;
35.544s kill 3;
39.119s add 5`
	got := Schedule(7, 40*time.Second, Faults{}).String()
	if got != strings.ReplaceAll(want, "\n", " ") {
		t.Errorf("the plan of seed 7 is\n%s, want\n%s", got, want)
	}
	if other := Schedule(8, 40*time.Second, Faults{}).String(); other == got {
		t.Errorf("seeds 7 and 8 have the same plan")
	}
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Faults{
		{},
		{Members: 5, Least: 3, Most: 6, Every: time.Second, Lease: 2 * time.Second},
		{Members: 1},
		{Kinds: []FaultKind{KillMember, AddMember}},
		{Kinds: []FaultKind{PauseMember, PartitionMember}, Every: 100 * time.Millisecond},
	} {
		for seed := range uint64(200) {
			const duration = time.Minute
			p := Schedule(seed, duration, cfg)
			if !reflect.DeepEqual(p, Schedule(seed, duration, cfg)) {
				t.Fatalf("seed %d: two plans", seed)
			}
			if again, err := ParsePlan(p.String()); err != nil || !reflect.DeepEqual(again, p) {
				t.Fatalf("seed %d: %v reads as %v, %v", seed, p, again, err)
			}
			checkPlan(t, seed, p, duration, cfg.withDefaults())
		}
	}
}

func checkPlan(t *testing.T, seed uint64, p Plan, duration time.Duration, cfg Faults) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Fatalf("seed %d, %+v: %v", seed, cfg, p)
		}
	}()
	running, next := map[int]time.Duration{}, cfg.Members // until when it is not well
	for i := range cfg.Members {
		running[i] = 0
	}
	count := map[FaultKind]int{}
	var last time.Duration
	for _, f := range p {
		count[f.Kind]++
		if f.At < last || f.At+f.For > duration || !slices.Contains(cfg.Kinds, f.Kind) {
			t.Errorf("%v is at a wrong time, or of a wrong kind", f)
		}
		last = f.At
		if f.Kind.lasts() != (f.For > 0) || f.Kind.lasts() && f.For <= cfg.Lease {
			t.Errorf("%v: lasts %v, the lease %v", f, f.For, cfg.Lease)
		}
		if f.Kind == RestartBus {
			continue
		}
		if f.Kind == AddMember {
			if f.Member != next {
				t.Errorf("%v: the next is %d", f, next)
			}
			running[f.Member], next = 0, next+1
		}
		until, ok := running[f.Member]
		if !ok || until > f.At {
			t.Errorf("%v: does not run or is not well until %v", f, until)
		}
		switch {
		case f.Kind.lasts():
			running[f.Member] = f.At + f.For
		case f.Kind == KillMember || f.Kind == RemoveMember:
			delete(running, f.Member)
		}
		well := 0
		for _, until := range running {
			if until <= f.At {
				well++
			}
		}
		if well < cfg.Least || len(running) > cfg.Most {
			t.Errorf("after %v %d of %d are well", f, well, len(running))
		}
	}
	if len(cfg.Kinds) == len(faultKinds()) && cfg.Members > 1 {
		for _, k := range cfg.Kinds {
			if count[k] == 0 {
				t.Errorf("no %s", k)
			}
		}
	}
}

func TestParsePlan(t *testing.T) {
	t.Parallel()
	p, err := ParsePlan("\n 3s cut 0\n1.5s  pause 2 for 7.2s ;2s restart-bus; ")
	want := Plan{
		{At: 1500 * time.Millisecond, Kind: PauseMember, Member: 2, For: 7200 * time.Millisecond},
		{At: 2 * time.Second, Kind: RestartBus},
		{At: 3 * time.Second, Kind: CutMember},
	}
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%v, %v", p, err)
	}
	for _, text := range []string{
		"kill 1", "1s", "1s sing 1", "1s kill", "1s kill x", "1s kill -1", "-1s kill 1", "1s kill 1 for 2s", "1s pause 1",
		"1s pause 1 for", "1s pause 1 for x", "1s pause 1 for -2s", "1s restart-bus 1", "1s pause 1 for 2s now",
	} {
		if p, err := ParsePlan(text); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	f.Add("1.5s pause 2 for 7.2s; 2s restart-bus")
	f.Add(Schedule(1, time.Minute, Faults{}).String())
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePlan(text)
		if err != nil {
			return
		}
		if again, err := ParsePlan(p.String()); err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%v reads as %v, %v", p, again, err)
		}
	})
}

func TestPlanRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := ParsePlan("1s pause 1 for 4s; 2s pause 2 for 2s; 3s kill 0; 3s cut 3; 6s restart-bus")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		var did []string
		note := func(text string) { did = append(did, time.Since(begin).String()+" "+text) }
		err = p.Run(t.Context(), func(_ context.Context, f Fault) (func() error, error) {
			note(string(f.Kind))
			if !f.Kind.lasts() {
				return nil, nil
			}
			return func() error { note("end of " + string(f.Kind)); return nil }, nil
		})
		const want = "1s pause, 2s pause, 3s kill, 3s cut, 4s end of pause, 5s end of pause, 6s restart-bus"
		if got := strings.Join(did, ", "); err != nil || got != want {
			t.Errorf("%s, want %s; %v", got, want, err)
		}
	})
}

func TestPlanEndsEarly(t *testing.T) {
	t.Parallel()
	p, err := ParsePlan("0s pause 1 for 4h; 0s kill 2; 4h cut 3")
	if err != nil {
		t.Fatal(err)
	}
	failure := errors.New("no such process")
	for _, fails := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		resumed := 0
		err := p.Run(ctx, func(_ context.Context, f Fault) (func() error, error) {
			switch {
			case f.Kind == PauseMember:
				return func() error { resumed++; return nil }, nil
			case fails:
				return nil, failure
			default:
				cancel()
				return nil, nil
			}
		})
		cancel()
		if fails && !errors.Is(err, failure) || !fails && !errors.Is(err, context.Canceled) || resumed != 1 {
			t.Errorf("error %v, resumed %d times", err, resumed)
		}
	}
}
