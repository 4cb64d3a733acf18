package client_test

import "testing"

// A typed call over TCP allocates little more than a plain request of nats.go
// with JSON in it does. What is counted is the whole process: caller, bus and
// service.
func TestAllocations(t *testing.T) { // not parallel: others' allocations would count
	if raceDetector {
		t.Skip("the race detector allocates too")
	}
	const runs, allowance = 2000, 15
	params := sumParams{A: 1, B: 2}
	raw := allocations(t, runs, rawCall(t, "tcp", params))
	typed := allocations(t, runs, typedCall(t, "tcp", params, true))
	t.Logf("allocations per call: raw nats.go %.0f, typed %.0f", raw, typed)
	if typed > raw+allowance {
		t.Errorf("a typed call takes %.0f allocations, a raw one %.0f: at most %d more are right", typed, raw, allowance)
	}
}

// allocations returns how many allocations op takes on average, once it is warm.
func allocations(t *testing.T, runs int, op func() error) float64 {
	t.Helper()
	try := func() {
		if err := op(); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		try()
	}
	return testing.AllocsPerRun(runs, try)
}
