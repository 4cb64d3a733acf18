//go:build unix

package e2e

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/e2e/internal/work"
)

// TestKill kills one of three instances under load. What fails is the calls
// that may not be sent twice and were there at that moment; all others succeed.
func TestKill(t *testing.T) {
	b := startBus(t)
	var all, current []*process
	begin := func() *process {
		p := startWorker(t, b.url, fmt.Sprintf("worker-%d", len(all)+1))
		all = append(all, p)
		return p
	}
	for range 3 {
		current = append(current, begin())
	}
	const timeout = 3 * time.Second
	once := tasks(t, b.url, "do", work.Do, 8, timeout, client.Config{})
	again := tasks(t, b.url, "redo", work.Redo, 8, timeout, client.Config{})
	caller := newClient(t, b.url, client.Config{})
	type killing struct {
		victim *process
		at     time.Time
	}
	var killings []killing
	for round := range rounds(1, 10) {
		once.more(100)
		again.more(100)
		// These are long enough to be at work for sure, and are spread by chance.
		var long []int64
		futures := map[int64]*rpc.Future[work.Done]{}
		for range 12 {
			n := numbers.Add(1)
			long = append(long, n)
			futures[n] = work.Do.Go(t.Context(), caller, work.Task{N: n, Ms: 1000}, rpc.WithTimeout(timeout))
		}
		var victim *process
		until(t, "all long calls have begun", func() bool {
			running := 0
			for i := range current {
				p := current[(round+i)%len(current)] // another one each time
				there := runs("do", p)
				here := 0
				for _, n := range long {
					here += there[n]
				}
				running += here
				if here > 0 {
					victim = p
				}
			}
			return running == len(long)
		})
		k := killing{victim, victim.kill(t)}
		killings = append(killings, k)
		there, lost := runs("do", victim), 0
		for _, n := range long {
			done, err := futures[n].Wait(t.Context())
			switch {
			case there[n] == 0 && (err != nil || done.By == victim.name):
				t.Errorf("round %d: long call %d was not at the killed instance: by %s, error %v", round, n, done.By, err)
			case there[n] > 0 && rpc.CodeOf(err) != rpc.DeadlineExceeded:
				t.Errorf("round %d: long call %d died with its instance: error %v, want deadline_exceeded", round, n, err)
			}
			if err != nil {
				lost++
			}
		}
		t.Logf("round %d: of 12 long calls, %d were at the killed instance and failed", round, lost)
		once.more(100)
		again.more(100)
		current[slices.Index(current, victim)] = begin()
	}
	once.more(100)

	records, recordsOnce := again.end(), once.end()
	for _, p := range current {
		p.stop(t, syscall.SIGTERM) // now it has said all
	}
	t.Logf("redo: %s, by %v", summary(records), shares(records))
	if failed := failures(records); len(failed) > 0 {
		t.Errorf("idempotent calls failed:%s", describe(failed, killings[0].at))
	}
	failed := failures(recordsOnce)
	t.Logf("do: %s, by %v", summary(recordsOnce), shares(recordsOnce))
	for _, r := range failed {
		if code := rpc.CodeOf(r.err); code != rpc.DeadlineExceeded && code != rpc.Unavailable {
			t.Errorf("call %d: %v", r.n, r.err)
		}
		// In flight at a victim: sent when it was still thought to be there,
		// unanswered when it was killed, and seen by nobody else.
		i := slices.IndexFunc(killings, func(k killing) bool {
			return r.start.Before(k.at.Add(100*time.Millisecond)) && r.end.After(k.at)
		})
		if i < 0 {
			t.Errorf("call %d failed, though no instance was killed meanwhile: %v", r.n, r.err)
			continue
		}
		for _, p := range all {
			if p != killings[i].victim && runs("do", p)[r.n] > 0 {
				t.Errorf("call %d failed at %s, which was not killed: %v", r.n, p.name, r.err)
			}
		}
	}
	if most := 8 * len(killings); len(failed) > most {
		t.Errorf("%d calls failed: 8 callers had at most %d in flight at the killed instances", len(failed), most)
	}
	onceAtMost(t, "do", all...)
	b.stop(t, syscall.SIGTERM)
}
