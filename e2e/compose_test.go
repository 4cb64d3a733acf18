//go:build unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client"
)

// container is a service of docker-compose.yml as a plain process.
type container struct {
	*process
	name   string
	def    *yaml
	args   []string
	env    []string
	ports  map[string]int // the container's to this machine's
	health []string
}

// stack is all of docker-compose.yml.
type stack struct {
	containers map[string]*container
	token      string
}

var listenFlags = []string{"--port", "--cluster-port"}

// newStack maps every service to this machine: host names to 127.0.0.1, ports
// to free ones, volumes to temporary directories.
func newStack(t *testing.T) *stack {
	t.Helper()
	file := readCompose(t)
	s := &stack{containers: map[string]*container{}, token: "aTokenForTests"}
	if err := file.interpolate(map[string]string{"RPCDO_TOKEN": s.token, "RPCDO_CLUSTER_PASSWORD": "aPasswordForTests"}); err != nil {
		t.Fatal(err)
	}
	var hosts []string // pairs for a replacer
	for name, def := range file.field("services").fields {
		c := &container{name: name, def: def, ports: map[string]int{}}
		for i, arg := range def.field("command").list {
			if slices.Contains(listenFlags, arg) {
				port := def.field("command").list[i+1]
				c.ports[port] = freePort(t)
				hosts = append(hosts, name+":"+port, fmt.Sprintf("127.0.0.1:%d", c.ports[port]))
			}
		}
		s.containers[name] = c
	}
	for _, c := range s.containers {
		c.localize(t, hosts)
	}
	return s
}

func (c *container) localize(t *testing.T, hosts []string) {
	t.Helper()
	mine := slices.Clone(hosts)
	for port, local := range c.ports {
		mine = append(mine, "127.0.0.1:"+port, fmt.Sprintf("127.0.0.1:%d", local))
	}
	replace := strings.NewReplacer(mine...)
	exactly := map[string]string{"0.0.0.0": "127.0.0.1"}
	if volumes := c.def.field("volumes"); volumes != nil {
		for _, v := range volumes.list {
			_, inside, _ := strings.Cut(v, ":")
			exactly[inside] = t.TempDir()
		}
	}
	for i, arg := range c.def.field("command").list {
		arg = replace.Replace(arg)
		if to, ok := exactly[arg]; ok {
			arg = to
		}
		if i > 0 && slices.Contains(listenFlags, c.args[i-1]) {
			arg = fmt.Sprint(c.ports[arg])
		}
		c.args = append(c.args, arg)
	}
	for name, value := range c.def.field("environment").fields {
		c.env = append(c.env, name+"="+replace.Replace(value.text))
	}
	test := c.def.field("healthcheck", "test").list
	if len(test) < 3 || test[0] != "CMD" || test[1] != "/rpcdo" {
		t.Fatalf("%s: health check %q: want a command of /rpcdo", c.name, test)
	}
	c.health = test[2:]
}

func (c *container) begin(t *testing.T) {
	t.Helper()
	c.process = start(t, c.name, c.env, programs.rpcdo, c.args...)
}

// names returns those that begin with prefix, in order.
func (s *stack) names(prefix string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.containers)), func(n string) bool { return !strings.HasPrefix(n, prefix) })
}

// url is where clients on this machine reach a bus.
func (s *stack) url(bus string) string {
	return fmt.Sprintf("nats://%s@127.0.0.1:%d", s.token, s.containers[bus].ports["4222"])
}

func (s *stack) healthy(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		c := s.containers[name]
		if r := run(t, c.env, programs.rpcdo, c.health...); r.status != 0 {
			t.Errorf("%s: the health check %q fails: %+v", name, c.health, r)
		}
	}
}

// TestComposeFile checks what can be seen without running anything.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	file := readCompose(t)
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`ENTRYPOINT ["/rpcdo"]`, "USER 65532:65532", "CGO_ENABLED=0", "./cmd/rpcdo", "--chown=65532:65532 /out/data /data"} {
		if !strings.Contains(string(dockerfile), line) {
			t.Errorf("the Dockerfile has no %q", line)
		}
	}
	for _, unset := range []string{"RPCDO_TOKEN", "RPCDO_CLUSTER_PASSWORD"} {
		vars := map[string]string{"RPCDO_TOKEN": "x", "RPCDO_CLUSTER_PASSWORD": "x"}
		delete(vars, unset)
		if err := readCompose(t).interpolate(vars); err == nil || !strings.Contains(err.Error(), unset) {
			t.Errorf("without %s: error %v, want one that says so", unset, err)
		}
	}
	for name, def := range file.field("services").fields {
		if !regexp.MustCompile(`^(bus-[123]|node-[12])$`).MatchString(name) {
			t.Errorf("service %s is not expected", name)
		}
		if ports := def.field("ports"); ports != nil {
			for _, p := range ports.list {
				if !regexp.MustCompile(`^127\.0\.0\.1:\d+:4222$`).MatchString(p) {
					t.Errorf("%s publishes %s: want the clients' port, on 127.0.0.1 alone", name, p)
				}
			}
		}
		if volumes := def.field("volumes"); volumes != nil {
			for _, v := range volumes.list {
				if volume, _, _ := strings.Cut(v, ":"); file.field("volumes", volume) == nil {
					t.Errorf("%s: volume %s is not declared", name, volume)
				}
			}
		}
		// The commands as they are are refused without their secrets.
		if strings.HasPrefix(name, "bus-") {
			rpcdo(t, def.field("command").list...).complains(t, 2, "--host 0.0.0.0", "--auth-token")
			run(t, []string{"RPCDO_AUTH_TOKEN=x"}, programs.rpcdo, def.field("command").list...).complains(t, 2, "--cluster-password")
		}
	}
}

// TestCompose runs every service of docker-compose.yml, in the order that is
// worst: the nodes before the buses that they need.
func TestCompose(t *testing.T) {
	s := newStack(t)
	buses, nodes := s.names("bus-"), s.names("node-")
	begin := time.Now()
	for _, name := range slices.Concat(nodes, buses) {
		s.containers[name].begin(t)
	}
	for _, name := range slices.Concat(buses, nodes) {
		s.containers[name].line(t, "ready ")
	}
	t.Logf("%d buses and %d nodes are ready after %v", len(buses), len(nodes), time.Since(begin).Round(time.Millisecond))
	s.healthy(t, buses...)
	s.healthy(t, nodes...)
	s.calls(t, buses...)
	s.refusesStrangers(t, buses)

	js := s.makeStream(t, buses)
	s.restartNodes(t, buses, nodes)
	s.loseBus(t, js, buses)

	for _, name := range slices.Concat(nodes, buses) {
		s.containers[name].stop(t, syscall.SIGTERM)
	}
}

// calls makes a call from the command line through each of the buses.
func (s *stack) calls(t *testing.T, buses ...string) {
	t.Helper()
	for _, name := range buses {
		rpcdo(t, "call", "math.add", `{"a":1,"b":2}`, "--server", s.url(name)).want(t, 0, "{\"sum\":3}\n")
	}
}

func (s *stack) refusesStrangers(t *testing.T, buses []string) {
	t.Helper()
	for _, name := range buses {
		for _, user := range []string{"", "wrong@"} {
			url := strings.Replace(s.url(name), s.token+"@", user, 1)
			if nc, err := nats.Connect(url); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("%s: connecting with the credentials %q: %v, want %v", name, user, err, nats.ErrAuthorization)
				if nc != nil {
					nc.Close()
				}
			}
			r := rpcdo(t, "call", "math.add", "{}", "--server", url)
			r.complains(t, 1, "credentials")
		}
	}
}

// makeStream makes a stream with three replicas and fills it through every bus.
func (s *stack) makeStream(t *testing.T, buses []string) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(plainClient(t, s.urls(buses)))
	if err != nil {
		t.Fatal(err)
	}
	// The members have met when a majority has; three replicas need all.
	until(t, "a stream with three replicas can be made", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "E2E", Subjects: []string{"e2e.>"}, Replicas: 3})
		return err == nil
	})
	for i, name := range buses {
		through, err := jetstream.New(plainClient(t, s.url(name)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := through.Publish(t.Context(), fmt.Sprintf("e2e.%d", i), []byte("stored")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.replicated(t, js, 3)
	return js
}

func (s *stack) urls(buses []string) string {
	var urls []string
	for _, name := range buses {
		urls = append(urls, s.url(name))
	}
	return strings.Join(urls, ",")
}

// replicated waits until the stream has so many messages on three nodes.
func (s *stack) replicated(t *testing.T, js jetstream.JetStream, msgs uint64) {
	t.Helper()
	until(t, fmt.Sprintf("three nodes have all %d messages", msgs), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		stream, err := js.Stream(ctx, "E2E")
		if err != nil {
			return false
		}
		info, err := stream.Info(ctx)
		if err != nil || info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != 2 {
			return false
		}
		for _, r := range info.Cluster.Replicas {
			if r.Offline || !r.Current {
				return false
			}
		}
		return info.State.Msgs == msgs
	})
}

type numberPair struct {
	A float64 `json:"a"`
	B float64 `json:"b"`
}

// add is math.add as a caller sees it that may not send a call twice.
var add = rpc.NewMethod[numberPair, struct{ Sum float64 }]("math.add")

// additions is a load of callers that are spread over the buses: some 3,000
// calls a second.
func (s *stack) additions(t *testing.T, buses []string, timeout time.Duration) *load {
	t.Helper()
	var clients []*client.Client
	for _, name := range buses {
		clients = append(clients, newClient(t, s.url(name), client.Config{}))
	}
	pace := time.NewTicker(300 * time.Microsecond)
	t.Cleanup(pace.Stop)
	return startLoad(t, "add", 3*len(buses), timeout, func(ctx context.Context, caller int, n int64) (string, error) {
		<-pace.C
		i := caller % len(clients)
		got, err := add.Call(ctx, clients[i], numberPair{float64(n), 1}, rpc.WithTimeout(timeout))
		if err == nil && got.Sum != float64(n)+1 {
			err = rpc.DataLoss.Errorf("%d+1 = %v", n, got.Sum)
		}
		return buses[i], err
	})
}

// restartNodes restarts the nodes one after the other, under load.
func (s *stack) restartNodes(t *testing.T, buses, nodes []string) {
	t.Helper()
	begin := time.Now()
	l := s.additions(t, buses, 2*time.Second)
	for range rounds(3, 30) {
		for _, name := range nodes {
			l.more(300)
			s.containers[name].stop(t, syscall.SIGTERM)
			s.containers[name].begin(t)
			s.containers[name].line(t, "ready ")
		}
	}
	l.more(100)
	records := l.end()
	t.Logf("rolling restart of the nodes, %d times: %s", rounds(3, 30), summary(records))
	if failed := failures(records); len(failed) > 0 {
		t.Errorf("calls failed in a rolling restart:%s", describe(failed, begin))
	}
}

// loseBus kills the bus that a node is connected to, and has it come back.
func (s *stack) loseBus(t *testing.T, js jetstream.JetStream, buses []string) {
	t.Helper()
	at := s.containers["node-1"].line(t, "ready ")
	lost := slices.IndexFunc(buses, func(name string) bool {
		return strings.Contains(at, fmt.Sprintf(":%d", s.containers[name].ports["4222"]))
	})
	if lost < 0 {
		t.Fatalf("node-1 says %q: on which bus is it?", at)
	}
	name := buses[lost]
	rest := slices.Delete(slices.Clone(buses), lost, lost+1)
	l := s.additions(t, rest, 2*time.Second)
	l.more(100)
	killed := s.containers[name].kill(t)
	s.calls(t, rest...)
	until(t, "the stream takes messages again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "e2e.lost", []byte("stored"), jetstream.WithMsgID("lost"))
		return err == nil
	})
	t.Logf("the stream took a message %v after %s was lost", time.Since(killed).Round(time.Millisecond), name)
	l.more(1000)
	s.containers[name].begin(t)
	s.containers[name].line(t, "ready ")
	s.healthy(t, name)
	s.calls(t, buses...)
	s.replicated(t, js, 4)
	records := l.end()
	t.Logf("a bus is lost: %s", summary(records))
	// Requests and answers that were on their way through that bus are lost.
	for _, r := range failures(records) {
		code := rpc.CodeOf(r.err)
		if code != rpc.Unavailable && code != rpc.DeadlineExceeded || r.start.After(killed.Add(slack)) {
			t.Errorf("a call failed:%s", describe([]record{r}, killed))
		}
	}
}

// TestLearntServers gives a service the address of one member of a cluster. It
// learns the others, and goes on with one of them when its own is lost.
func TestLearntServers(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	buses := s.names("bus-")
	for _, name := range buses {
		s.containers[name].begin(t)
	}
	for _, name := range buses {
		s.containers[name].line(t, "ready ")
	}
	node := start(t, "node", nil, programs.rpcdo, "serve", "--server", s.url("bus-1"))
	node.line(t, "ready ")
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{s.url("bus-1")}, Name: "e2e"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	until(t, "the client has learnt the other members", func() bool { return len(b.Conn().DiscoveredServers()) == 2 })
	s.containers["bus-1"].kill(t)
	c := client.New(b, client.Config{})
	begin := time.Now()
	until(t, "a call succeeds", func() bool {
		_, err := add.Call(t.Context(), c, numberPair{1, 2}, rpc.WithTimeout(time.Second))
		return err == nil
	})
	t.Logf("a call succeeded %v after the only bus that was named was lost", time.Since(begin).Round(time.Millisecond))
}
