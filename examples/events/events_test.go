package events_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable/durabletest"
	"rpc.do/examples/events"
	"rpc.do/examples/events/contract"
	"rpc.do/pipeline"
	"rpc.do/server"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// system is the three services, each on a bus of its own, and who looks at them.
type system struct {
	*testing.T
	c      *client.Client
	p      *pipeline.Pipeline
	sender *events.FakeSender
}

func start(t *testing.T) *system {
	t.Helper()
	srv := bustest.Server(t)
	s := &system{T: t, sender: events.NewFakeSender()}
	for _, svc := range []*server.Service{
		events.NewUsers(bustest.Connect(t, srv)),
		events.NewMailer(bustest.Connect(t, srv), s.sender, pipeline.Backoff(10*time.Millisecond)),
		events.NewAudit(bustest.Connect(t, srv)),
	} {
		durabletest.Run(t, svc)
	}
	b := bustest.Connect(t, srv)
	s.c, s.p = client.New(b, client.Config{}), pipeline.New(b, pipeline.Config{})
	t.Cleanup(s.c.Close)
	return s
}

func (s *system) register(email, name string) {
	s.Helper()
	if _, err := contract.Register.Call(s.Context(), s.c, contract.User{Email: email, Name: name}); err != nil {
		s.Fatalf("register %s: %v", email, err)
	}
}

// trail returns the trail once it has n lines.
func (s *system) trail(n int) []contract.Line {
	s.Helper()
	var lines []contract.Line
	s.until(fmt.Sprintf("the trail has %d lines", n), func() bool {
		var err error
		if lines, err = contract.Trail.Call(s.Context(), s.c, rpc.None{}); err != nil {
			s.Fatal(err)
		}
		return len(lines) >= n
	})
	return lines
}

// dead returns the dead letters once there are n.
func (s *system) dead(n int) []pipeline.DeadLetter {
	s.Helper()
	var dead []pipeline.DeadLetter
	s.until(fmt.Sprintf("there are %d dead letters", n), func() bool {
		var err error
		if dead, err = s.p.DeadLetters(s.Context(), pipeline.DeadQuery{Service: "mailer"}); err != nil {
			s.Fatal(err)
		}
		return len(dead) == n
	})
	return dead
}

// until waits for a condition that nothing announces.
func (s *system) until(what string, met func() bool) {
	s.Helper()
	limit := time.After(time.Minute)
	for !met() {
		select {
		case <-limit:
			s.Fatalf("waited in vain until %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestWelcome(t *testing.T) {
	t.Parallel()
	s := start(t)
	people := map[string]string{"ada@example.com": "Ada", "busy@example.com": "Bob", "slow@example.com": "Sue"}
	for email, name := range people {
		s.register(email, name)
	}
	_, err := contract.Register.Call(t.Context(), s.c, contract.User{Email: "ada@example.com", Name: "Ada"})
	if rpc.CodeOf(err) != rpc.AlreadyExists {
		t.Errorf("the second time: %v", err)
	}

	lines := s.trail(2 * len(people))
	if len(lines) != 2*len(people) {
		t.Errorf("%d lines, want %d", len(lines), 2*len(people))
	}
	was := map[string]contract.Line{} // by subject, until the mail is sent
	for i, line := range lines {
		want := contract.Line{
			Sequence: uint64(i + 1), Type: "User.registered", Subject: line.Subject, ID: "User.registered/" + line.Subject,
			Source: "/users", Time: line.Time,
		}
		registered, ok := was[line.Subject]
		if ok {
			want.Type, want.Source = "Email.sent", "/mailer"
			want.ID, want.Because = "Email.sent/"+registered.ID, registered.ID
			delete(was, line.Subject)
		} else {
			was[line.Subject] = line
		}
		if line != want || people[line.Subject] == "" || time.Since(line.Time).Abs() > time.Minute {
			t.Errorf("line %d: %+v, want %+v", i, line, want)
		}
	}
	if len(was) > 0 {
		t.Errorf("without a mail: %v", was)
	}

	// The mail tells what led to it, and the registration what followed.
	for _, id := range []string{"User.registered/busy@example.com", "Email.sent/User.registered/busy@example.com"} {
		trace, err := s.p.Trace(t.Context(), id, pipeline.TraceOptions{})
		if err != nil {
			t.Fatalf("trace %s: %v", id, err)
		}
		if got, want := tree(trace.Root), "User.registered/busy@example.com[Email.sent/User.registered/busy@example.com]"; got != want {
			t.Errorf("trace of %s: %s, want %s", id, got, want)
		}
	}

	// Each was tried as often as it took, and none got two mails.
	var got []string
	for _, m := range s.sender.Sent() {
		got = append(got, m.To+" "+m.Subject)
	}
	slices.Sort(got)
	if want := []string{"ada@example.com Welcome, Ada", "busy@example.com Welcome, Bob", "slow@example.com Welcome, Sue"}; !slices.Equal(got, want) {
		t.Errorf("mails %q, want %q", got, want)
	}
	s.dead(0)
}

// tree writes an event and, in brackets, those that it led to.
func tree(n *pipeline.Node) string {
	text := n.ID
	for _, child := range n.Children {
		text += "[" + tree(child) + "]"
	}
	return text
}

// An address that nobody has makes its event a dead letter; with another address
// it is handled.
func TestWrongAddress(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("grace@exmaple.com", "Grace")
	s.register("ada@example.com", "Ada") // is not held up
	s.trail(3)

	dead := s.dead(1)[0]
	if dead.Handler != "send-welcome" || dead.Version != "1.0.0" || dead.Reason != "code" || dead.Attempts != 1 ||
		dead.Code != "invalid_argument" || dead.Error != "no mailbox grace@exmaple.com" ||
		dead.Event.ID != "User.registered/grace@exmaple.com" || string(dead.Event.Data) != `{"email":"grace@exmaple.com","name":"Grace"}` {
		t.Errorf("dead letter %+v with %s", dead, dead.Event.Data)
	}
	data, err := json.Marshal(contract.User{Email: "grace@example.com", Name: "Grace"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.p.RetryDead(t.Context(), dead.ID, data); err != nil {
		t.Fatal(err)
	}
	lines := s.trail(4)
	last := lines[len(lines)-1]
	if last.Type != "Email.sent" || last.Subject != "grace@example.com" || last.Because != dead.Event.ID {
		t.Errorf("%+v", last)
	}
	s.dead(0)
	if all := s.sender.Sent(); !strings.HasPrefix(all[len(all)-1].To, "grace@example.com") {
		t.Errorf("mails %v", all)
	}
}
