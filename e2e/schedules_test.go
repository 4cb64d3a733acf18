//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/schedule"
)

// TestSchedules has processes that take ticks, and faults.
func TestSchedules(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "scheduleworker")
	args := []string{"build", "-o", program}
	if raceDetector {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "rpc.do/e2e/internal/scheduleworker")...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Run("processes", func(t *testing.T) {
		t.Parallel()
		testScheduleProcesses(t, program)
	})
	t.Run("bus", func(t *testing.T) {
		t.Parallel()
		testScheduleBusDown(t, program)
	})
	t.Run("armed", func(t *testing.T) {
		t.Parallel()
		testScheduleArmed(t, program)
	})
	if *long {
		t.Run("idle", func(t *testing.T) { testScheduleIdle(t, program) })
	}
}

// clockwork is a bus, schedulers, and what the test has seen of schedules.
type clockwork struct {
	*testing.T
	program string
	bus     *busProcess
	b       *bus.Bus
	all     *schedule.Schedules

	mu   sync.Mutex
	seen map[string]map[schedule.Outcome]bool // skips, by schedule
}

func newClockwork(t *testing.T, program string) *clockwork {
	c := &clockwork{T: t, program: program, bus: startBus(t), seen: map[string]map[schedule.Outcome]bool{}}
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{c.bus.url}, Name: "e2e", DrainTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // the server may be gone
	c.b, c.all = b, schedule.Open(b)
	return c
}

// worker starts a process, and does not wait until it is ready.
func (c *clockwork) worker(id string) *process {
	return start(c.T, id, nil, c.program, "-server", c.bus.url, "-id", id)
}

func (c *clockwork) create(spec schedule.Spec) {
	c.Helper()
	if _, err := c.all.Create(c.Context(), spec, false); err != nil {
		c.Fatal(err)
	}
	c.seen[spec.Name] = map[schedule.Outcome]bool{}
}

// look takes in what the histories say: they forget.
func (c *clockwork) look() {
	for name, seen := range c.seen {
		list, err := c.all.History(c.Context(), name)
		if err != nil {
			continue // the bus is away, or slow
		}
		c.mu.Lock()
		for _, o := range list {
			if o.State == schedule.Skipped {
				o.Nominal, o.At = o.Nominal.UTC(), o.At.UTC()
				seen[o] = true
			}
		}
		c.mu.Unlock()
	}
}

// sent is when each tick of a schedule was sent as an event. None may be there
// twice.
func (c *clockwork) sent(name string) map[time.Time]time.Time {
	c.Helper()
	stream, err := c.b.JetStream().Stream(c.Context(), bus.EventsStream)
	if err != nil {
		c.Fatal(err)
	}
	found := map[time.Time]time.Time{}
	for seq := uint64(1); ; seq++ {
		msg, err := stream.GetMsg(c.Context(), seq, jetstream.WithGetMsgSubject("$.Schedule.fired.beat"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return found
		}
		if err != nil {
			c.Fatal(err)
		}
		seq = msg.Sequence
		of, text, _ := strings.Cut(msg.Header.Get("ce-id"), "@")
		if of != name {
			continue
		}
		nominal, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			c.Fatal(err)
		}
		if _, twice := found[nominal]; twice {
			c.Errorf("%s: the tick of %v is in EVENTS twice", name, nominal)
		}
		if found[nominal], err = time.Parse(time.RFC3339Nano, msg.Header.Get("ce-time")); err != nil {
			c.Fatal(err)
		}
	}
}

// check looks what has become of each tick of a schedule of every second until
// now, and returns the reasons of those that were skipped.
func (c *clockwork) check(name string) (sent map[time.Time]time.Time, skipped map[time.Time]string) {
	c.Helper()
	until(c, name+" is up to date", func() bool {
		info, err := c.all.Get(c.Context(), name)
		return err == nil && info.Next.After(time.Now())
	})
	var info schedule.Info
	until(c, name+" is paused", func() (paused bool) {
		var err error
		info, err = c.all.Pause(c.Context(), name, "the end")
		return err == nil
	})
	until(c, "its runs have ended", func() bool {
		now, err := c.all.Get(c.Context(), name)
		return err == nil && len(now.Running) == 0
	})
	c.look()
	until(c, "all events are in EVENTS", func() bool { return uint64(len(c.sent(name))) >= info.Counts.Fired })
	sent, skipped = c.sent(name), map[time.Time]string{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for o := range c.seen[name] {
		if o.Reason == schedule.ReasonPaused {
			continue // after the end
		}
		for n := range max(o.Count, 1) {
			nominal := o.Nominal.Add(-time.Duration(n) * time.Second)
			if before := skipped[nominal]; before != "" {
				c.Errorf("%s: the tick of %v was skipped twice: %s, %s", name, nominal, before, o.Reason)
			}
			skipped[nominal] = o.Reason
		}
	}
	total := 0
	for nominal := info.Created.Truncate(time.Second).Add(time.Second); nominal.Before(info.Next); nominal = nominal.Add(time.Second) {
		total++
		_, fired := sent[nominal]
		switch {
		case fired && skipped[nominal] != "":
			c.Errorf("%s: the tick of %v has fired, and was skipped: %s", name, nominal, skipped[nominal])
		case !fired && skipped[nominal] == "":
			c.Errorf("%s: the tick of %v has not fired, and nothing says why", name, nominal)
		}
	}
	if len(sent)+len(skipped) != total || info.Counts.Fired != uint64(len(sent)) {
		c.Errorf("%s: %d ticks: %d sent, %d skipped; counters: %+v", name, total, len(sent), len(skipped), info.Counts)
	}
	reasons := map[string]int{}
	for _, reason := range skipped {
		reasons[reason]++
	}
	for reason, n := range reasons {
		if info.Counts.Skipped[reason] != uint64(n) {
			c.Errorf("%s: %d skipped: %s; the counter says %d", name, n, reason, info.Counts.Skipped[reason])
		}
	}
	c.Logf("%s: %d ticks, %d fired, skipped %v", name, total, len(sent), reasons)
	return sent, skipped
}

// Three processes are killed, stopped, continued and started again at random.
func testScheduleProcesses(t *testing.T, program string) {
	rng := rand.New(rand.NewPCG(seed(t), 1))
	c := newClockwork(t, program)
	var all []*process
	begin := func() *process {
		p := c.worker(fmt.Sprintf("scheduler-%d", len(all)+1))
		all = append(all, p)
		return p
	}
	type member struct {
		*process
		stopped bool
	}
	members := make([]*member, 3)
	for i := range members {
		members[i] = &member{process: begin()}
	}
	for _, m := range members {
		m.line(t, "ready")
	}
	for name, catchup := range map[string]string{"latest": schedule.CatchupLatest, "all": schedule.CatchupAll} {
		c.create(schedule.Spec{Name: name, Cron: "@every 1s", Handler: "beat", Overlap: schedule.OverlapAllow, Catchup: catchup, RunTimeout: schedule.Duration(20 * time.Second)})
	}
	duration := time.Duration(rounds(18, 90)) * time.Second
	ended := time.After(duration)
	for over := false; !over; {
		c.look()
		m := members[rng.IntN(len(members))]
		switch what := rng.IntN(3); {
		case m.process == nil:
			m.process = begin()
		case m.stopped:
			m.signal(t, syscall.SIGCONT)
			m.stopped = false
		case what == 0:
			m.kill(t)
			m.process = nil
		default:
			m.signal(t, syscall.SIGSTOP)
			m.stopped = true
		}
		select {
		case <-time.After(time.Duration(100+rng.IntN(1200)) * time.Millisecond):
		case <-ended:
			over = true
		}
	}
	for _, m := range members {
		switch {
		case m.process == nil:
			m.process = begin()
		case m.stopped:
			m.signal(t, syscall.SIGCONT)
		}
	}
	for _, m := range members {
		m.line(t, "ready")
	}
	for name := range c.seen {
		_, skipped := c.check(name)
		for nominal, reason := range skipped {
			if name == "all" {
				t.Errorf("the tick of %v was skipped: %s", nominal, reason)
			}
		}
	}
	runs, again := map[string]int{}, 0
	for _, p := range all {
		for _, line := range p.lines() {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "ran" {
				if runs[f[1]]++; runs[f[1]] > 1 {
					again++
				}
			}
		}
	}
	t.Logf("%d processes; %d runs, of which %d came again because the process that had them was away", len(all), len(runs), again)
	for _, m := range members {
		m.stop(t, syscall.SIGTERM)
	}
}

// The bus is away; the policies say what becomes of ticks meanwhile.
func testScheduleBusDown(t *testing.T, program string) {
	c := newClockwork(t, program)
	workers := []*process{c.worker("scheduler-1"), c.worker("scheduler-2")}
	for _, w := range workers {
		w.line(t, "ready")
	}
	for _, catchup := range []string{schedule.CatchupLatest, schedule.CatchupAll, schedule.CatchupNone} {
		c.create(schedule.Spec{Name: catchup, Cron: "@every 1s", Handler: "beat", Overlap: schedule.OverlapAllow, Catchup: catchup})
	}
	fired := func(name string) uint64 {
		info, err := c.all.Get(t.Context(), name)
		if err != nil {
			return 0
		}
		return info.Counts.Fired
	}
	until(t, "all tick", func() bool { return fired("latest") > 1 && fired("all") > 1 && fired("none") > 1 })
	before := fired("none")
	c.bus.kill(t)
	from := time.Now()
	time.Sleep(time.Duration(rounds(7, 10)) * time.Second) // how long it is away is what is tested
	c.bus.begin(t)
	to := time.Now()
	until(t, "it ticks again", func() bool { return fired("none") > before+1 })
	between := func(nominal time.Time) bool { return nominal.After(from) && nominal.Before(to) }

	sent, skipped := c.check(schedule.CatchupAll)
	if late := len(sent); len(skipped) > 0 {
		t.Errorf("all: %d sent, skipped %v", late, skipped)
	}
	_, skipped = c.check(schedule.CatchupLatest)
	for nominal, reason := range skipped {
		if reason != schedule.ReasonCatchup {
			t.Errorf("latest: the tick of %v was skipped: %s", nominal, reason)
		}
	}
	made := 0
	for nominal := range c.sent(schedule.CatchupLatest) {
		if between(nominal) && nominal.Before(to.Add(-2*time.Second)) {
			made++
		}
	}
	if len(skipped) < 3 || made > 1 {
		t.Errorf("latest: %d skipped, %d of long before made up for", len(skipped), made)
	}
	sent, skipped = c.check(schedule.CatchupNone)
	late := 0
	for nominal, at := range sent {
		if at.Sub(nominal) > 5*time.Second {
			t.Errorf("none: the tick of %v was sent at %v", nominal, at)
		}
	}
	for nominal, reason := range skipped {
		if late++; reason != schedule.ReasonCatchup || !between(nominal) {
			t.Errorf("none: the tick of %v was skipped: %s; the bus was away from %v to %v", nominal, reason, from, to)
		}
	}
	if late == 0 {
		t.Error("none: nothing was skipped")
	}
	for _, w := range workers {
		w.stop(t, syscall.SIGTERM)
	}
}

// testScheduleArmed kills all processes that have armed a tick, and starts others
// after it was due: it fires once.
func testScheduleArmed(t *testing.T, program string) {
	c := newClockwork(t, program)
	var workers []*process
	for i := range 3 {
		w := c.worker(fmt.Sprint("armed-", i))
		w.line(t, "ready")
		workers = append(workers, w)
	}
	c.create(schedule.Spec{Name: "armed", Cron: "@every 4s", Handler: "beat", Overlap: schedule.OverlapAllow})
	until(t, "one tick has fired, and the next is armed", func() bool { return len(c.sent("armed")) == 1 })
	for _, w := range workers {
		w.kill(t)
	}
	info, err := c.all.Get(t.Context(), "armed")
	if err != nil {
		t.Fatal(err)
	}
	due := info.Next
	until(t, "it is due", func() bool { return time.Now().After(due.Add(500 * time.Millisecond)) })
	if n := len(c.sent("armed")); n != 1 {
		t.Fatalf("%d ticks were sent by nobody", n-1)
	}
	for i := range 3 {
		c.worker(fmt.Sprint("late-", i)).line(t, "ready")
	}
	until(t, "it has fired", func() bool { return !c.sent("armed")[due].IsZero() })
	until(t, "the next one has", func() bool { return len(c.sent("armed")) > 2 }) // sent fails for one that is there twice
	t.Logf("due %v, fired %v later", due, c.sent("armed")[due].Sub(due))
}

// testScheduleIdle says what a process costs that has many schedules to look
// after and nothing to do.
func testScheduleIdle(t *testing.T, program string) {
	c := newClockwork(t, program)
	measure := func() (kB int, cpu float64) {
		w := c.worker("scheduler")
		w.line(t, "ready")
		stat := func() int {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.cmd.Process.Pid))
			if err != nil {
				t.Skip("there is no /proc here")
			}
			f := strings.Fields(string(text))
			user, _ := strconv.Atoi(f[13])
			system, _ := strconv.Atoi(f[14])
			return user + system
		}
		time.Sleep(3 * time.Second) // after the start
		ticks := stat()
		const idle = 10 * time.Second
		time.Sleep(idle) // what is measured
		cpu = float64(stat()-ticks) / idle.Seconds()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kB, _ = strconv.Atoi(strings.Fields(value)[0])
			}
		}
		w.stop(t, syscall.SIGTERM)
		return kB, cpu
	}
	none, noneCPU := measure()
	const many = 10_000
	var group sync.WaitGroup
	for part := range 16 {
		group.Go(func() {
			for n := part; n < many; n += 16 {
				if _, err := c.all.Create(t.Context(), schedule.Spec{Name: fmt.Sprintf("s-%d", n), Cron: "0 3 1 1 *", Handler: "beat"}, false); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	some, someCPU := measure()
	t.Logf("resident: %d kB without schedules, %d kB with %d; idle CPU: %.2f %% and %.2f %% of a core", none, some, many, noneCPU, someCPU)
	if some-none > 64<<10 || someCPU > 5 {
		t.Errorf("that is too much")
	}
}
