// Package basicrpc_test runs the example as its README says, in processes of
// its own.
package basicrpc_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpc.do/bus/bustest"
)

const want = `placed: order-1, 2 of keyboard
found: order-1, 2 of keyboard
refused: failed_precondition: 2 of keyboard are wanted, 1 are left
still there: 1 of keyboard
missing: not_found: there is no order "order-7"
too slow: deadline_exceeded
`

func TestMain(m *testing.M) { bustest.Main(m) }

func TestExample(t *testing.T) {
	t.Parallel()
	bin := build(t)
	url := bustest.Server(t).URL()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	service := startService(ctx, t, filepath.Join(bin, "service"), url)

	caller := program(ctx, filepath.Join(bin, "caller"), url)
	var stderr bytes.Buffer
	caller.Stderr = &stderr
	got, err := caller.Output()
	if err != nil {
		t.Fatalf("caller: %v\n%s", err, &stderr)
	}
	if string(got) != want {
		t.Errorf("the caller printed\n%s\nwant\n%s", got, want)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), want) {
		t.Errorf("README.md does not show what the caller prints:\n%s", want)
	}

	if err := service.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := service.Wait(); err != nil {
		t.Errorf("service after SIGTERM: %v, want exit status 0", err)
	}
}

// build builds both programs, with the race detector when the test has it, and
// returns the folder they are in.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"build", "-o", dir}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	if out, err := exec.CommandContext(t.Context(), "go", append(args, "./service", "./caller")...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// startService returns when the service says that it takes calls. Its log goes
// to the test's.
func startService(ctx context.Context, t *testing.T, path, url string) *exec.Cmd {
	t.Helper()
	cmd := program(ctx, path, url)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close() // the service has its own
	serving, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer read.Close()
		forward(t, read, serving)
	}()
	t.Cleanup(func() {
		if cmd.ProcessState == nil { // the test failed before it stopped the service
			_ = cmd.Process.Kill() // fails when it has ended by itself
			_ = cmd.Wait()
		}
		<-ended
	})
	select {
	case <-serving:
	case <-ended:
		t.Fatal("the service ended before it served")
	case <-ctx.Done():
		t.Fatal("the service does not serve")
	}
	return cmd
}

// forward logs what the service logs and closes serving when it says so.
func forward(t *testing.T, log io.Reader, serving chan<- struct{}) {
	announced := false
	for lines := bufio.NewScanner(log); lines.Scan(); {
		t.Log(lines.Text())
		if !announced && strings.Contains(lines.Text(), `"message":"serving"`) {
			announced = true
			close(serving)
		}
	}
}

func program(ctx context.Context, path, url string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(os.Environ(), "NATS_URL="+url)
	return cmd
}
