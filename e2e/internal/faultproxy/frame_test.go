package faultproxy

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		from Side
		line string
		want string // subject, reply and size; "none" is no message, "bad" one that can't be read
	}{
		{Client, "PUB a.b 5", "a.b  5"},
		{Client, "PUB a.b _INBOX.x 5", "a.b _INBOX.x 5"},
		{Client, "pub\ta.b \t r  0 ", "a.b r 0"},
		{Client, "HPUB a 12 17", "a  17"},
		{Client, "hPub a r 12 12", "a r 12"},
		{Client, "PUB größe 1", "größe  1"},
		{Client, "PUB a\u00a0b 1", "a\u00a0b  1"},
		{Server, "MSG a.b 9 5", "a.b  5"},
		{Server, "MSG a.b 9 r 5", "a.b r 5"},
		{Server, "HMSG a 9 12 17", "a  17"},
		{Server, "HMSG a 9 r 12 17", "a r 17"},
		{Client, "PUB a 67108864", "a  67108864"},

		{Client, "MSG a 9 5", "none"},
		{Server, "PUB a 5", "none"},
		{Client, "", "none"},
		{Client, "PING", "none"},
		{Client, "SUB PUB 5", "none"},
		{Client, "PUBLISH a 5", "none"},
		{Client, ` PUB a 5`, "none"},
		{Client, `CONNECT {"name":"PUB a 5"}`, "none"},
		{Server, `INFO {"server_id":"MSG"}`, "none"},
		{Server, "-ERR 'MSG a 9 5'", "none"},

		{Client, "PUB", "bad"},
		{Client, "PUB a", "bad"},
		{Client, "PUB a b c 5", "bad"},
		{Client, "PUB a -5", "bad"},
		{Client, "PUB a +5", "bad"},
		{Client, "PUB a 5x", "bad"},
		{Client, "PUB a 67108865", "bad"},
		{Client, "PUB a 99999999999999999999", "bad"},
		{Client, "HPUB a 5", "bad"},
		{Client, "HPUB a 6 5", "bad"},
		{Client, "HPUB a r x 5", "bad"},
		{Server, "MSG a 5", "bad"},
		{Server, "HMSG a 9 5", "bad"},
	} {
		for _, end := range []string{"\r\n", "\n"} {
			f, message, ok := test.from.parse([]byte(test.line + end))
			got := fmt.Sprintf("%s %s %d", f.subject, f.reply, f.size)
			switch {
			case !ok:
				got = "bad"
			case !message:
				got = "none"
			}
			if got != test.want || !ok && !message {
				t.Errorf("%v: %q: %q, want %q", test.from, test.line+end, got, test.want)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{"PUB a.b r 5", "HPUB a r 12 17", "MSG a 9 r 5", "HMSG a 9 r 12 17", "PING", "pub\ta 0"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, from := range []Side{Client, Server} {
			f, message, ok := from.parse([]byte(line + "\r\n"))
			if !ok || !message {
				if len(f.subject) > 0 || len(f.reply) > 0 || f.size != 0 || !ok && !message {
					t.Errorf("%q: %+v, %v, %v", line, f, message, ok)
				}
				continue
			}
			if f.size < 0 || f.size > maxSize || len(f.subject) == 0 || bytes.ContainsAny(f.subject, " \t\r\n") ||
				bytes.ContainsAny(f.reply, " \t\r\n") || !strings.Contains(line, string(f.subject)) {
				t.Errorf("%q: %+v", line, f)
			}
		}
	})
}
