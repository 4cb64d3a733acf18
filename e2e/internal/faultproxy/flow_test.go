package faultproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// through sends bytes through one direction of a connection of a proxy with
// these rules.
func through(t testing.TB, from Side, in io.Reader, rules ...Rule) (out string, p *Proxy, err error) {
	t.Helper()
	p = &Proxy{}
	p.mode.Store(&mode{changed: make(chan struct{})})
	p.rules.Store(&[]*Active{})
	for _, r := range rules {
		if _, err := p.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	err = newFlow(newConn(p, 1, nil), from, in, &b).run()
	return b.String(), p, err
}

// message is one as a client sends it.
func message(subject, payload string) string {
	return fmt.Sprintf("PUB %s %d\r\n%s\r\n", subject, len(payload), payload)
}

func TestFlowPassesBytes(t *testing.T) {
	t.Parallel()
	long := "CONNECT {" + strings.Repeat("x", 3*maxLine) + "}\r\n"
	for _, text := range []string{
		"",
		"PING\r\n",
		"PING\n\r\n\n",
		message("a", "hello"),
		message("a", "PUB b 3\r\nabc\r\n") + "PING\r\n" + message("b", ""),
		message("a", strings.Repeat("x", 200_000)) + message("b", "y"),
		"HPUB a 12 17\r\nNATS/1.0\r\n\r\nhello\r\n" + message("b", "y"),
		long + message("a", "x") + long,
		"PUB a 5\r\nhel",         // cut short
		"PUB a 5\r\nhello\r",     // cut short
		"PUB a 5",                // cut short
		"PUB a 5\r\nhello!!PING", // not what it says
		"PUB a 5\r\nhelloXYPUB b 3\r\nabc\r\n",
		"PUB a x\r\n" + message("b", strings.Repeat("y", 200_000)),
		"PUB " + strings.Repeat("x", 2*maxLine) + " 3\r\nabc\r\n",
		"CONNECT " + strings.Repeat("x", 2*maxLine),
		"\x16\x03\x01\x02\x00\x01\n\x00\xff\n",
	} {
		for what, in := range map[string]io.Reader{
			"at once":      strings.NewReader(text),
			"byte by byte": iotest.OneByteReader(strings.NewReader(text)),
			"by halves":    iotest.HalfReader(strings.NewReader(text)),
			"with EOF":     iotest.DataErrReader(strings.NewReader(text)),
		} {
			if out, _, err := through(t, Client, in); out != text || err != io.EOF {
				t.Errorf("%s: %.60q became %.60q, of %d bytes %d; %v", what, text, out, len(text), len(out), err)
			}
		}
	}
}

func TestFlowFollowsRules(t *testing.T) {
	t.Parallel()
	text := "CONNECT {}\r\n" + message("a.1", "one") + "PING\r\n" + message("b", "PUB a.2 3\r\nabc\r\n") + message("a.3", "") +
		"PUB c _INBOX.1 1\r\nx\r\n"
	for _, test := range []struct {
		rules []Rule
		want  string
		count Count
	}{
		{nil, text, Count{Messages: 4}},
		{[]Rule{{From: Client, Action: Drop}}, "CONNECT {}\r\nPING\r\n", Count{Messages: 4, Dropped: 4}},
		{[]Rule{{From: Client, Subject: "a.", Action: Drop}},
			"CONNECT {}\r\nPING\r\n" + message("b", "PUB a.2 3\r\nabc\r\n") + "PUB c _INBOX.1 1\r\nx\r\n", Count{Messages: 4, Dropped: 2}},
		{[]Rule{{From: Client, Subject: "a.", Action: Drop, Skip: 1}},
			strings.Replace(text, message("a.3", ""), "", 1), Count{Messages: 4, Dropped: 1}},
		{[]Rule{{From: Client, Subject: "a.", Action: Drop, Times: 1}},
			strings.Replace(text, message("a.1", "one"), "", 1), Count{Messages: 4, Dropped: 1}},
		{[]Rule{{From: Client, Reply: "_INBOX.", Action: Drop}},
			strings.TrimSuffix(text, "PUB c _INBOX.1 1\r\nx\r\n"), Count{Messages: 4, Dropped: 1}},
		{[]Rule{{From: Server, Action: Drop}, {From: Client, Subject: "a.2", Action: Drop}, {From: Client, Subject: "A", Action: Drop}},
			text, Count{Messages: 4}},
		{[]Rule{{From: Client, Subject: "b", Action: Delay, UpTo: time.Millisecond}, {From: Client, Subject: "b", Action: Drop}},
			text, Count{Messages: 4, Delayed: 1}},
	} {
		for _, in := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text))} {
			out, p, err := through(t, Client, in, test.rules...)
			if out != test.want || err != io.EOF {
				t.Errorf("%+v: %q, want %q; %v", test.rules, out, test.want, err)
			}
			if got := p.Stats().FromClients; got != test.count {
				t.Errorf("%+v: counted %+v, want %+v", test.rules, got, test.count)
			}
		}
	}
}

// What can't be read passes as it is from there on, and is counted.
func TestFlowGivesUpReading(t *testing.T) {
	t.Parallel()
	drop := Rule{From: Client, Action: Drop}
	for text, want := range map[string]string{
		message("a", "x") + "PUB a x\r\n" + message("a", "x"):   "PUB a x\r\n" + message("a", "x"),
		"PUB a 1\r\nxyzPUB a 1\r\nx\r\n":                        "yzPUB a 1\r\nx\r\n",
		"PUB " + strings.Repeat("x", 2*maxLine) + " 1\r\nx\r\n": "PUB " + strings.Repeat("x", 2*maxLine) + " 1\r\nx\r\n",
	} {
		out, p, err := through(t, Client, strings.NewReader(text), drop)
		if out != want || err != io.EOF || p.Stats().FromClients.Unread != 1 {
			t.Errorf("%.60q: %.60q, %v, %+v", text, out, err, p.Stats())
		}
	}
}

// What is complete is sent on before the flow waits for more.
func TestFlowDoesNotHoldBack(t *testing.T) {
	t.Parallel()
	p := &Proxy{}
	p.mode.Store(&mode{changed: make(chan struct{})})
	p.rules.Store(&[]*Active{})
	in, feed := io.Pipe()
	out, sink := io.Pipe()
	done := make(chan error)
	go func() { done <- newFlow(newConn(p, 1, nil), Client, in, sink).run() }()
	for _, part := range []string{message("a", "x"), "PING\r\n", "PUB a 10\r\n", "hello", "hello", "\r", "\n"} {
		if _, err := io.WriteString(feed, part); err != nil {
			t.Fatal(err)
		}
		if part == "\r" {
			continue // that much is waited for
		}
		if part == "\n" {
			part = "\r\n"
		}
		got := make([]byte, len(part))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != part {
			t.Errorf("%q, want %q, %v", got, part, err)
		}
	}
	failure := errors.New("gone")
	feed.CloseWithError(failure)
	if err := <-done; !errors.Is(err, failure) {
		t.Errorf("%v", err)
	}
}

// Bytes pass unchanged; without messages, no message is left that the proxy
// would see; and how they arrive makes no difference.
func FuzzFlow(f *testing.F) {
	f.Add([]byte("CONNECT {}\r\n"+message("a", "x")+"PING\r\n"+message("b", "yy")), true)
	f.Add([]byte("HPUB a r 12 17\r\nNATS/1.0\r\n\r\nhello\r\nPUB a x\r\n"), true)
	f.Add([]byte("INFO {}\r\nMSG a 9 1\r\nx\r\nHMSG a 9 r 12 12\r\nNATS/1.0\r\n\r\n\r\nMSG a 9 70000\r\nx"), false)
	f.Fuzz(func(t *testing.T, data []byte, client bool) {
		from := Server
		if client {
			from = Client
		}
		text := string(data)
		if out, _, err := through(t, from, strings.NewReader(text)); out != text || err != io.EOF {
			t.Fatalf("%q became %q, %v", text, out, err)
		}
		drop := Rule{From: from, Action: Drop}
		out, p, err := through(t, from, strings.NewReader(text), drop)
		one, q, errOne := through(t, from, iotest.OneByteReader(strings.NewReader(text)), drop)
		if out != one || err != io.EOF || errOne != io.EOF || p.Stats() != q.Stats() {
			t.Fatalf("%q became %q at once and %q byte by byte; %v, %v; %+v, %+v", text, out, one, err, errOne, p.Stats(), q.Stats())
		}
		count := p.stats.side[from].messages.Load()
		if dropped := p.stats.side[from].dropped.Load(); dropped != count || count == 0 && out != text {
			t.Fatalf("%q became %q: %d of %d messages dropped", text, out, dropped, count)
		}
		if p.stats.side[from].unread.Load() > 0 {
			return
		}
		if _, p, _ := through(t, from, strings.NewReader(out)); p.stats.side[from].messages.Load() > 0 {
			t.Fatalf("%q became %q, which has messages", text, out)
		}
	})
}
