//go:build unix

package e2e

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that should take a moment.
const patience = 30 * time.Second

// process is a program that runs beside the test. It is killed when the test
// ends, with all it has started.
type process struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	stdout *transcript
	stderr *transcript
	done   chan struct{} // closed when it has ended
	ended  time.Time
}

// processes are those that run.
var processes struct {
	sync.Mutex
	groups map[int]bool
}

func killAll() {
	processes.Lock()
	defer processes.Unlock()
	for pid := range processes.groups {
		_ = syscall.Kill(-pid, syscall.SIGKILL) // it may have ended
	}
}

// noteSources looks at all folders of the module. The programs are built from
// what is in there, and go test takes an earlier outcome for this one's unless
// it sees the test look at what has changed.
var noteSources = sync.OnceValue(func() error {
	return filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && len(path) > 2 && entry.Name()[0] == '.' {
			return filepath.SkipDir
		}
		return err
	})
})

// start runs a program. Its environment is bare, except for env.
func start(t testing.TB, name string, env []string, program string, args ...string) *process {
	t.Helper()
	if err := noteSources(); err != nil {
		t.Fatal(err)
	}
	p := &process{
		t: t, name: name, cmd: exec.Command(program, args...),
		stdout: newTranscript(), stderr: newTranscript(), done: make(chan struct{}),
	}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.Env = environment(env)
	p.cmd.Dir = t.TempDir()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	processes.Lock()
	err := p.cmd.Start()
	if err == nil {
		if processes.groups == nil {
			processes.groups = map[int]bool{}
		}
		processes.groups[p.cmd.Process.Pid] = true
	}
	processes.Unlock()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // exit statuses are looked at by those who expect one
		p.ended = time.Now()
		p.stdout.close()
		p.stderr.close()
		processes.Lock()
		delete(processes.groups, p.cmd.Process.Pid)
		processes.Unlock()
		close(p.done)
	}()
	t.Cleanup(p.cleanUp)
	return p
}

// environment is that of the test without what would change the programs.
func environment(extra []string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "NATS_") && !strings.HasPrefix(v, "RPCDO_") {
			env = append(env, v)
		}
	}
	// A race that is found must not change how a program ends: it is looked
	// for in the output.
	return append(append(env, "GORACE=exitcode=0"), extra...)
}

// crash matches what a Go program prints when it ends by a defect, or has one.
var crash = regexp.MustCompile(`(?m)^(panic: |fatal error: |WARNING: DATA RACE)`)

func (p *process) cleanUp() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	<-p.done
	if at := crash.FindStringIndex(p.stderr.text()); at != nil {
		p.t.Errorf("%s crashed or raced", p.name)
	}
	if p.t.Failed() {
		p.t.Logf("%s: %v\n%s\n%s", p.name, p.cmd.ProcessState, p.stdout.tail(), p.stderr.tail())
	}
}

// line waits for a line of stdout that begins with prefix and returns it.
func (p *process) line(t testing.TB, prefix string) string {
	t.Helper()
	var found string
	p.stdout.until(func(text string) bool {
		for l := range strings.Lines(text) {
			if strings.HasPrefix(l, prefix) && strings.HasSuffix(l, "\n") {
				found = strings.TrimSuffix(l, "\n")
				return true
			}
		}
		return false
	})
	if found == "" {
		t.Fatalf("%s: no line that begins with %q (%v)", p.name, prefix, p.cmd.ProcessState)
	}
	return found
}

// lines returns the lines of stdout until now.
func (p *process) lines() []string { return strings.Split(p.stdout.text(), "\n") }

func (p *process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%s: %v: %v", p.name, sig, err)
	}
}

// kill is kill -9. It returns the moment of it.
func (p *process) kill(t testing.TB) time.Time {
	t.Helper()
	at := time.Now()
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
	return at
}

// wait waits for the end and returns the exit status, -1 after a kill.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("%s has not ended within %v", p.name, patience)
		return 0
	}
}

// stop asks the process to end, as an operator does, and wants a clean end.
func (p *process) stop(t testing.TB, sig syscall.Signal) {
	t.Helper()
	p.signal(t, sig)
	if status := p.wait(t); status != 0 {
		t.Errorf("%s: exit status %d after %v", p.name, status, sig)
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// transcript is what a process has printed.
type transcript struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
	closed  bool
}

func newTranscript() *transcript { return &transcript{changed: make(chan struct{})} }

func (tr *transcript) Write(data []byte) (int, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.buf.Write(data)
	close(tr.changed)
	tr.changed = make(chan struct{})
	return len(data), nil
}

func (tr *transcript) close() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.closed = true
	close(tr.changed)
}

func (tr *transcript) text() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.buf.String()
}

// tail is what one wants to see of a long transcript.
func (tr *transcript) tail() string {
	text := tr.text()
	if at := crash.FindStringIndex(text); at != nil {
		text = text[at[0]:]
		return text[:min(len(text), 8000)]
	}
	const last = 3000
	if len(text) > last {
		return "…" + text[len(text)-last:]
	}
	return text
}

// until waits until the transcript is as wanted, no more is to come, or
// patience is over.
func (tr *transcript) until(wanted func(text string) bool) {
	limit := time.After(patience)
	for {
		tr.mu.Lock()
		text, changed, closed := tr.buf.String(), tr.changed, tr.closed
		tr.mu.Unlock()
		if wanted(text) || closed {
			return
		}
		select {
		case <-changed:
		case <-limit:
			return
		}
	}
}

// result is what came of a command.
type result struct {
	stdout, stderr string
	status         int
}

// run runs a command to its end.
func run(t testing.TB, env []string, program string, args ...string) result {
	t.Helper()
	if err := noteSources(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env, cmd.Dir = environment(env), t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	limit := time.AfterFunc(patience, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer limit.Stop()
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatalf("%s: %v", program, err)
	}
	r := result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if crash.MatchString(r.stderr) {
		t.Errorf("%s %q crashed or raced: %s", program, args, r.stderr)
	}
	return r
}

// rpcdo runs a command of rpcdo to its end.
func rpcdo(t testing.TB, args ...string) result {
	t.Helper()
	return run(t, nil, programs.rpcdo, args...)
}

// want checks the exit status and that stdout is as wanted.
func (r result) want(t testing.TB, status int, stdout string) {
	t.Helper()
	if r.status != status || r.stdout != stdout {
		t.Errorf("exit status %d, stdout %q, stderr %q: want status %d, stdout %q", r.status, r.stdout, r.stderr, status, stdout)
	}
}

// complains checks that the command failed with the status, printed nothing on
// stdout and one line on stderr that holds all texts.
func (r result) complains(t testing.TB, status int, texts ...string) {
	t.Helper()
	r.want(t, status, "")
	if strings.Count(r.stderr, "\n") != 1 || !strings.HasSuffix(r.stderr, "\n") {
		t.Errorf("want one line on stderr, got %q", r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("stderr %q does not say %q", r.stderr, text)
		}
	}
}
