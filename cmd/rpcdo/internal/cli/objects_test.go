package cli

import (
	"strings"
	"testing"
	"time"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
	"rpc.do/durable"
)

// counterBus returns an environment on a bus of its own with the demo's objects.
func counterBus(t *testing.T, ids ...string) Env {
	t.Helper()
	env := with("NATS_URL", demoBus(t))
	for _, id := range ids {
		rpcdo(t, env, "objects", "call", "counter", id, "increment", `{"by":7}`).want(t, exitDone, texts(`{"value":7}`+"\n"), nil)
	}
	return env
}

// wantProblem runs a command with --json that fails, and checks what it says.
func wantProblem(t *testing.T, env Env, status int, code, text string, args ...string) {
	t.Helper()
	o := rpcdo(t, env, append(args, "--json")...)
	if p := fromJSON[problem](t, o.err); o.status != status || p.Code != code || !strings.Contains(p.Message, text) || p.Details == nil || o.out != "" {
		t.Errorf("%q: status %d, %+v, stdout %q; want %d, %s, %q", args, o.status, p, o.out, status, code, text)
	}
}

func TestObjectsList(t *testing.T) {
	t.Parallel()
	env := counterBus(t)
	rpcdo(t, env, "objects", "ls").want(t, exitDone, texts("CLASS    OBJECTS  INSTANCES  PAUSED\ncounter  0        1          -\n"), nil)
	rpcdo(t, env, "objects", "ls", "counter").want(t, exitDone, nil, texts("the class counter has no objects"))
	rpcdo(t, env, "objects", "ls", "counter", "--json").want(t, exitDone, texts(`{"ids":[]}`+"\n"), nil)
	ids := []string{"Zoë", "_out", "a.b.c", "alice", "two words", " padded", "line\nend", `"quoted"`, "日本語", "\u200b"}
	for _, id := range ids {
		rpcdo(t, env, "objects", "call", "counter", id, "increment", `{"by":1}`).want(t, exitDone, texts("{\"value\":1}\n"), nil)
	}
	rpcdo(t, env, "objects", "ls", "counter").want(t, exitDone, texts(
		"\" padded\"\n\"\\\"quoted\\\"\"\nZoë\n_out\na.b.c\nalice\n\"line\\nend\"\ntwo words\n\"\\u200b\"\n日本語\n"), nil)
	page := fromJSON[durable.Page](t, rpcdo(t, env, "objects", "ls", "counter", "--json", "--after", "alice").out)
	if len(page.IDs) != 4 || page.IDs[0] != "line\nend" || page.Next != "" {
		t.Errorf("got %+v", page)
	}
	o := rpcdo(t, env, "objects", "ls", "counter", "--limit", "8", "--after", " padded")
	o.want(t, exitDone, texts("two words\n"), texts("there are more: go on with --after '\u200b'"))
	rpcdo(t, env, "objects", "ls", "counter", "--limit", "0", "--prefix", "a").want(t, exitDone, texts("a.b.c\nalice\n"), nil)
	rpcdo(t, env, "objects", "ls", "counter", "--limit", "0", "--after", "two words", "--json").want(t, exitDone, texts(`{"ids":["`, `日本語"]}`), nil)
	rpcdo(t, env, "objects", "ls", "counter", "--prefix", "x").want(t, exitDone, nil, texts("has no such objects"))
	classes := fromJSON[[]durable.ClassInfo](t, rpcdo(t, env, "objects", "ls", "--json").out)
	if len(classes) != 1 || classes[0] != (durable.ClassInfo{Class: "counter", Objects: len(ids), Exact: true, Members: 1}) {
		t.Errorf("got %+v", classes)
	}
}

func TestObjectsGet(t *testing.T) {
	t.Parallel()
	env := counterBus(t, "alice", "two words")
	rpcdo(t, env, "objects", "get", "counter", "alice").want(t, exitDone, texts(
		"counter/alice\n", "  state     {\"value\":7}\n", "  modified  2", "commit 1-", "epoch 1, schema 0\n"), nil)
	rpcdo(t, env, "objects", "get", "counter", "two words", "--storage").want(t, exitDone, texts("counter/two words\n", "  storage   0 entries\n"), nil)
	got := fromJSON[map[string]any](t, rpcdo(t, env, "objects", "get", "counter", "alice", "--storage", "--json").out)
	if got["class"] != "counter" || got["id"] != "alice" || got["state"].(map[string]any)["value"] != 7.0 || len(got["storage"].([]any)) != 0 || got["alarm"] != nil {
		t.Errorf("got %v", got)
	}
	rpcdo(t, env, "objects", "get", "counter", "bob").want(t, exitFailed, nil, texts(`rpcdo: not_found: the class counter has no object "bob"`))
	wantProblem(t, env, exitFailed, "not_found", `"bob"`, "objects", "get", "counter", "bob")
}

// All that an object can have is shown, and what others wrote does no harm.
func TestObjectsGetShowsAll(t *testing.T) {
	t.Parallel()
	env := counterBus(t)
	b, err := bus.Connect(t.Context(), bus.Config{URLs: []string{env.Getenv("NATS_URL")}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	kv, err := b.JetStream().KeyValue(t.Context(), durable.Bucket("counter"))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"alice": "no \x1b[31mJSON", "alice.key": "1", "alice.a=20b": "\x1b[31m", "_dead.alice": `{"attempts":6,"error":"bo\u001boom"}`, "empty": "",
	} {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	rpcdo(t, env, "objects", "pause", "counter", "alice", "--reason", "see \x1b[31mred").want(t, exitDone, texts("paused counter/alice\n"), nil)
	o := rpcdo(t, env, "objects", "get", "counter", "alice", "--storage")
	o.want(t, exitDone, texts("state       no  [31mJSON\n", "not by an owner", "dead alarm  ", "given up after 6 attempts", "bo oom\n", "paused      since ", ": see  [31mred\n"), nil)
	got := fromJSON[map[string]any](t, rpcdo(t, env, "objects", "get", "counter", "alice", "--json").out)
	if got["state"] != "no \x1b[31mJSON" || got["paused"].(map[string]any)["reason"] != "see \x1b[31mred" || got["deadAlarm"].(map[string]any)["attempts"] != 6.0 {
		t.Errorf("got %v", got)
	}
	if strings.Contains(o.out, "\x1b") {
		t.Errorf("an escape sequence got through: %q", o.out)
	}
	rpcdo(t, env, "objects", "get", "counter", "empty").want(t, exitDone, texts("state"), nil)
	rpcdo(t, env, "objects", "get", "counter", "empty", "--json").want(t, exitDone, texts(`"state":""`), nil)
}

func TestObjectsCall(t *testing.T) {
	t.Parallel()
	env := counterBus(t, "alice", "Zoë", strings.Repeat("x", 256))
	rpcdo(t, env, "objects", "call", "counter", "alice", "value").want(t, exitDone, texts(`{"value":7}`), nil)
	env.In = strings.NewReader(`{"by":1}`)
	rpcdo(t, env, "objects", "call", "counter", "alice", "increment", "-").want(t, exitDone, texts(`{"value":8}`), nil)
	rpcdo(t, env, "call", "counter.value", "--object", "alice").want(t, exitDone, texts(`{"value":8}`), nil)
	rpcdo(t, env, "objects", "call", "counter", "Zoë", "nope").want(t, exitFailed, nil, texts("unimplemented", "rpcdo services info counter"))
	wantProblem(t, env, exitFailed, "invalid_argument", "by", "objects", "call", "counter", "alice", "increment", `{"by":"x"}`)
	wantProblem(t, env, exitUsage, "invalid_argument", "the system's", "objects", "call", "counter", "alice", "$destroy")
	wantProblem(t, env, exitUsage, "invalid_argument", "the system's", "objects", "call", "counter", "alice", "$alarm")
}

func TestObjectsRemove(t *testing.T) {
	t.Parallel()
	env := counterBus(t, "alice", "bob", "carol", "dave")
	for _, o := range []outcome{
		rpcdo(t, env, "objects", "rm", "counter", "alice"),
		rpcdo(t, Env{Getenv: env.Getenv, In: strings.NewReader("y\n"), ErrTerminal: true, OutTerminal: true}, "objects", "rm", "counter", "alice"),
	} {
		o.want(t, exitUsage, nil, texts("there is no terminal to ask on: give --yes"))
	}
	for answer, sure := range map[string]bool{"\n": false, "": false, "n\n": false, "nay\n": false, "Y\n": true} {
		asked := Env{Getenv: env.Getenv, In: strings.NewReader(answer), InTerminal: true}
		o := rpcdo(t, asked, "objects", "rm", "counter", "alice")
		if sure {
			o.want(t, exitDone, texts("deleted counter/alice\n"), texts("Delete counter/alice, with its state of 11 bytes, its storage and its alarm? [y/N] "))
			rpcdo(t, env, "objects", "call", "counter", "alice", "increment", `{"by":7}`).want(t, exitDone, texts(`{"value":7}`), nil)
		} else {
			o.want(t, exitFailed, nil, texts("[y/N] ", "nothing was deleted"))
			rpcdo(t, env, "objects", "get", "counter", "alice").want(t, exitDone, texts(`{"value":7}`), nil)
		}
	}
	rpcdo(t, env, "objects", "rm", "counter", "bob", "--yes").want(t, exitDone, texts("deleted counter/bob\n"), nil)
	rpcdo(t, env, "objects", "rm", "counter", "bob", "--yes").want(t, exitFailed, nil, texts(`no object "bob"`))
	rpcdo(t, env, "objects", "rm", "counter", "carol", "-y", "--json").want(t, exitDone, texts(`{"class":"counter","id":"carol","deleted":true}`+"\n"), nil)
	rpcdo(t, env, "objects", "ls", "counter").want(t, exitDone, texts("alice\ndave\n"), nil)
}

func TestObjectsThatNobodyServes(t *testing.T) {
	t.Parallel()
	url := bustest.Server(t).URL()
	env := with("NATS_URL", url)
	s := start(t, env, "serve")
	s.waitFor(t, "ready ")
	rpcdo(t, env, "objects", "call", "counter", "alice", "increment", `{"by":7}`).want(t, exitDone, texts(`{"value":7}`), nil)
	s.stop(t)
	rpcdo(t, env, "objects", "ls").want(t, exitDone, texts("counter  1        0          -\n"), nil)
	rpcdo(t, env, "objects", "get", "counter", "alice").want(t, exitDone, texts(`{"value":7}`), nil)
	rpcdo(t, env, "objects", "pause", "counter").want(t, exitDone, texts("paused the class counter\n"), nil)
	o := rpcdo(t, env, "objects", "rm", "counter", "alice", "--yes", "--timeout", "200ms")
	o.want(t, exitFailed, nil, texts("rpcdo: unavailable: the object counter/alice was not deleted", "nobody serves the class counter now"))
	o.wantLine(t)
	start(t, env, "serve").waitFor(t, "ready ")
	rpcdo(t, env, "objects", "call", "counter", "alice", "value").want(t, exitFailed, nil, texts("the class counter is paused"))
}

func TestObjectsPause(t *testing.T) {
	t.Parallel()
	env := counterBus(t, "alice", "bob")
	rpcdo(t, env, "objects", "pause", "counter", "alice", "--reason", "under investigation").want(t, exitDone, texts("paused counter/alice\n"), nil)
	o := rpcdo(t, env, "objects", "call", "counter", "alice", "value")
	o.want(t, exitFailed, nil, texts("rpcdo: unavailable: the object counter/alice is paused: under investigation\n"))
	rpcdo(t, env, "objects", "call", "counter", "bob", "value").want(t, exitDone, texts(`{"value":7}`), nil)
	rpcdo(t, env, "objects", "pause", "counter", "--reason", "holiday", "--json").want(t, exitDone, texts(`{"class":"counter","paused":true,"reason":"holiday"}`+"\n"), nil)
	rpcdo(t, env, "objects", "ls").want(t, exitDone, texts("counter  2        1          holiday\n"), nil)
	rpcdo(t, env, "objects", "get", "counter", "bob").want(t, exitDone, texts("paused    with its class since ", ": holiday\n"), nil)
	wantProblem(t, env, exitFailed, "unavailable", "the class counter is paused: holiday", "objects", "call", "counter", "bob", "value")
	rpcdo(t, env, "objects", "pause", "counter", "carol").want(t, exitDone, texts("paused counter/carol\n"), nil) // who is yet to come
	rpcdo(t, env, "objects", "resume", "counter", "carol").want(t, exitDone, texts("resumed counter/carol\n"),
		texts("it is paused all the same, with its class since ", ": holiday"))
	rpcdo(t, env, "objects", "resume", "counter").want(t, exitDone, texts("resumed the class counter\n"), texts("objects that are paused by themselves: alice\n"))
	rpcdo(t, env, "objects", "resume", "counter", "alice", "--json").want(t, exitDone, texts(`{"class":"counter","id":"alice","paused":false}`+"\n"), nil)
	rpcdo(t, env, "objects", "resume", "counter").want(t, exitDone, texts("resumed"), nil)
	rpcdo(t, env, "objects", "call", "counter", "alice", "value").want(t, exitDone, texts(`{"value":7}`), nil)
	rpcdo(t, env, "objects", "pause", "counter", "--reason", strings.Repeat("x", 1025)).want(t, exitUsage, nil, texts("--reason: want UTF-8 text of at most 1024 bytes (see"))
}

func TestObjectsWatch(t *testing.T) {
	t.Parallel()
	env := counterBus(t, "alice", "two words")
	one := start(t, env, "objects", "watch", "counter", "two words")
	one.waitFor(t, `  two words  {"value":7}`+"\n")
	all := start(t, env, "objects", "watch", "counter", "--json")
	// It can't be seen from outside when a watch of all is in place.
	seen := all.out.contains("\n")
	for waiting := true; waiting; {
		rpcdo(t, env, "objects", "call", "counter", "alice", "increment", `{"by":1}`).want(t, exitDone, texts("value"), nil)
		select {
		case <-seen:
			waiting = false
		case <-time.After(time.Millisecond):
		}
	}
	rpcdo(t, env, "objects", "call", "counter", "two words", "increment", `{"by":-7}`).want(t, exitDone, texts(`{"value":0}`), nil)
	one.waitFor(t, `  two words  {"value":0}`+"\n")
	all.waitFor(t, `{"id":"two words","state":{"value":0},"revision":`)
	rpcdo(t, env, "objects", "rm", "counter", "two words", "--yes").want(t, exitDone, texts("deleted"), nil)
	one.waitFor(t, "  two words  deleted\n")
	all.waitFor(t, `{"id":"two words","deleted":true,"revision":`)
	for line := range strings.Lines(all.out.String()) {
		if c := fromJSON[durable.Change](t, line); c.ID == "" || c.Revision == 0 {
			t.Errorf("line %q", line)
		}
	}
	for _, p := range []*process{one, all} {
		if status := p.stop(t); status != exitDone || p.err.String() != "" {
			t.Errorf("stopped with status %d, stderr %q", status, &p.err)
		}
	}
}

// Whatever the command, a class or a bus that is not there is said clearly.
func TestObjectsThatAreNotThere(t *testing.T) {
	t.Parallel()
	env := counterBus(t)
	bare := with("NATS_URL", bustest.Server(t, bustest.WithServer(func(c *natsd.Config) { c.NoJetStream, c.StoreDir = true, "" })).URL())
	for _, args := range [][]string{
		{"ls", "nope"}, {"get", "nope", "alice"}, {"rm", "nope", "alice", "--yes"}, {"pause", "nope"}, {"resume", "nope", "alice"}, {"watch", "nope"},
	} {
		args = append([]string{"objects"}, args...)
		o := rpcdo(t, env, args...)
		o.want(t, exitFailed, nil, texts(`there is no class "nope" on nats://`, "rpcdo objects ls"))
		o.wantLine(t)
		wantProblem(t, env, exitFailed, "not_found", `no class "nope"`, args...)
		wantProblem(t, bare, exitFailed, "unavailable", "JetStream", args...)
	}
	wantProblem(t, bare, exitFailed, "unavailable", "JetStream", "objects", "ls")
	wantProblem(t, with("NATS_URL", "nats://127.0.0.1:1"), exitFailed, "unavailable", "127.0.0.1:1", "objects", "ls")
	empty := with("NATS_URL", bustest.Server(t).URL())
	rpcdo(t, empty, "objects", "ls").want(t, exitDone, nil, texts("there are no classes of objects on nats://"))
	rpcdo(t, empty, "objects", "ls", "--json").want(t, exitDone, texts("[]\n"), nil)
}

func TestObjectsUsage(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "objects needs a command: ls, get, call, rm, pause, resume, watch"},
		{[]string{"list", "a", "b"}, "2 arguments: want one class at most"},
		{[]string{"ls", ""}, `class "": it is empty`},
		{[]string{"ls", "a.b"}, `class "a.b": it must be one token, without dots`},
		{[]string{"ls", "_x"}, `class "_x": names that begin with _ are the system's`},
		{[]string{"ls", "--prefix", "x"}, "--prefix is for the ids of a class"},
		{[]string{"ls", "--limit", "5"}, "--limit is for the ids of a class"},
		{[]string{"ls", "counter", "--limit", "-1"}, "--limit -1: want 1 or more, or 0 for all"},
		{[]string{"ls", "counter", "--limit", "x"}, `--limit "x": want a whole number`},
		{[]string{"get"}, "which object? want a class and an id"},
		{[]string{"get", "counter"}, "which object? want a class and an id"},
		{[]string{"get", "counter", "two", "words"}, "3 arguments: want a class and an id; put an id with spaces in quotes"},
		{[]string{"get", "counter", ""}, "the object's id is empty"},
		{[]string{"get", "counter", long}, "257 bytes are too long, at most 256 are allowed"},
		{[]string{"get", "counter", "\xff"}, "not valid UTF-8"},
		{[]string{"get", "a b", "c"}, `class "a b": ' ' is not allowed`},
		{[]string{"call"}, "which method of which object?"},
		{[]string{"call", "counter", "alice"}, "which method of which object?"},
		{[]string{"call", "counter", "", "value"}, "the object's id is empty"},
		{[]string{"call", "counter", long, "value"}, "257 bytes"},
		{[]string{"call", "counter", "alice", "increment", "{", "}"}, "2 arguments after the method: want one; put an id with spaces and the JSON in quotes"},
		{[]string{"call", "counter", "alice", "increment", "{"}, "malformed JSON"},
		{[]string{"call", "counter", "alice", ""}, `method name "": it is empty`},
		{[]string{"call", "counter", "alice", "value", "--timeout", "0s"}, "--timeout 0s: want at least 1ms"},
		{[]string{"rm", "counter"}, "which object?"},
		{[]string{"rm", "counter", "", "--yes"}, "the object's id is empty"},
		{[]string{"rm", "counter", "alice", "--yes", "--timeout", "0s"}, "--timeout 0s: want at least 1ms"},
		{[]string{"pause"}, "which one? want a class"},
		{[]string{"pause", "counter", ""}, "the object's id is empty"}, // and not the whole class
		{[]string{"resume", "counter", ""}, "the object's id is empty"},
		{[]string{"resume", "counter", "a", "b"}, "3 arguments: want a class and an id at most"},
		{[]string{"watch", "counter", ""}, "the object's id is empty"},
		{[]string{"watch", "counter.alice"}, `class "counter.alice": it must be one token`},
	} {
		args := append([]string{"objects"}, c.args...)
		o := rpcdo(t, Env{}, args...)
		o.want(t, exitUsage, nil, texts(c.want, "--help)"))
		o.wantLine(t)
		wantProblem(t, Env{}, exitUsage, "invalid_argument", c.want, args...)
	}
}
