package bus

import (
	"errors"
	"hash/fnv"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
)

// odd are ids that are hard on subjects and keys.
var odd = []string{
	"a", "A", "alice", "a.b", ".", "..", " ", "a b", "_", "_out", "*", ">", "a.>", "=", "=61", "a=2Eb", "-", "$", "%41", "/", "\\", `"`, ",", "a,b/c",
	"\x00", "\n", "\r\n", "\x7f", "ü", "日本語", "👩‍👩‍👧", "\u2028", "\ufffd", strings.Repeat("x", 256), strings.Repeat(".", 256), strings.Repeat("€", 85) + "!",
}

// What others compute by the page on the wire format.
func TestObjectSubjects(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		ObjectSubject("counter", "alice", "increment"): "$RPC.object.counter.e7.alice.increment",
		ObjectSubject("cart", "a.b c", "v2.add"):       "$RPC.object.cart.65.a=2Eb=20c.v2.add",
		ObjectSubject("cart", "ü_", "add"):             "$RPC.object.cart.0f.=C3=BC=5F.add",
		SlotSubject("cart", 0):                         "$RPC.object.cart.00.>",
		SlotSubject("cart", 255):                       "$RPC.object.cart.ff.>",
		SlotToken(10):                                  "0a",
		Link("cart", "a/b,c"):                          "cart/a=2Fb=2Cc",
		Chain([]string{"a/b", "c/d"}):                  "a/b,c/d",
		ShowLink(Link("cart", "a/b ü")):                "cart/a/b ü",
		ShowLink("cart/=zz"):                           "cart/=zz",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	used := map[int]bool{}
	for _, id := range odd {
		h := fnv.New32a()
		h.Write([]byte(id))
		if got, want := Slot(id), int(h.Sum32()%256); got != want {
			t.Errorf("slot of %q: %d, want %d", id, got, want)
		}
		used[Slot(id)] = true
		if prefix := strings.TrimSuffix(SlotSubject("c", Slot(id)), ">"); !strings.HasPrefix(ObjectSubject("c", id, "m"), prefix) {
			t.Errorf("%q is not below %s", id, prefix)
		}
	}
	if len(used) < len(odd)/2 {
		t.Errorf("%d ids share %d slots", len(odd), len(used))
	}
}

func TestEscape(t *testing.T) {
	t.Parallel()
	tokens := map[string]string{}
	for _, id := range odd {
		token := Escape(id)
		if other, taken := tokens[token]; taken {
			t.Errorf("%q and %q are both written %s", id, other, token)
		}
		tokens[token] = id
		if back, err := Unescape(token); err != nil || back != id {
			t.Errorf("%q became %s, and that %q, %v", id, token, back, err)
		}
	}
	for c := range 256 {
		text := string([]byte{'x', byte(c), 'y'})
		if back, err := Unescape(Escape(text)); err != nil || back != text {
			t.Errorf("byte %#x: %q, %v", c, back, err)
		}
		if plain := strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-", rune(c)); plain != (Escape(text) == text) {
			t.Errorf("byte %#x is written %s", c, Escape(text))
		}
	}
	for _, bad := range []string{
		"_", "a_b", "a.b", " ", "ü", "=", "=4", "a=", "a=2", "=2e", "=ag", "=GG", "==3D", "=61", "=2D", "=39", "=41x", "a\x00", "=2E=", "*", ">",
	} {
		if text, err := Unescape(bad); err == nil {
			t.Errorf("%q was read as %q", bad, text)
		}
	}
}

// objectRequest is a message for an object of the class cart.
func objectRequest(subject string, header nats.Header) *nats.Msg {
	return &nats.Msg{Subject: subject, Reply: "_INBOX.abc.def", Header: header, Data: []byte(`{}`)}
}

func TestParseObjectRequest(t *testing.T) {
	t.Parallel()
	for _, id := range odd {
		for _, method := range []string{"add", "v2.add", MethodDestroy, MethodAlarm} {
			req, err := ParseRequest(objectRequest(ObjectSubject("cart", id, method), nats.Header{"Rpc-Chain": {"cart/a,cart/=2E"}}), "cart", inboxes)
			want := Request{
				Method: method, Object: id, Direct: true, Chain: []string{"cart/a", "cart/=2E"},
				Reply: "_INBOX.abc.def", Attempt: 1, Timeout: DefaultTimeout, Payload: []byte(`{}`),
			}
			if err != nil || !reflect.DeepEqual(req, want) {
				t.Errorf("%q %s: %v\ngot  %+v\nwant %+v", id, method, err, req, want)
			}
		}
	}

	// The subject says which object it is; a class has its former name as well.
	req, err := ParseRequest(objectRequest(ObjectSubject("basket", "alice", "add"), nats.Header{"Rpc-Object": {"bob"}}), "cart", inboxes)
	if err != nil || req.Object != "alice" || req.Method != "add" || !req.Direct {
		t.Errorf("%+v, %v", req, err)
	}
	req, err = ParseRequest(objectRequest("rpc.cart.add", nats.Header{"Rpc-Object": {"bob"}}), "cart", inboxes)
	if err != nil || req.Object != "bob" || req.Method != "add" || req.Direct {
		t.Errorf("%+v, %v", req, err)
	}
	// A call is made once, unless it has an identity of the caller's own.
	ours := NewInbox("_INBOX", "shop").ReplySubject(7, time.Second, time.Now())
	for header, once := range map[string]bool{"": true, "mine": false, "mine;age=5": false} {
		msg := objectRequest(ObjectSubject("cart", "alice", "add"), nil)
		if msg.Reply = ours; header != "" {
			msg.Header = nats.Header{"Rpc-Id": {header}}
		}
		if req, err := ParseRequest(msg, "cart", inboxes); err != nil || req.Once != once {
			t.Errorf("%q: %+v, %v", header, req, err)
		}
	}
}

func TestParseObjectRequestMalformed(t *testing.T) {
	t.Parallel()
	for subject, text := range map[string]string{
		"$RPC.object.":                                               "want $RPC.object.<class>.<slot>.<id>.<method>",
		"$RPC.object.cart":                                           "want $RPC.object",
		"$RPC.object.cart.e7":                                        "want $RPC.object",
		"$RPC.object.cart.e7.alice":                                  "want $RPC.object",
		"$RPC.object.cart.00.alice.add":                              "in slot e7, not in",
		"$RPC.object.cart.E7.alice.add":                              "in slot e7, not in",
		"$RPC.object.cart.e70.alice.add":                             "in slot e7, not in",
		"$RPC.object.cart..alice.add":                                "in slot e7, not in",
		"$RPC.object.cart.00..add":                                   "empty",
		"$RPC.object.cart.e7.=61lice.add":                            "=61lice",
		"$RPC.object.cart.c4._.add":                                  "A-Z a-z 0-9 -",
		"$RPC.object.cart.00.=FF.add":                                "UTF-8",
		"$RPC.object.cart.00.=C3.add":                                "UTF-8",
		ObjectSubject("cart", strings.Repeat("x", 257), "add"):       "257 bytes",
		"$RPC.object.cart.00." + strings.Repeat("=2E", 257) + ".add": "257 bytes",
	} {
		_, err := ParseRequest(objectRequest(subject, nil), "cart", inboxes)
		if rpc.CodeOf(err) != rpc.InvalidArgument || !strings.Contains(err.Error(), text) || len(err.Error()) > 400 {
			t.Errorf("%s: %v, want InvalidArgument that says %q", subject, err, text)
		}
	}
	links := make([]string, maxChain+1)
	for i := range links {
		links[i] = "cart/a"
	}
	for chain, code := range map[string]rpc.Code{
		Chain(links[1:]): 0, Chain(links): rpc.FailedPrecondition, "cart/a": 0,
		"cart": rpc.InvalidArgument, "cart/": rpc.InvalidArgument, "/a": rpc.InvalidArgument, ",": rpc.InvalidArgument,
		"cart/a,": rpc.InvalidArgument, "cart/a b": rpc.InvalidArgument, "cart/=61": rpc.InvalidArgument, "ca.rt/a": rpc.InvalidArgument,
	} {
		_, err := ParseRequest(objectRequest(ObjectSubject("cart", "alice", "add"), nats.Header{"Rpc-Chain": {chain}}), "cart", inboxes)
		if code == 0 && err != nil || code != 0 && rpc.CodeOf(err) != code {
			t.Errorf("chain %.40q: %v, want %v", chain, err, code)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, id := range odd {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token := Escape(text)
		if back, err := Unescape(token); err != nil || back != text {
			t.Fatalf("%q became %s, and that %q, %v", text, token, back, err)
		}
		for i := range len(token) {
			if c := token[i]; c != '=' && !tokenByte(c) {
				t.Fatalf("%q is written %q", text, token)
			}
		}
		// Nothing else is read as the same text.
		if back, err := Unescape(text); err == nil && Escape(back) != text {
			t.Fatalf("%q is read as %q, which is written %q", text, back, Escape(back))
		}
	})
}

func FuzzParseObjectRequest(f *testing.F) {
	for _, id := range odd {
		f.Add(strings.TrimPrefix(ObjectSubject("cart", id, "add"), ObjectPrefix), "Rpc-Chain: "+Link("cart", id))
	}
	f.Add("cart.e7.alice.v2.add", "Rpc-Id: x;age=5\nRpc-Object: bob")
	f.Add("cart.00.=61.$destroy", "Rpc-Chain: a/b,c/=2E,")
	f.Add("...", "rpc-chain: ,")
	f.Fuzz(func(t *testing.T, rest, header string) {
		msg := objectRequest(ObjectPrefix+rest, headerOf(header))
		before := maps.Clone(msg.Header)
		req, err := ParseRequest(msg, "cart", inboxes)
		if !reflect.DeepEqual(msg.Header, before) {
			t.Fatalf("the message was changed: %v", msg.Header)
		}
		if err != nil {
			e, ok := errors.AsType[*rpc.Error](err)
			if !ok || e.Code != rpc.InvalidArgument && e.Code != rpc.FailedPrecondition || len(e.Message) > 2000 {
				t.Fatalf("err = %v", err)
			}
			return
		}
		class, _, _ := strings.Cut(rest, ".")
		switch {
		case !req.Direct || rpc.ValidateObjectID(req.Object) != nil:
			t.Fatalf("object %q", req.Object)
		case ObjectSubject(class, req.Object, req.Method) != msg.Subject:
			t.Fatalf("%q is read as the method %q of %q, which has another subject", msg.Subject, req.Method, req.Object)
		case len(req.Chain) > maxChain:
			t.Fatalf("a chain of %d", len(req.Chain))
		case req.Chain != nil && !slices.Contains(msg.Header[HeaderChain], Chain(req.Chain)):
			t.Fatalf("chain %q of %q", req.Chain, msg.Header[HeaderChain])
		}
		for _, link := range req.Chain {
			class, token, _ := strings.Cut(link, "/")
			if id, err := Unescape(token); err != nil || Link(class, id) != link {
				t.Fatalf("link %q", link)
			}
		}
	})
}
