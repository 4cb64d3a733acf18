package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// eventsBus is a bus on which events are sent and handled.
type eventsBus struct {
	*testing.T
	env Env
	b   *bus.Bus
	p   *pipeline.Pipeline
}

func newEventsBus(t *testing.T) *eventsBus {
	t.Helper()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	return &eventsBus{T: t, env: with("NATS_URL", srv.URL()), b: b, p: pipeline.New(b, pipeline.Config{})}
}

// run runs a command of events.
func (l *eventsBus) run(args ...string) outcome {
	l.Helper()
	return rpcdo(l.T, l.env, append([]string{"events"}, args...)...)
}

// send sends events of a type with the data {"n":1}, {"n":2} and so on.
func (l *eventsBus) send(event string, n int) {
	l.Helper()
	for i := range n {
		if _, err := l.p.Send(l.Context(), event, map[string]int{"n": i + 1}); err != nil {
			l.Fatal(err)
		}
	}
}

// serve runs a service with a handler of all events of a type, until stop or the
// end of the test.
func (l *eventsBus) serve(service, handler, event string, fn func(context.Context, pipeline.RawEvent) error, opts ...pipeline.HandlerOption) (stop func()) {
	l.Helper()
	b, err := bus.Connect(l.Context(), bus.Config{URLs: []string{l.env.Getenv("NATS_URL")}})
	if err != nil {
		l.Fatal(err)
	}
	svc := server.New(b, service, server.Config{Version: "1.2.3", DrainTimeout: patience})
	pipeline.OnPattern(svc, event, handler, fn, opts...)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	select {
	case <-svc.Ready():
	case err := <-ended:
		cancel()
		l.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			l.Error(err)
		}
		if err := b.Close(); err != nil {
			l.Error(err)
		}
	})
	l.Cleanup(stop)
	return stop
}

// until waits for what nothing announces.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	for limit := time.After(patience); !met(); {
		select {
		case <-limit:
			t.Fatalf("waited %v in vain until %s", patience, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestEventsSend(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.run("send", "User.registered", `{"name":"Ada"}`, "--id", "ada-1").want(t, exitDone, texts("stored $.User.registered, sequence 1, id ada-1\n"), nil)
	l.run("send", "User.registered", `{"name":"Ada"}`, "--id", "ada-1").want(t, exitDone, texts("already stored $.User.registered, sequence 1, id ada-1\n"), nil)
	l.run("send", "User.registered", "--dedupe", "k", "--json").want(t, exitDone, texts(`{"id":"User.registered/k","subject":"$.User.registered","sequence":2}`+"\n"), nil)
	l.run("send", "User.registered", "--dedupe", "k", "--json").want(t, exitDone, texts(`"duplicate":true`), nil)
	l.env.In = strings.NewReader(` {"name":"Zoë"} `)
	l.run("send", "User.changed.name", "-", "--subject", "zoë", "--correlation", "ada-1", "--expect", "0", "-H", "tenant=acme").want(t, exitDone, texts("sequence 3, id "), nil)
	page, err := l.p.History(t.Context(), pipeline.Query{})
	if err != nil || len(page.Events) != 3 {
		t.Fatalf("%+v, %v", page, err)
	}
	e := page.Events[2]
	if e.Type != "User.changed.name" || e.Subject != "zoë" || e.CorrelationID != "ada-1" || e.Header.Get("tenant") != "acme" || e.Source != "/rpcdo" ||
		strings.TrimSpace(string(e.Data)) != `{"name":"Zoë"}` {
		t.Errorf("got %+v", e)
	}
	if data := string(page.Events[1].Data); data != "null" {
		t.Errorf("without data it has %q", data)
	}
	o := l.run("send", "User.changed.name", "{}", "--expect", "1")
	o.want(t, exitFailed, nil, texts("rpcdo: aborted: send User.changed.name: not stored", "sequence 3, expected was 1"))
	o.wantLine(t)
	wantProblem(t, l.env, exitFailed, "aborted", "expected was 7", "events", "send", "User.changed.name", "{}", "--expect", "7")
	wantProblem(t, l.env, exitFailed, "already_exists", "ada-1", "events", "send", "User.left", "{}", "--id", "ada-1")
	wantProblem(t, l.env, exitUsage, "invalid_argument", "names that begin with ce-", "events", "send", "User.left", "{}", "-H", "ce-id=x")
	wantProblem(t, l.env, exitUsage, "invalid_argument", "printable text", "events", "send", "User.left", "{}", "--id", " x")
	wantProblem(t, l.env, exitFailed, "resource_exhausted", "max_payload", "events", "send", "User.left", `"`+strings.Repeat("x", 1<<20)+`"`)
}

// What waits for its time is sent then, or is taken back.
func TestEventsLater(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	at := texts("send", "Trial.ends", `{"user":"ada"}`, "--at", "2096-12-24T18:00:00Z", "--id", "trial ada")
	l.run(at...).want(t, exitDone, texts("stored $.Trial.ends, sent at 2096-12-24 ", ", id trial ada\n"), nil)
	l.run(at...).want(t, exitDone, texts("already stored $.Trial.ends, sent at "), nil)
	wantProblem(t, l.env, exitFailed, "already_exists", "of another type", "events", "send", "Trial.begins", "--after", "90d", "--id", "trial ada")
	l.run("cancel", "trial ada").want(t, exitDone, texts("cancelled trial ada\n"), nil)
	l.run("cancel", "trial ada", "--json").want(t, exitDone, texts(`{"id":"trial ada","cancelled":true}`+"\n"), nil)
	wantProblem(t, l.env, exitFailed, "not_found", `no event with the id "nope" waits`, "events", "cancel", "nope")
	wantProblem(t, l.env, exitUsage, "invalid_argument", "want a time before 2100", "events", "send", "Trial.ends", "--at", "2100-01-02")
	wantProblem(t, l.env, exitUsage, "invalid_argument", "is none of an event", "events", "cancel", "\x1b")

	sent := fromJSON[pipeline.Receipt](t, l.run("send", "Trial.ends", "7", "--after", "50ms", "--json").out)
	if sent.ID == "" || sent.Sequence != 0 || time.Until(sent.At) > time.Second {
		t.Errorf("got %+v", sent)
	}
	until(t, "it is sent", func() bool {
		page, err := l.p.History(t.Context(), pipeline.Query{})
		return err == nil && len(page.Events) == 1 && page.Events[0].ID == sent.ID && string(page.Events[0].Data) == "7"
	})
	o := l.run("cancel", sent.ID)
	o.want(t, exitFailed, nil, texts("the event "+sent.ID+" was sent before: nothing was cancelled"))
	o.wantLine(t)
	wantProblem(t, l.env, exitFailed, "failed_precondition", "was sent before", "events", "cancel", sent.ID)
}

func TestEventsSendLines(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	in := func(text string) { l.env.In = strings.NewReader(text) }
	in("{\"n\":1}\n\n  {\"n\":2}\r\n{\"n\":\n\"\xff\"\n{\"n\":3}")
	l.run("send", "Load.made", "--lines", "-H", "tenant=acme", "--subject", "x").want(t, exitFailed, texts("stored 3 events, sequences 1 to 3\n"), texts(
		"rpcdo: line 4: malformed JSON at column 6: it ends too early: want a value\n", "rpcdo: line 5: not valid UTF-8 at column 2\n",
		"rpcdo: 2 of 5 lines were not sent\n"))
	in("{\"n\":4}\n{\n{\"n\":5}\n")
	o := l.run("send", "Load.made", "-", "--lines", "--json")
	lines := strings.Split(strings.TrimSpace(o.out), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %q", o.out)
	}
	if first := fromJSON[sentLine](t, lines[0]); first.Line != 1 || first.Sequence != 4 || first.ID == "" {
		t.Errorf("got %+v", first)
	}
	if bad := fromJSON[failedLine](t, lines[1]); bad.Line != 2 || bad.Error.Code != "invalid_argument" || !strings.Contains(bad.Error.Message, "at column 2") {
		t.Errorf("got %+v", bad)
	}
	if p := fromJSON[problem](t, o.err); o.status != exitFailed || p.Code != "invalid_argument" || p.Message != "1 of 3 lines were not sent" {
		t.Errorf("status %d, %+v", o.status, p)
	}
	in("\n\n")
	l.run("send", "Load.made", "--lines").want(t, exitDone, nil, texts("there is nothing on stdin: nothing was sent"))
	in("\"" + strings.Repeat("x", 1<<20) + "\"\n{\"n\":6}")
	l.run("send", "Load.made", "--lines").want(t, exitFailed, texts("stored 1 event, sequences 6 to 6\n"), texts("line 1: ", "max_payload", "1 of 2 lines were not sent"))
	var many strings.Builder
	for i := range 3 * maxLines {
		fmt.Fprintf(&many, "{\"n\":%d,\"pad\":%q}\n", i, strings.Repeat("x", 2000)) // more than is sent at once
	}
	in(many.String())
	l.env.ErrTerminal = true
	l.run("send", "Load.more", "--lines").want(t, exitDone, texts("stored 3000 events, sequences 7 to 3006\n"), texts("\r\x1b[Ksent ", "\x1b[K"))
	l.env.ErrTerminal = false
	i := 0
	for line := range strings.Lines(l.run("tail", "Load.more", "--from", "all", "--limit", strconv.Itoa(3*maxLines)).out) {
		if !strings.Contains(line, fmt.Sprintf(`  {"n":%d,`, i)) {
			t.Fatalf("event %d is %.200s", i, line)
		}
		i++
	}
	if i != 3*maxLines {
		t.Errorf("%d events were stored, want %d", i, 3*maxLines)
	}
}

// Lines are sent as they come, and Ctrl-C ends the wait for more.
func TestEventsSendLinesAsTheyCome(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	in, write := io.Pipe()
	defer write.Close()
	l.env.In = in
	p := start(t, l.env, "events", "send", "Load.made", "--lines", "--json")
	for i := range 3 {
		if _, err := fmt.Fprintf(write, "{\"n\":%d}\n", i); err != nil {
			t.Fatal(err)
		}
		p.waitFor(t, fmt.Sprintf(`"sequence":%d`, i+1))
	}
	if status := p.stop(t); status != exitFailed || !strings.Contains(p.err.String(), "interrupted while reading stdin") {
		t.Errorf("status %d, stderr %q", status, &p.err)
	}
}

func TestEventsTail(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.send("Order.placed", 3)
	l.env.ErrTerminal = true
	p := start(t, l.env, "events", "tail")
	<-p.err.contains("Ctrl-C ends it")
	until(t, "the tail shows new events", func() bool { // it may begin a little later
		l.send("Order.placed", 1)
		return strings.Contains(p.out.String(), "Order.placed")
	})
	if status := p.stop(t); status != exitDone || strings.Contains(p.out.String(), "  3  Order.placed") {
		t.Errorf("status %d, stdout %q", status, &p.out)
	}
	l.env.ErrTerminal = false
	l.run("send", "User.left", "{}", "--id", "bye", "--subject", "ada").want(t, exitDone, texts("stored"), nil)
	o := l.run("tail", "--from", "all", "--limit", "1", "User.*")
	o.want(t, exitDone, texts("  User.left  bye  ada  {}\n"), nil)
	for _, from := range []string{"2", "1h", "2020-01-01"} {
		want := "  2  Order.placed  "
		if from != "2" {
			want = "  1  Order.placed  "
		}
		l.run("tail", "--from", from, "--limit", "1").want(t, exitDone, texts(want, "  -  {\"n\":"), nil)
	}
	lines := strings.Split(strings.TrimSpace(l.run("tail", "--from", "all", "--limit", "2", "--json").out), "\n")
	if e := fromJSON[pipeline.RawEvent](t, lines[1]); len(lines) != 2 || e.Sequence != 2 || e.Type != "Order.placed" || string(e.Data) != `{"n":2}` {
		t.Errorf("got %q", lines)
	}
	wantProblem(t, l.env, exitFailed, "out_of_range", "the stream ends with", "events", "tail", "--from", "100000")
}

func TestEventsTailTellsOfGaps(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.send("Order.placed", 5)
	l.run("retention", "--max-events", "2", "--yes").want(t, exitDone, texts("events  2\n"), nil)
	l.run("tail", "--from", "1", "--limit", "1").want(t, exitDone, texts("  4  Order.placed"), texts("rpcdo: the events 1 to 3 were removed"))
	l.run("tail", "--from", "1", "--limit", "1", "--json").want(t, exitDone, texts(`{"missing":{"first":1,"last":3}}`+"\n{", `"sequence":4`), nil)
}

// What others sent is shown as far as it can be read, and does nothing to the
// terminal.
func TestEventsThatOthersSent(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.send("Order.placed", 1)
	for _, m := range []*nats.Msg{
		{Subject: "$.Foreign.text", Data: []byte("no \x1b[31mJSON")},
		{Subject: "$.Foreign.bytes", Data: []byte{0xff, 0xfe}, Header: nats.Header{"ce-id": {"a\u009bb"}, "ce-subject": {"a b"}}},
		{Subject: "$.Foreign.json", Data: []byte("\"\u009b\"")},
		{Subject: "$.Foreign.nothing"},
	} {
		if _, err := l.b.JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	o := l.run("history", "Foreign.*")
	o.want(t, exitDone, texts(`"no \x1b[31mJSON"`+"\n", "  2 bytes\n", `"\u009b"`+"\n", "Foreign.nothing  EVENTS/5  -  -\n"), nil)
	j := l.run("history", "Foreign.*", "--json")
	page := fromJSON[historyPage](t, j.out)
	if len(page.Events) != 4 || string(page.Events[0].Raw) != "no \x1b[31mJSON" || string(page.Events[1].Raw) != "\xff\xfe" ||
		string(page.Events[0].Data) != "null" || page.Events[2].Raw != nil {
		t.Errorf("got %s", j.out)
	}
	if strings.ContainsAny(o.out+j.out, "\x1b\u009b") {
		t.Errorf("an escape sequence got through: %q", o.out+j.out)
	}
}

func TestEventsHistory(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	l.run("history").want(t, exitDone, nil, texts("there are no such events"))
	l.run("history", "--json").want(t, exitDone, texts(`{"events":[]}`+"\n"), nil)
	l.send("Order.placed", 5)
	l.send("Order.paid.Card", 5)
	sequences := func(o outcome) (all []string) {
		for line := range strings.Lines(o.out) {
			all = append(all, strings.Split(line, "  ")[1])
		}
		return all
	}
	for args, want := range map[string]string{
		"":                                     "1 2 3 4 5 6 7 8 9 10",
		"Order.*":                              "1 2 3 4 5",
		"*.placed Order.paid.> --after 4":      "5 6 7 8 9 10",
		"--before 3":                           "1 2",
		"--after 2 --before 5 --reverse":       "4 3",
		"--since 1h --until 2999-01-01":        "1 2 3 4 5 6 7 8 9 10",
		"--since 2999-01-01":                   "",
		"--reverse --limit 10 $.Order.placed":  "5 4 3 2 1",
		"--until 2020-01-01T00:00:00Z Order.>": "",
	} {
		if got := strings.Join(sequences(l.run(append([]string{"history"}, strings.Fields(args)...)...)), " "); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
	for _, reverse := range []bool{false, true} {
		var all []string
		args := []string{"history", "Order.>", "--limit", "3", "--reverse=" + strconv.FormatBool(reverse)}
		for cursor := ""; ; {
			o := l.run(append(args, "--cursor", cursor)...)
			all = append(all, sequences(o)...)
			_, next, more := strings.Cut(strings.TrimSpace(o.err), "go on with --cursor ")
			if cursor = next; !more {
				break
			}
		}
		if reverse {
			slices.Reverse(all)
		}
		if got := strings.Join(all, " "); got != "1 2 3 4 5 6 7 8 9 10" {
			t.Errorf("reverse %v: %s", reverse, got)
		}
	}
	page := fromJSON[historyPage](t, l.run("history", "--limit", "2", "--json").out)
	if len(page.Events) != 2 || page.Next == "" || page.Events[1].Sequence != 2 {
		t.Errorf("got %+v", page)
	}
	wantProblem(t, l.env, exitUsage, "invalid_argument", "is not one that a page has", "events", "history", "--cursor", "garbage")
	wantProblem(t, l.env, exitUsage, "invalid_argument", "in the other direction", "events", "history", "--cursor", page.Next, "--reverse")
}

func TestEventsTrace(t *testing.T) {
	t.Parallel()
	l := newEventsBus(t)
	sender := pipeline.New(l.b, pipeline.Config{Source: "/follow"})
	l.serve("shop", "follow", "Order.placed", func(ctx context.Context, e pipeline.RawEvent) error {
		_, err := sender.Send(ctx, "Order.followed", e.Data, pipeline.WithID("second"))
		return err
	})
	l.run("send", "Other.thing").want(t, exitDone, texts("sequence 1"), nil)
	l.run("send", "Order.placed", "{}", "--id", "first").want(t, exitDone, texts("sequence 2"), nil)
	until(t, "the handler has sent its event", func() bool { return strings.Contains(l.run("history", "Order.followed").out, "second") })
	l.run("send", "Order.late", "--correlation", "gone", "--id", "late").want(t, exitDone, texts("stored"), nil)
	for _, asked := range []string{"second", "3"} {
		o := l.run("trace", asked)
		o.want(t, exitDone, texts("  Order.placed  2  first  2", "  /rpcdo\n>   Order.followed  3  second  2", "  /follow\n"), nil)
		if strings.Contains(o.out, "Other.thing") {
			t.Errorf("got %q", o.out)
		}
	}
	l.run("trace", "first", "--since", "1h").want(t, exitDone, texts("> Order.placed", "\n    Order.followed"), nil)
	l.run("trace", "late").want(t, exitDone, texts("  (removed)  gone\n>   Order.late"), nil)
	l.run("trace", "first", "--limit", "1").want(t, exitDone, texts("> Order.placed"), texts("there are more events than these 1: see them with --limit"))
	trace := fromJSON[pipeline.Trace](t, l.run("trace", "second", "--json").out)
	if trace.ID != "second" || trace.Events != 2 || trace.Root.ID != "first" || len(trace.Root.Children) != 1 || trace.Root.Children[0].ID != "second" {
		t.Errorf("got %+v", trace)
	}
	wantProblem(t, l.env, exitFailed, "not_found", `there is no event "nope"`, "events", "trace", "nope")
	wantProblem(t, l.env, exitFailed, "not_found", `there is no event "99"`, "events", "trace", "99")
}

func TestEventsUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "events needs a command: send, cancel, tail, history, trace, handlers, lag, replay, dead, retention"},
		{texts("sendd"), `events has no command "sendd"`},
		{texts("send"), "which event? want its type, such as User.registered"},
		{texts("send", ""), `event name "": it is empty`},
		{texts("send", "user registered"), `event name "user registered": ' ' is not allowed`},
		{texts("send", "User..registered"), "a token between dots is empty"},
		{texts("send", "User"), "2 to 6 are allowed"},
		{texts("send", strings.Repeat("a.", 39)+"a"), "40 tokens; 2 to 6 are allowed"},
		{texts("send", "$"), "names that begin with $ are the system's"},
		{texts("send", ">"), "'>' is not allowed"},
		{texts("send", "User.*"), "that is a pattern: an event to send has a type"},
		{texts("send", "$.User.registered"), "leave out the $. in front: User.registered"},
		{texts("send", "User.registered", "{}", "{}"), "put the JSON in quotes"},
		{texts("send", "User.registered", "{"), "data: malformed JSON at line 1, column 2: it ends too early"},
		{texts("send", "User.registered", "{} {}"), "nothing more: it is one value"},
		{texts("send", "User.registered", ""), "data: empty: want one JSON value"},
		{texts("send", "User.registered", "-"), "data on stdin: empty"},
		{texts("send", "User.registered", "{}", "--lines"), "--lines takes the data from stdin"},
		{texts("send", "User.registered", "--lines", "--id", "x"), "--id is for one event, and --lines sends several"},
		{texts("send", "User.registered", "--lines", "--expect", "0"), "--expect is for one event"},
		{texts("send", "User.registered", "--id", "x", "--dedupe", "y"), "--id and --dedupe both say what its id is"},
		{texts("send", "User.registered", "--dedupe", ""), "--dedupe: the key is empty"},
		{texts("send", "User.registered", "--expect", "x"), `--expect "x": want a whole number, 0 or more`},
		{texts("send", "User.registered", "--timeout", "0s"), "--timeout 0s: want at least 1ms"},
		{texts("send", "User.registered", "-H", "a:b"), "with an equals sign"},
		{texts("send", "User.registered", "--lines", "--after", "5m"), "--after is for one event, and --lines sends several"},
		{texts("send", "User.registered", "--at", "2096-01-01", "--after", "5m"), "--at and --after both say when"},
		{texts("send", "User.registered", "--at", "5m"), `--at "5m": want a time, such as 2026-11-29T15:04:05Z or "2026-11-29 15:04"; --after takes`},
		{texts("send", "User.registered", "--after", "-5m"), `--after "-5m": want a time with its unit, such as 90m or 7d`},
		{texts("send", "User.registered", "--after", "5m", "--expect", "0"), "--expect is about the stream as it is now"},
		{texts("cancel"), "which event? want its id"},
		{texts("cancel", "a", "b"), "2 arguments: want the id of one event"},
		{texts("tail", ">"), `pattern ">": it would be more than events: write $.> for every event`},
		{texts("tail", "user registered"), "write a dot between tokens"},
		{texts("tail", "--from", "soon"), `--from "soon": want new, all, a sequence from 1, a time`},
		{texts("tail", "--from", "0"), `--from "0": want new, all, a sequence from 1`},
		{texts("tail", "--limit", "-1"), "--limit -1: want 1 or more, or 0 for no end"},
		{texts("history", "User.**"), "a wildcard is a whole token"},
		{texts("history", "--limit", "0"), "--limit 0: want 1 to 10000"},
		{texts("history", "--since", "5"), `--since "5": want a time, such as`},
		{texts("history", "--until", "-5m"), `--until "-5m": want a time, such as`},
		{texts("history", "--since", "1h", "--until", "2h"), "--since 1h is not before --until 2h"},
		{texts("history", "--after", "5", "--before", "5"), "--after 5 is not below --before 5"},
		{texts("trace"), "which event? want its id or its sequence"},
		{texts("trace", "a", "b"), "2 arguments: want the id or the sequence of one event"},
		{texts("trace", "a", "--limit", "0"), "--limit 0: want 1 or more"},
		{texts("handlers", "a.b"), `service name "a.b"`},
		{texts("handlers", "rm", "greeter"), "which handler? want a service and one of its handlers"},
		{texts("handlers", "rm", "greeter", "welcome"), "there is no terminal to ask on: give --yes"},
		{texts("lag", "greeter", "wel come"), `handler "wel come"`},
		{texts("lag", "a", "b", "c"), "3 arguments: want a service and one of its handlers at most"},
		{texts("lag", "--max-age", "5"), `--max-age "5": want a time with its unit, such as 5m or 2d`},
		{texts("lag", "--max-pending", "-1"), "--max-pending -1: want 0 or more"},
		{texts("lag", "--max-dead", "x"), `--max-dead "x": want a whole number`},
		{texts("replay", "greeter"), "which handler?"},
		{texts("replay", "greeter", "welcome", "--pattern", ">"), `--pattern ">": it would be more than events`},
		{texts("replay", "greeter", "welcome", "--dry-run", "--wait"), "--dry-run does nothing that --wait could wait for"},
		{texts("replay", "greeter", "welcome", "--after", "7", "--before", "3"), "--after 7 is not below --before 3"},
		{texts("dead"), "dead needs a command: ls, show, retry, edit, discard"},
		{texts("dead", "ls", "--limit", "1001"), "--limit 1001: want 1 to 1000"},
		{texts("dead", "show"), "which dead letter? want its number"},
		{texts("dead", "show", "x"), `dead letter "x": want its number`},
		{texts("dead", "show", "0"), `dead letter "0": want its number`},
		{texts("dead", "retry"), "which dead letters? want their numbers"},
		{texts("dead", "retry", "1", "--all"), "give numbers or --all, not both"},
		{texts("dead", "retry", "1", "--service", "x"), "--service and --handler go with --all"},
		{texts("dead", "retry", "--all", "--handler", "x"), "--handler: of which service?"},
		{texts("dead", "retry", "--all", "--service", "a b"), `--service: service name "a b"`},
		{texts("dead", "edit"), "which dead letter?"},
		{texts("dead", "edit", "1"), "there is no terminal: give them, as JSON or - for stdin"},
		{texts("dead", "edit", "1", "{"), "data: malformed JSON"},
		{texts("dead", "edit", "1", "{}", "{}"), "put the JSON in quotes"},
		{texts("dead", "discard", "1"), "there is no terminal to ask on: give --yes"},
		{texts("retention", "x"), "events retention takes no arguments"},
		{texts("retention", "--max-age", "30"), `--max-age "30": want a time with its unit, such as 30d or 12h, or off`},
		{texts("retention", "--max-age", "0s"), `--max-age "0s": want a time`},
		{texts("retention", "--max-bytes", "ten"), `--max-bytes "ten": want a size, such as 10GB or 512MiB, or off`},
		{texts("retention", "--max-events", "0"), `--max-events "0": want a number of events from 1, or off`},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			args := append([]string{"events"}, c.args...)
			o := rpcdo(t, with("NATS_URL", "nats://127.0.0.1:1"), args...)
			o.want(t, exitUsage, nil, texts("rpcdo: ", c.want, "--help)"))
			o.wantLine(t)
			wantProblem(t, with("NATS_URL", "nats://127.0.0.1:1"), exitUsage, "invalid_argument", c.want, args...)
		})
	}
}

func TestEventsWithoutABus(t *testing.T) {
	t.Parallel()
	env := with("NATS_URL", "nats://127.0.0.1:1")
	for _, args := range [][]string{
		{"send", "User.registered", "{}"}, {"send", "User.registered", "--after", "5m"}, {"cancel", "x"}, {"tail"}, {"history"}, {"trace", "x"}, {"handlers"}, {"lag"}, {"replay", "a", "b"}, {"dead", "ls"}, {"retention"},
	} {
		o := rpcdo(t, env, append([]string{"events"}, args...)...)
		o.want(t, exitFailed, nil, texts("nothing listens at nats://127.0.0.1:1"))
		o.wantLine(t)
	}
}
