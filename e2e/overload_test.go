//go:build unix

package e2e

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/client"
	"rpc.do/e2e/internal/work"
)

// TestOverload has 1,000 callers call a service with 8 places, each as fast as
// it can. Everyone is answered, what is too much is said to be, and the service
// does not grow.
func TestOverload(t *testing.T) {
	const (
		callers, places, queue = 1000, 8, 64
		timeout                = 20 * time.Second
	)
	b := startBus(t)
	w := startWorker(t, b.url, "worker-1", "-concurrency", fmt.Sprint(places), "-queue", fmt.Sprint(queue))
	pad := strings.Repeat("x", 32<<10)
	before, measured := peakMemory(t, w.cmd.Process.Pid)

	for _, attempts := range []int{1, 5} {
		c := newClient(t, b.url, client.Config{MaxAttempts: attempts, RetryBudget: 100_000})
		var wg sync.WaitGroup
		var ok, shed atomic.Int64
		begin := time.Now()
		for range callers {
			wg.Go(func() {
				for range rounds(3, 30) {
					called := time.Now()
					_, err := work.Do.Call(t.Context(), c, work.Task{N: numbers.Add(1), Ms: 10, Pad: pad}, rpc.WithTimeout(timeout))
					if took := time.Since(called); took > timeout+slack {
						t.Errorf("a call took %v", took)
					}
					switch rpc.CodeOf(err) {
					case 0:
						ok.Add(1)
					case rpc.ResourceExhausted:
						shed.Add(1)
					default:
						t.Errorf("error %v, want resource_exhausted or none", err)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("sent %d times at most: %d calls done and %d shed in %v", attempts, ok.Load(), shed.Load(), time.Since(begin).Round(time.Millisecond))
		if ok.Load() == 0 || attempts == 1 && shed.Load() == 0 {
			t.Error("want some calls done, and some shed when nobody tries again")
		}
		if done, err := work.Do.Call(t.Context(), c, work.Task{N: 1}); err != nil || done.N != 1 {
			t.Errorf("a call after the overload: %v, %v", done, err)
		}
	}

	if after, ok := peakMemory(t, w.cmd.Process.Pid); ok && measured {
		// What runs and waits is 72 payloads of 32 KiB, and what was read from
		// the socket and shed is garbage. A thousand payloads are 32 MiB.
		bound := int64(128 << 20)
		if raceDetector {
			bound *= 8 // its own records of every access
		}
		t.Logf("the service's memory: %d MiB at first, at most %d MiB under overload", before>>20, after>>20)
		if after-before > bound {
			t.Errorf("the service grew by %d bytes under overload, at most %d are right", after-before, bound)
		}
	}
	w.stop(t, syscall.SIGTERM)
}

// peakMemory returns the most memory that a process has had, in bytes. It is
// known on Linux alone.
func peakMemory(t *testing.T, pid int) (bytes int64, ok bool) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Logf("%s does not tell how much memory a process has: its bound is not tested", runtime.GOOS)
		return 0, false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("VmHWM in %s: %v", status, err)
	}
	return kib << 10, true
}
