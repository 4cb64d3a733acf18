package bus

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// randomName returns a name as Config.Name allows it, dashes at odd places
// included.
func randomName(r *rand.Rand) string {
	const letters = "abcXYZ019_-"
	name := make([]byte, 1+r.IntN(maxName))
	for i := range name {
		name[i] = letters[r.IntN(len(letters))]
	}
	return string(name)
}

// What is written into a reply subject is read from it.
func TestReplySubjectRoundTrip(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		prefix := []string{"_INBOX", "acme.inbox", "a-b.c_d.e"}[r.IntN(3)]
		caller := randomName(r)
		number := r.Uint64() >> r.IntN(64)
		timeout := time.Duration(r.Int64N(int64(2*MaxTimeout))) >> r.IntN(40)
		sent := time.UnixMilli(r.Int64N(1 << 45))

		in := NewInbox(prefix, caller)
		reply := in.ReplySubject(number, timeout, sent)
		p, ok := underPrefix(reply, []string{"other", prefix})
		if !ok || p != prefix {
			t.Fatalf("%s is not under %s", reply, prefix)
		}
		if strings.Count(reply[len(prefix):], ".") != 3 {
			t.Fatalf("%s: want three tokens after the prefix", reply)
		}
		info, ok := parseReply(reply, prefix)
		want := replyInfo{
			identity: in.Identity(prefix, number), caller: caller, sent: sent,
			timeout: min(timeout.Truncate(time.Millisecond), MaxTimeout),
		}
		if !ok || info != want {
			t.Fatalf("%s was read as %+v, %t; want %+v", reply, info, ok, want)
		}
		if err := ValidateID(info.identity); err != nil {
			t.Fatalf("%s: %v", reply, err)
		}
		if n, ok := in.CallNumber(reply); !ok || n != number {
			t.Fatalf("%s: call number %d, %t; want %d", reply, n, ok, number)
		}
		if !strings.HasPrefix(reply, strings.TrimSuffix(in.Wildcard(), ">")) {
			t.Fatalf("%s does not cover %s", in.Wildcard(), reply)
		}
	}
}

// A call whose time is over says so, and does not look like one that says
// nothing and gets the default.
func TestReplySubjectWithoutTime(t *testing.T) {
	t.Parallel()
	in := NewInbox("_INBOX", "test")
	for _, timeout := range []time.Duration{0, 1, time.Millisecond - 1, -1, -time.Hour, math.MinInt64} {
		info, ok := parseReply(in.ReplySubject(1, timeout, time.Now()), "_INBOX")
		if !ok || info.timeout != 0 {
			t.Errorf("%v was read as %v, %t", timeout, info.timeout, ok)
		}
	}
}

func TestInboxesDiffer(t *testing.T) {
	t.Parallel()
	a, b := NewInbox("_INBOX", "same"), NewInbox("_INBOX", "same")
	if a == b {
		t.Fatalf("two inboxes are %s", a)
	}
	if _, ok := a.CallNumber(b.ReplySubject(1, time.Second, time.Now())); ok {
		t.Error("one inbox takes the other's replies")
	}
	for _, subject := range []string{"", string(a), string(a) + "1", string(a) + ".x", string(a) + "!.x", string(a) + "-1.x", string(a[:5])} {
		if n, ok := a.CallNumber(subject); ok {
			t.Errorf("%q is call %d", subject, n)
		}
	}
}

// Other clients' inboxes say nothing about their calls.
func TestForeignReplies(t *testing.T) {
	t.Parallel()
	const nuid = "Vt2kNz0bXyQ8mF5cJ1hRgA"
	for what, rest := range map[string]string{
		"nats.go, new style":           nuid + ".a1B2c3",
		"nats.go, old style":           nuid,
		"nats CLI":                     nuid + "." + nuid,
		"Java":                         nuid + ".1",
		"Python":                       nuid + "." + nuid + ".",
		"three tokens":                 "a.b.c",
		"four tokens":                  "x-" + nuid + ".1.t5000-m.x",
		"four tokens, ours at the end": "x.x-" + nuid + ".1.t5000-m",
		"no dash in the inbox":         nuid + ".1.t5000-m",
		"no caller":                    "-" + nuid + ".1.t5000-m",
		"number not base 36":           "x-" + nuid + ".!.t5000-m",
		"number negative":              "x-" + nuid + ".-1.t5000-m",
		"number too large":             "x-" + nuid + ".zzzzzzzzzzzzzz.t5000-m",
		"no t":                         "x-" + nuid + ".1.5000-m",
		"no timeout":                   "x-" + nuid + ".1.t-mmm",
		"timeout not a number":         "x-" + nuid + ".1.tx-mmm",
		"timeout negative":             "x-" + nuid + ".1.t-5-m",
		"timeout with a sign":          "x-" + nuid + ".1.t+5-m",
		"timeout too large":            "x-" + nuid + ".1.t99999999999999999999-m",
		"no moment":                    "x-" + nuid + ".1.t5000-",
		"no dash in the last":          "x-" + nuid + ".1.t5000",
		"moment not base 36":           "x-" + nuid + ".1.t5000-!!",
		"moment negative":              "x-" + nuid + ".1.t5000--m",
		"moment beyond all clocks":     "x-" + nuid + ".1.t5000-zzzzzzzzzzzz",
		"empty tokens":                 "..t5000-m",
		"semicolon in the inbox":       "x;y-" + nuid + ".1.t5000-m",
		"not UTF-8 in the inbox":       "x\xff-" + nuid + ".1.t5000-m",
		"inbox of many bytes":          strings.Repeat("x", 200) + "-" + nuid + ".1.t5000-m",
	} {
		if info, ok := parseReply("_INBOX."+rest, "_INBOX"); ok {
			t.Errorf("%s: %q was read as %+v", what, rest, info)
		}
	}
	if _, ok := parseReply(nats.NewInbox(), "_INBOX"); ok {
		t.Error("an inbox of nats.go was read as ours")
	}
	if _, ok := parseReply("_INBOX.x-"+nuid+".1.t5000-m", "_INBOX"); !ok {
		t.Error("the form that all of these miss was not read")
	}
}

func TestUnderPrefix(t *testing.T) {
	t.Parallel()
	prefixes := []string{"_INBOX", "acme.inbox"}
	for _, test := range []struct{ reply, prefix string }{
		{"_INBOX.a", "_INBOX"},
		{"_INBOX.a.b.c.d", "_INBOX"},
		{"acme.inbox.a", "acme.inbox"},
		{"_INBOX.größe", "_INBOX"},
		{"_INBOX." + strings.Repeat("x", 512), "_INBOX"},

		{"", ""},
		{"_INBOX", ""},
		{"_INBOX.", ""},
		{"_INBOXX.a", ""},
		{"_INBO.a", ""},
		{"_inbox.a", ""},
		{"x._INBOX.a", ""},
		{"_INBOX/a", ""},
		{"acme.a", ""},
		{"acme.inboxx.a", ""},
		{"acme.inbox", ""},
		{"other.a", ""},
		{"$SYS.REQ.SERVER.PING", ""},
		{"$JS.API.STREAM.DELETE.ORDERS", ""},
		{"$KV.OBJECTS_cart.alice", ""},
		{"rpc.orders.place", ""},
		{"_INBOX.*", ""},
		{"_INBOX.>", ""},
		{"_INBOX.a*b", ""},
		{"_INBOX.a.>", ""},
		{"_INBOX.a b", ""},
		{"_INBOX.a\tb", ""},
		{"_INBOX.a\r\nPUB x 0\r\n", ""},
		{"_INBOX.a\x00", ""},
		{"_INBOX.a\x7f", ""},
		{"_INBOX..a", ""},
		{"_INBOX.a.", ""},
		{"_INBOX." + strings.Repeat("x", 513), ""},
	} {
		prefix, ok := underPrefix(test.reply, prefixes)
		if prefix != test.prefix || ok != (test.prefix != "") {
			t.Errorf("underPrefix(%q) = %q, %t; want %q", test.reply, prefix, ok, test.prefix)
		}
		if AllowedReply(test.reply, prefixes) != ok {
			t.Errorf("AllowedReply(%q) = %t", test.reply, !ok)
		}
	}
	if AllowedReply("_INBOX.a", nil) {
		t.Error("without prefixes there is a reply to answer to")
	}
}

// No byte gets past as part of a subject that would end it or widen it.
func TestUnderPrefixEveryByte(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		reply := "_INBOX.a" + string([]byte{byte(c)}) + "b"
		want := c > ' ' && c != '*' && c != '>' && c != 0x7f
		if got := AllowedReply(reply, []string{"_INBOX"}); got != want {
			t.Errorf("byte %#x: %t, want %t", c, got, want)
		}
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add("x-Vt2kNz0bXyQ8mF5cJ1hRgA.1.t5000-m4n5p6")
	f.Add("Vt2kNz0bXyQ8mF5cJ1hRgA.a1B2c3")
	f.Add("a-b.1.t1-1")
	f.Add("..")
	f.Fuzz(func(t *testing.T, rest string) {
		info, ok := parseReply("_INBOX."+rest, "_INBOX")
		if !ok {
			if info != (replyInfo{}) {
				t.Fatalf("%q was not read, but gives %+v", rest, info)
			}
			return
		}
		if info.timeout < 0 || info.timeout > MaxTimeout || ValidateID(info.identity) != nil ||
			info.caller == "" || strings.ContainsFunc(info.caller, notNameRune) || info.sent.UnixMilli() < 0 {
			t.Fatalf("%q was read as %+v", rest, info)
		}
		// The subject tells nothing that the parts do not.
		inbox, number, _ := strings.Cut(info.identity, ".")
		if !strings.HasPrefix(rest, inbox+"."+number+".t") || !strings.HasPrefix(inbox, info.caller+"-") {
			t.Fatalf("%q was read as %+v", rest, info)
		}
	})
}

func BenchmarkParseReply(b *testing.B) {
	reply := NewInbox("_INBOX", "shop").ReplySubject(123456, 5*time.Second, time.Now())
	prefixes := []string{"_INBOX"}
	for b.Loop() {
		prefix, ok := underPrefix(reply, prefixes)
		if !ok {
			b.Fatal(reply)
		}
		if _, ok := parseReply(reply, prefix); !ok {
			b.Fatal(reply)
		}
	}
}

func ExampleInbox_ReplySubject() {
	in := Inbox("_INBOX.shop-Vt2kNz0bXyQ8mF5cJ1hRgA.")
	fmt.Println(in.ReplySubject(100, 5*time.Second, time.UnixMilli(1_700_000_000_000)))
	// Output: _INBOX.shop-Vt2kNz0bXyQ8mF5cJ1hRgA.2s.t5000-loyw3v28
}
