package linear

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// Histories of a correct object pass; with one fault they do not.
func TestSimulatedHistories(t *testing.T) {
	t.Parallel()
	for _, sim := range []struct {
		name string
		simulation
	}{
		{"plain", simulation{clients: 8, ops: 400, unknown: 0.1, failed: 0.1, amount: alike}},
		{"all known", simulation{clients: 16, ops: 400, amount: different}},
		{"few amounts", simulation{clients: 8, ops: 400, unknown: 0.1, failed: 0.1, amount: few}},
		{"traces", simulation{clients: 16, ops: 400, unknown: 0.2, failed: 0.1, amount: different, ring: 64}},
		{"short traces", simulation{clients: 8, ops: 400, unknown: 0.1, failed: 0.1, amount: alike, ring: 3}},
		{"up and down, with traces", simulation{clients: 8, ops: 400, unknown: 0.2, failed: 0.1, falls: true, amount: few, ring: 64}},
		{"up and down", simulation{clients: 4, ops: 60, unknown: 0.05, failed: 0.1, falls: true, amount: different}},
	} {
		for _, fault := range []string{"", "stale read", "lost update", "double", "undead"} {
			t.Run(fmt.Sprintf("%s/%s", sim.name, fault), func(t *testing.T) {
				t.Parallel()
				s := sim.simulation
				s.fault = fault
				faults := 0
				for seed := range uint64(20) {
					r := rand.New(rand.NewPCG(seed, 2))
					ops, injected := s.run(r)
					begin := time.Now()
					v, reason := newHistory("x", pointers(ops)).check(DefaultMaxMemory, soon())
					if took := time.Since(begin); took > 5*time.Second {
						t.Errorf("seed %d took %v", seed, took)
					}
					want := Pass
					if injected {
						faults++
						want = Violation
					}
					if v != want && !(injected && v == Pass && s.canHide()) {
						t.Errorf("seed %d: %v %s, want %v", seed, v, reason, want)
					}
				}
				if fault != "" && faults < 5 && (fault != "undead" || s.failed > 0) {
					t.Errorf("only %d faults were made", faults)
				}
			})
		}
	}
}

// canHide reports whether an open operation can make up for the fault.
func (s simulation) canHide() bool {
	switch {
	case s.falls && s.ring == 0:
		return true // any of them
	case s.fault == "double" || s.fault == "undead":
		return s.unknown > 0 && s.ring < 10
	case s.falls:
		return s.fault == "stale read" && s.ring < 10
	}
	return false
}

// Checking is fast enough for what the tests make.
func TestLargeHistories(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]simulation{
		"alike":  {clients: 64, ops: 5000, unknown: 0.1, failed: 0.05, amount: alike},
		"traces": {clients: 64, ops: 5000, unknown: 0.1, failed: 0.05, amount: different, ring: 64},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, fault := range []string{"", "stale read", "lost update"} {
				s.fault = fault
				ops, injected := s.run(rand.New(rand.NewPCG(3, 3)))
				r, err := Check(ops, Config{Dir: t.TempDir()})
				if err != nil || r.Verdict == GaveUp || (r.Err() == nil) == injected {
					t.Errorf("%q: %v %v", fault, r, err)
				}
				if r.Took > 5*time.Second {
					t.Errorf("took %v", r.Took)
				}
				t.Log(r)
			}
		})
	}
}
