package lease

import (
	"math"
	"testing"
	"time"
)

func TestLease(t *testing.T) {
	t.Parallel()
	var l Lease
	if l.Valid() || l.Left() > 0 {
		t.Fatal("a lease that was never renewed is valid")
	}
	sent := Now()
	l.Extend(sent, time.Hour)
	if left := l.Left(); !l.Valid() || left > time.Hour || left < time.Hour-time.Minute {
		t.Fatalf("valid %v, left %v", l.Valid(), left)
	}
	l.Extend(sent-Instant(time.Hour), time.Hour) // the answer took all the time
	if left := l.Left(); l.Valid() || left > 0 {
		t.Fatalf("valid %v, left %v", l.Valid(), left)
	}
	l.Extend(Now(), time.Hour)
	l.End()
	if left := l.Left(); l.Valid() || left > 0 || left == math.MinInt64 {
		t.Fatalf("after the end: valid %v, left %v", l.Valid(), left)
	}
}

func TestInstant(t *testing.T) {
	t.Parallel()
	before := time.Now()
	i := Now()
	for i.Since() < 2*time.Millisecond {
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(before); i.Since() > took+time.Second || took < 2*time.Millisecond {
		t.Fatalf("%v passed here and %v there", i.Since(), took)
	}
}

func BenchmarkValid(b *testing.B) {
	var l Lease
	l.Extend(Now(), time.Hour)
	for b.Loop() {
		l.Valid()
	}
}
