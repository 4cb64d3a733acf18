//go:build unix

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

var long = flag.Bool("long", false, "more rounds of every fault")

// rounds is how often a fault is made.
func rounds(short, many int) int {
	if *long {
		return many
	}
	return short
}

// The programs under test, built once.
var programs struct{ rpcdo, worker, eventworker string }

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "e2e-")
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	// Tests that are interrupted, or that run out of time, do not clean up.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	var out <-chan time.Time
	if limit := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration); limit > 0 {
		out = time.After(limit - limit/20)
	}
	go func() {
		select {
		case sig := <-interrupted:
			fmt.Fprintln(os.Stderr, "e2e:", sig)
			killAll()
			os.Exit(1)
		case <-out:
			fmt.Fprintln(os.Stderr, "e2e: out of time: the processes are killed, what follows is of that")
			killAll()
		}
	}()
	status := m.Run()
	killAll()
	os.RemoveAll(dir)
	os.Exit(status)
}

// buildWorker builds the worker with a build tag.
func buildWorker(t testing.TB, tag string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "worker-"+tag)
	if out, err := exec.Command("go", "build", "-tags", tag, "-o", target, "rpc.do/e2e/internal/worker").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return target
}

func build(dir string) error {
	for target, pkg := range map[*string]string{
		&programs.rpcdo:       "rpc.do/cmd/rpcdo",
		&programs.worker:      "rpc.do/e2e/internal/worker",
		&programs.eventworker: "rpc.do/e2e/internal/eventworker",
	} {
		*target = filepath.Join(dir, filepath.Base(pkg))
		args := []string{"build", "-o", *target}
		if raceDetector {
			args = append(args, "-race")
		}
		if out, err := exec.Command("go", append(args, pkg)...).CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}
