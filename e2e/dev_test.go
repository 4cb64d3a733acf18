//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// startDev runs rpcdo dev and waits for its banner.
func startDev(t *testing.T) (dev *process, url string, port int) {
	t.Helper()
	port = freePort(t)
	dev = start(t, "dev", nil, programs.rpcdo, "dev", "--nats-port", fmt.Sprint(port), "--store", filepath.Join(t.TempDir(), "store"))
	dev.line(t, "Ctrl-C")
	return dev, fmt.Sprintf("nats://127.0.0.1:%d", port), port
}

// TestDev does what the getting started page says.
func TestDev(t *testing.T) {
	t.Parallel()
	dev, url, port := startDev(t)

	t.Run("banner", func(t *testing.T) {
		banner := dev.stdout.text()
		for _, text := range []string{"ready " + url, "JetStream", "greeter", "math", "counter", "sync: interval", "Ctrl-C stops"} {
			if !strings.Contains(banner, text) {
				t.Errorf("the banner does not say %q:\n%s", text, banner)
			}
		}
		// What it proposes works when it is pasted into a shell.
		_, lines, _ := strings.Cut(banner, "Try in another terminal:\n")
		lines, _, _ = strings.Cut(lines, "\n\n")
		tries := strings.Split(strings.TrimSpace(lines), "\n")
		results := []string{`{"sum":3}`, `{"message":"Hello, Ada!"}`, `{"value":1}`, "SERVICE"}
		if len(tries) != len(results) {
			t.Fatalf("%d lines to try, want %d: %q", len(tries), len(results), tries)
		}
		for i, line := range tries {
			if r := run(t, nil, "sh", "-c", line); r.status != 0 || !strings.HasPrefix(r.stdout, results[i]) || r.stderr != "" {
				t.Errorf("%s: %+v, want %s", line, r, results[i])
			}
		}
	})

	t.Run("calls", func(t *testing.T) {
		call := func(args ...string) result { return rpcdo(t, append([]string{"call", "--server", url}, args...)...) }
		call("math.add", `{"a":1,"b":2}`).want(t, 0, "{\"sum\":3}\n")
		run(t, []string{"NATS_URL=" + url}, programs.rpcdo, "call", "math.add", `{"a":1,"b":2}`).want(t, 0, "{\"sum\":3}\n")

		r := call("math.divide", `{"a":1,"b":0}`)
		r.want(t, 1, "")
		if !strings.Contains(r.stderr, "invalid_argument: division by zero") || !strings.Contains(r.stderr, "rpc.FieldViolation") {
			t.Errorf("stderr %q does not tell the code, the message and the detail", r.stderr)
		}
		r = call("math.divide", `{"a":1,"b":0}`, "--json")
		r.want(t, 1, "")
		var failure struct {
			Code, Message string
			Details       []struct {
				Type  string
				Value json.RawMessage
			}
		}
		if err := json.Unmarshal([]byte(r.stderr), &failure); err != nil || failure.Code != "invalid_argument" ||
			failure.Message != "division by zero" || len(failure.Details) != 1 || failure.Details[0].Type != "rpc.FieldViolation" {
			t.Errorf("stderr %q: %v", r.stderr, err)
		}

		call("nobody.there", `{}`).complains(t, 1, "unavailable", "rpc.nobody.there", "services ls")
		call("math.subtract", `{}`).complains(t, 1, "unimplemented", "Method not found", "services info math")
		call("math.add", `{"a":`).complains(t, 2, "JSON", "line 1")
		call("math..add", `{}`).complains(t, 2, "empty")
		call().complains(t, 2, "which method")
	})

	t.Run("second on the port", func(t *testing.T) {
		rpcdo(t, "dev", "--nats-port", fmt.Sprint(port), "--store", t.TempDir()).complains(t, 1, fmt.Sprint(port), "in use", "--nats-port")
		rpcdo(t, "bus", "--port", fmt.Sprint(port), "--store", t.TempDir()).complains(t, 1, fmt.Sprint(port), "in use", "--port")
	})

	t.Run("second on the store", func(t *testing.T) {
		store := dev.cmd.Args[len(dev.cmd.Args)-1]
		rpcdo(t, "dev", "--nats-port", "0", "--store", store).complains(t, 1, store, "another")
	})

	dev.stop(t, syscall.SIGINT)
	if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		t.Errorf("the port is not free after the end: %v", err)
	} else {
		l.Close()
	}
}

// TestSignals ends the long-running commands by both signals.
func TestSignals(t *testing.T) {
	t.Parallel()
	url, serve := startDemo(t)
	serve.stop(t, syscall.SIGINT)
	serve = start(t, "serve", nil, programs.rpcdo, "serve", "--server", url)
	serve.line(t, "ready ")
	serve.stop(t, syscall.SIGTERM)
	dev, _, _ := startDev(t)
	dev.stop(t, syscall.SIGTERM)
	if text := dev.stderr.text(); text != "" {
		t.Errorf("a run without calls says on stderr: %s", text)
	}
	b := startBus(t)
	b.stop(t, syscall.SIGINT)
}

func TestUnwritableStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"dev", "--nats-port", "0"}, {"bus", "--port", "0"}} {
		rpcdo(t, append(command, "--store", filepath.Join(file, "store"))...).complains(t, 1, file, "writable")
	}
}

func TestNoBus(t *testing.T) {
	t.Parallel()
	url := fmt.Sprintf("nats://127.0.0.1:%d", freePort(t))
	for _, command := range [][]string{{"call", "math.add", "{}"}, {"services", "ls"}, {"serve"}} {
		rpcdo(t, append(command, "--server", url)...).complains(t, 1, url, "rpcdo dev")
	}
	r := rpcdo(t, "call", "math.add", "{}", "--json", "--server", url)
	var failure struct{ Code, Message string }
	if err := json.Unmarshal([]byte(r.stderr), &failure); r.status != 1 || err != nil || failure.Code != "unavailable" {
		t.Errorf("%+v: %v, want unavailable as JSON", r, err)
	}
}
