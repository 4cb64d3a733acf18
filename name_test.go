package rpc_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"rpc.do"
)

// tokens returns a name of n tokens, each with size letters.
func tokens(n, size int) string {
	return strings.TrimSuffix(strings.Repeat(strings.Repeat("x", size)+".", n), ".")
}

func TestSplitName(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, service, method string }{
		{"orders.place", "orders", "place"},
		{"math.add", "math", "add"},
		{"orders.v2.place", "orders", "v2.place"},
		{"todo-app.AdminEntrypoint.createUser", "todo-app", "AdminEntrypoint.createUser"},
		{"ai_worker-2.user.get", "ai_worker-2", "user.get"},
		{"a.b", "a", "b"},
		{"-.-", "-", "-"},
		{"0.9", "0", "9"},
		{tokens(1, 64) + "." + tokens(2, 95), tokens(1, 64), tokens(2, 95)},
		{"a." + tokens(16, 1), "a", tokens(16, 1)},
		{"a.fetcher", "a", "fetcher"},
		{"fetch.place", "fetch", "place"}, // only methods have reserved names
	} {
		service, method, err := rpc.SplitName(test.name)
		if err != nil || service != test.service || method != test.method {
			t.Errorf("SplitName(%q) = %q, %q, %v", test.name, service, method, err)
		}
	}
}

func TestSplitNameRefuses(t *testing.T) {
	t.Parallel()
	for what, name := range map[string]string{
		"empty":                     "",
		"no method":                 "orders",
		"empty service":             ".place",
		"empty method":              "orders.",
		"only a dot":                ".",
		"empty token":               "orders..place",
		"dot at the end":            "orders.place.",
		"star":                      "orders.*",
		"greater":                   "orders.>",
		"star in a token":           "orders.a*b",
		"space":                     "orders.a b",
		"tab":                       "orders.a\tb",
		"line end":                  "orders.place\r\nPUB x 0\r\n",
		"NUL":                       "orders.a\x00",
		"DEL":                       "orders.a\x7f",
		"system's service":          "_INBOX.x",
		"system's method":           "orders._place",
		"system's inner token":      "orders.v2._place",
		"dollar":                    "$SRV.PING",
		"dollar method":             "orders.$place",
		"letters of other scripts":  "orders.größe",
		"looks like a letter":       "orders.plаce", // a Cyrillic а
		"not UTF-8":                 "orders.\xff",
		"slash":                     "orders/place.x",
		"colon":                     "orders.a:b",
		"service too long":          tokens(1, 65) + ".a",
		"method too long":           "a." + tokens(2, 96),
		"too many tokens":           "a." + tokens(17, 1),
		"reserved: fetch":           "orders.fetch",
		"reserved: connect":         "orders.connect",
		"reserved: alarm":           "orders.alarm",
		"reserved: dup":             "orders.dup",
		"reserved: constructor":     "orders.constructor",
		"reserved: socket message":  "orders.webSocketMessage",
		"reserved: socket close":    "orders.webSocketClose",
		"reserved: socket error":    "orders.webSocketError",
		"a megabyte without a dot":  strings.Repeat("x", 1<<20),
		"a megabyte of dots":        strings.Repeat(".", 1<<20),
		"a megabyte in the service": strings.Repeat("x", 1<<20) + ".a",
	} {
		if service, method, err := rpc.SplitName(name); err == nil || service != "" || method != "" {
			t.Errorf("%s: %q, %q, %v", what, service, method, err)
		}
	}
}

func TestReservedMethod(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"fetch", "connect", "alarm", "dup", "constructor", "webSocketMessage", "webSocketClose", "webSocketError",
	} {
		if !rpc.ReservedMethod(name) {
			t.Errorf("%s is not reserved", name)
		}
		if rpc.ValidateMethod(name) == nil {
			t.Errorf("%s is a valid method", name)
		}
		if rpc.ValidateService(name) != nil {
			t.Errorf("%s is no valid service", name)
		}
	}
	for _, name := range []string{"", "Fetch", "fetch2", "v2.fetch"} {
		if rpc.ReservedMethod(name) {
			t.Errorf("%q is reserved", name)
		}
	}
}

func TestValidateService(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"orders": true, "ai-worker-production": true, "A_b": true, "9": true, "a_": true, tokens(1, 64): true,
		"": false, "a.b": false, "_a": false, "$a": false, "a b": false, "*": false, ">": false, tokens(1, 65): false,
	} {
		if err := rpc.ValidateService(name); (err == nil) != ok {
			t.Errorf("ValidateService(%q) = %v", name, err)
		}
	}
}

func TestValidateEvent(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"Order.placed": true, "User.purchased.Product": true, tokens(6, 1): true, tokens(2, 127): true,
		"": false, "Order": false, "Order.": false, ".placed": false, tokens(7, 1): false, tokens(2, 128): false,
		"Order.*": false, "Order.>": false, "$.Order": false, "Order._x": false, "Order.a b": false, "Order.a\n": false,
	} {
		if err := rpc.ValidateEvent(name); (err == nil) != ok {
			t.Errorf("ValidateEvent(%q) = %v", name, err)
		}
	}
}

func TestValidateObjectID(t *testing.T) {
	t.Parallel()
	for id, ok := range map[string]bool{
		"alice": true, "a b/c.d*>": true, "größer 世界": true, "_x": true, "\x00": true, "\r\n": true,
		strings.Repeat("x", 256): true, strings.Repeat("é", 128): true,
		"": false, strings.Repeat("x", 257): false, "\xff": false, "a\xc3": false, "\xed\xa0\x80": false,
	} {
		if err := rpc.ValidateObjectID(id); (err == nil) != ok {
			t.Errorf("ValidateObjectID(%q) = %v", id, err)
		}
	}
}

// A name comes from anywhere; what is said about it goes to logs.
func TestNameErrorsAreFitForALog(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"a\r\nb", "a.b\x1b[31m", strings.Repeat("x", 1<<20), strings.Repeat("x", 1<<20) + ".y",
		"a." + strings.Repeat("y", 1<<20), "a." + strings.Repeat("\xff", 1<<20),
	} {
		_, _, split := rpc.SplitName(name)
		for _, err := range []error{
			split, rpc.ValidateService(name), rpc.ValidateEvent(name), rpc.ValidateObjectID(strings.Repeat(name, 1+rpc.MaxObjectID/len(name))),
		} {
			if err == nil {
				continue // an event's name may be fine where a method's is not
			}
			if len(err.Error()) > 1500 {
				t.Errorf("%d bytes about a name of %d: %.100s…", len(err.Error()), len(name), err)
			}
			if strings.ContainsAny(err.Error(), "\r\n\x1b") {
				t.Errorf("control characters in %q", err)
			}
		}
	}
}

// holdsName fails unless name is safe as part of a subject.
func holdsName(t *testing.T, name string, minTokens, maxTokens, maxLen int) {
	t.Helper()
	if len(name) > maxLen || !utf8.ValidString(name) {
		t.Fatalf("accepted %d bytes: %q", len(name), name)
	}
	parts := strings.Split(name, ".")
	if len(parts) < minTokens || len(parts) > maxTokens {
		t.Fatalf("accepted %d tokens: %q", len(parts), name)
	}
	for _, token := range parts {
		if token == "" || token[0] == '_' || token[0] == '$' {
			t.Fatalf("accepted the token %q in %q", token, name)
		}
		for i := range len(token) {
			switch c := token[i]; {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
			default:
				t.Fatalf("accepted the byte %q in %q", c, name)
			}
		}
	}
}

func FuzzSplitName(f *testing.F) {
	for _, s := range []string{"orders.place", "a", "", "a..b", "a.>", "a.*", "_a.b", "a._b", "a.b c", "a.\xff", "a.fetch", "a.b.fetch", "ａ.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		service, method, err := rpc.SplitName(name)
		if err != nil {
			if service != "" || method != "" {
				t.Fatalf("%q, %q come with the error %v", service, method, err)
			}
			return
		}
		if service+"."+method != name {
			t.Fatalf("%q was split into %q and %q", name, service, method)
		}
		holdsName(t, service, 1, 1, rpc.MaxServiceName)
		holdsName(t, method, 1, 16, rpc.MaxMethodName)
		if rpc.ReservedMethod(method) {
			t.Fatalf("accepted the reserved method %q", method)
		}
	})
}

func FuzzValidateEvent(f *testing.F) {
	for _, s := range []string{"Order.placed", "Order", "", "$.Order.placed", "Order.>", "a.b.c.d.e.f.g", "a.\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if rpc.ValidateEvent(name) == nil {
			holdsName(t, name, 2, 6, rpc.MaxEventName)
		}
	})
}
