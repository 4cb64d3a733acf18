package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"rpc.do"
	"rpc.do/pipeline"
)

// deadLetters is a bus with so many dead letters of mailer send-welcome. Mended has
// the handler handle what comes.
func deadLetters(t *testing.T, n int) (l *eventsBus, mended *atomic.Bool, handled chan pipeline.RawEvent) {
	t.Helper()
	l = newEventsBus(t)
	mended, handled = new(atomic.Bool), make(chan pipeline.RawEvent, 100)
	l.serve("mailer", "send-welcome", "User.registered", func(_ context.Context, e pipeline.RawEvent) error {
		if !mended.Load() {
			return rpc.Terminal(errors.New("no \x1b[31mmail\nserver"))
		}
		handled <- e
		return nil
	}, pipeline.Concurrency(1))
	l.send("User.registered", n)
	l.wantDead(n)
	return l, mended, handled
}

func (l *eventsBus) wantDead(n int) {
	l.Helper()
	until(l.T, "there are as many dead letters", func() bool {
		letters, err := l.p.DeadLetters(l.Context(), pipeline.DeadQuery{})
		if err != nil {
			l.Fatal(err)
		}
		return len(letters) == n
	})
}

func TestEventsDeadList(t *testing.T) {
	t.Parallel()
	l, _, _ := deadLetters(t, 3)
	o := l.run("dead", "ls")
	o.want(t, exitDone, texts("NUMBER  SERVICE  HANDLER       EVENT            REASON    ATTEMPTS  TIME",
		"1       mailer   send-welcome  User.registered  terminal  1         2", "no  [31mmail; server\n"), nil)
	if strings.Contains(o.out, "\x1b") {
		t.Errorf("an escape sequence got through: %q", o.out)
	}
	l.run("dead", "ls", "mailer", "send-welcome", "--limit", "2").want(t, exitDone, texts("\n2 "), texts("there may be more: go on with --after 2"))
	letters := fromJSON[[]shownDead](t, l.run("dead", "ls", "mailer", "--after", "2", "--json").out)
	if len(letters) != 1 || letters[0].ID != 3 || letters[0].Event.Type != "User.registered" || string(letters[0].Event.Data) != `{"n":3}` {
		t.Errorf("got %+v", letters)
	}
	l.run("dead", "ls", "nope").want(t, exitDone, nil, texts("there are no dead letters"))
	l.run("dead", "ls", "nope", "--json").want(t, exitDone, texts("[]\n"), nil)
	l.run("lag", "--max-dead", "2").want(t, exitFailed, texts("mailer"), texts("mailer send-welcome has 3 dead letters, more than 2"))
}

func TestEventsDeadShow(t *testing.T) {
	t.Parallel()
	l, _, _ := deadLetters(t, 1)
	l.run("dead", "show", "1").want(t, exitDone, texts("dead letter 1 of mailer send-welcome\n", "  error     no  [31mmail; server\n",
		"  reason    terminal, after 1 attempts, by version 1.2.3\n", ", sequence 1\n", "  due to    no other event\n", "  data      {\"n\":1}\n", "  header    ce-id: "), nil)
	d := fromJSON[shownDead](t, l.run("dead", "show", "1", "--json").out)
	if d.ID != 1 || d.Attempts != 1 || d.Reason != "terminal" || string(d.Event.Data) != `{"n":1}` || d.Header.Get("ce-type") != "User.registered" {
		t.Errorf("got %+v", d)
	}
	wantProblem(t, l.env, exitFailed, "not_found", "there is no dead letter 9", "events", "dead", "show", "9")
}

func TestEventsDeadRetry(t *testing.T) {
	t.Parallel()
	l, mended, handled := deadLetters(t, 4)
	l.run("dead", "retry", "1").want(t, exitDone, texts("retried 1 dead letter\n"), nil)
	until(t, "it is dead again", func() bool { return strings.Contains(l.run("dead", "ls").out, "\n5 ") })
	mended.Store(true)
	l.run("dead", "retry", "2", "99", "3").want(t, exitFailed, texts("retried 2 dead letters\n"), texts("rpcdo: there is no dead letter 99", "1 of 3 dead letters were not retried"))
	for range 2 {
		if e := <-handled; !e.Again {
			t.Errorf("got %+v", e)
		}
	}
	o := l.run("dead", "retry", "2", "98", "--json")
	if d := fromJSON[doneDead](t, o.out); o.status != exitFailed || d.Done != 0 || len(d.Failed) != 2 || d.Failed[1].ID != 98 || d.Failed[1].Error.Code != "not_found" {
		t.Errorf("status %d, %+v", o.status, d)
	}
	l.run("dead", "retry", "--all", "--service", "nope").want(t, exitDone, texts("retried 0 dead letters\n"), nil)
	l.env.ErrTerminal = true
	l.run("dead", "retry", "--all", "--service", "mailer", "--handler", "send-welcome").want(t, exitDone, texts("retried 2 dead letters\n"), texts("\r\x1b[Kretried 1 dead letter"))
	<-handled
	<-handled
	l.wantDead(0)
}

func TestEventsDeadDiscard(t *testing.T) {
	t.Parallel()
	l, _, _ := deadLetters(t, 5)
	asked := l.env
	asked.InTerminal = true
	for _, c := range []struct {
		answer, question string
		args             []string
		left             int
	}{
		{"n\n", "Delete the dead letter 1, User.registered ", texts("1"), 5},
		{"y\n", " for mailer send-welcome? [y/N] ", texts("1"), 4},
		{"n\n", "Delete 2 dead letters? [y/N] ", texts("2", "3"), 4},
		{"y\n", "Delete 2 dead letters? [y/N] ", texts("2", "3"), 2},
		{"\n", "Delete all dead letters of mailer send-welcome? [y/N] ", texts("--all", "--service", "mailer", "--handler", "send-welcome"), 2},
		{"n\n", "Delete the dead letters of all handlers? [y/N] ", texts("--all"), 2},
		{"yes\n", "Delete all dead letters of mailer? [y/N] ", texts("--all", "--service", "mailer"), 0},
	} {
		asked.In = strings.NewReader(c.answer)
		o := rpcdo(t, asked, append(texts("events", "dead", "discard"), c.args...)...)
		if c.answer[0] == 'y' {
			o.want(t, exitDone, texts("discarded "), texts(c.question))
		} else {
			o.want(t, exitFailed, nil, texts(c.question, "nothing was deleted"))
		}
		l.wantDead(c.left)
	}
	wantProblem(t, l.env, exitFailed, "not_found", "there is no dead letter 1", "events", "dead", "discard", "1", "--yes")
	l.run("dead", "discard", "--all", "-y", "--json").want(t, exitDone, texts(`{"done":0}`+"\n"), nil)
}

func TestEventsDeadEdit(t *testing.T) {
	t.Parallel()
	l, mended, handled := deadLetters(t, 3)
	mended.Store(true)
	l.run("dead", "edit", "1", `{"n":10}`).want(t, exitDone, texts("retried with other data 1 dead letter\n"), nil)
	if e := <-handled; string(e.Data) != `{"n":10}` || !e.Again {
		t.Errorf("got %+v", e)
	}
	l.env.In = strings.NewReader(`{"n":20}`)
	l.run("dead", "edit", "2", "-", "--json").want(t, exitDone, texts(`{"done":1}`+"\n"), nil)
	if e := <-handled; string(e.Data) != `{"n":20}` {
		t.Errorf("got %+v", e)
	}
	wantProblem(t, l.env, exitFailed, "not_found", "there is no dead letter 2", "events", "dead", "edit", "2", "{}")

	editor := func(script string) Env {
		file := filepath.Join(t.TempDir(), "editor")
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		env := with("NATS_URL", l.env.Getenv("NATS_URL"), "EDITOR", file+" --wait", "VISUAL", " ")
		env.InTerminal, env.OutTerminal = true, true
		return env
	}
	rpcdo(t, editor("exit 0"), "events", "dead", "edit", "3").want(t, exitFailed, nil, texts("the data are as they were: nothing was done", "dead retry 3"))
	rpcdo(t, editor("exit 3"), "events", "dead", "edit", "3").want(t, exitFailed, nil, texts("exit status 3; nothing was done"))
	none := editor("")
	none.Getenv = l.env.Getenv
	rpcdo(t, none, "events", "dead", "edit", "3").want(t, exitUsage, nil, texts("which editor? set EDITOR, or give the data"))
	o := rpcdo(t, editor(`echo '{"n":' > "$2"`), "events", "dead", "edit", "3")
	o.want(t, exitFailed, nil, texts("data: malformed JSON at line 1", "nothing was done, and what you wrote is in "))
	_, file, _ := strings.Cut(o.err, "what you wrote is in ")
	file, _, _ = strings.Cut(file, ":")
	if text, err := os.ReadFile(file); err != nil || string(text) != "{\"n\":\n" {
		t.Errorf("%q has %q, %v", file, text, err)
	} else if err := os.Remove(file); err != nil {
		t.Error(err)
	}
	rpcdo(t, editor(`grep -q '^  "n": 3' "$2" && echo '{"n":30}' > "$2"`), "events", "dead", "edit", "3").want(t, exitDone, texts("retried with other data 1 dead letter\n"), nil)
	if e := <-handled; strings.TrimSpace(string(e.Data)) != `{"n":30}` {
		t.Errorf("got %+v", e)
	}
}
