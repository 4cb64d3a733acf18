package rpc_test

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"rpc.do"
)

func TestHeaderLookup(t *testing.T) {
	t.Parallel()
	h := rpc.Header{"X-Tenant": {"acme", "other"}, "Empty": {}}
	for _, name := range []string{"X-Tenant", "x-tenant", "X-TENANT"} {
		if got := h.Get(name); got != "acme" {
			t.Errorf("Get(%q) = %q", name, got)
		}
		if got := h.Values(name); !slices.Equal(got, []string{"acme", "other"}) {
			t.Errorf("Values(%q) = %q", name, got)
		}
	}
	if h.Get("Empty") != "" || h.Get("absent") != "" || h.Values("absent") != nil {
		t.Error("there are values where there should be none")
	}
	var none rpc.Header
	if none.Get("x") != "" || none.Values("x") != nil {
		t.Error("a nil header has values")
	}
}

func TestHeaderExactNameFirst(t *testing.T) {
	t.Parallel()
	h := rpc.Header{"a": {"lower"}, "A": {"upper"}}
	if h.Get("a") != "lower" || h.Get("A") != "upper" {
		t.Errorf("a = %q, A = %q", h.Get("a"), h.Get("A"))
	}
}

func TestHeaderSet(t *testing.T) {
	t.Parallel()
	h := rpc.Header{"x-tenant": {"a", "b"}, "X-TENANT": {"c"}, "Other": {"d"}}
	h.Set("X-Tenant", "e")
	if len(h) != 2 || h.Get("x-tenant") != "e" || h.Get("Other") != "d" {
		t.Errorf("after Set: %v", h)
	}
	if _, ok := h["X-Tenant"]; !ok {
		t.Errorf("the name is not as written: %v", h)
	}
	h.Set("X-Tenant", "f")
	if got := h.Values("X-Tenant"); !slices.Equal(got, []string{"f"}) {
		t.Errorf("after the second Set: %q", got)
	}
}

func TestValidateHeader(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 128)
	for _, test := range []struct {
		what, name, value string
		ok                bool
	}{
		{"plain", "X-Tenant", "acme", true},
		{"lower case", "traceparent", "00-1-2-01", true},
		{"all kinds of token characters", "!#$%&'*+-.^_`|~09azAZ", "v", true},
		{"empty value", "X", "", true},
		{"tab", "X", "a\tb", true},
		{"other alphabets in a value", "X", "größer 世界", true},
		{"authorization", "Authorization", "Bearer x", true},
		{"longest name", long, "v", true},
		{"longest value", "X", strings.Repeat("v", 8<<10), true},
		{"Rpc without a dash", "Rpc", "v", true},
		{"Nats in the middle", "X-Nats-Y", "v", true},

		{"empty name", "", "v", false},
		{"name too long", long + "x", "v", false},
		{"value too long", "X", strings.Repeat("v", 8<<10+1), false},
		{"space in name", "a b", "v", false},
		{"colon in name", "a:b", "v", false},
		{"line end in name", "a\r\nRpc-Id: 1\r\nb", "v", false},
		{"other alphabets in a name", "größe", "v", false},
		{"name is not UTF-8", "a\xff", "v", false},
		{"replacement character in a name", "a\uFFFD", "v", false},
		{"value is not UTF-8", "X", "a\xff", false},
		{"CR", "X", "a\rb", false},
		{"LF", "X", "a\nb", false},
		{"CRLF and another header", "X", "a\r\nRpc-Caller: root", false},
		{"NUL", "X", "a\x00", false},
		{"DEL", "X", "a\x7f", false},
		{"ours", "Rpc-Caller", "v", false},
		{"ours in another case", "rPC-anything", "v", false},
		{"just the prefix", "rpc-", "v", false},
		{"NATS's", "Nats-Msg-Id", "v", false},
		{"NATS's in another case", "NATS-x", "v", false},
		{"the codec's", "content-type", "text/plain", false},
	} {
		err := rpc.ValidateHeader(test.name, test.value)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.what, err)
		}
		if err == nil {
			continue
		}
		if rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("%s: code %v", test.what, rpc.CodeOf(err))
		}
		if len(err.Error()) > 800 || strings.ContainsAny(err.Error(), "\r\n\x00") {
			t.Errorf("%s: the message %q is unfit for a log", test.what, err)
		}
	}
}

// A value may hold a token: it is never in the message.
func TestValidateHeaderKeepsValuesToItself(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"Bearer s3cret\n", strings.Repeat("s3cret", 2000)} {
		err := rpc.ValidateHeader("Authorization", value)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error is %v", err)
		}
	}
}

func FuzzValidateHeader(f *testing.F) {
	for _, s := range [][2]string{
		{"X-Tenant", "acme"}, {"Rpc-Id", "1"}, {"nats-x", ""}, {"a b", "c\r\nd"}, {"é", "\xff"}, {"", ""}, {"a\u212a", "\u2028"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		err := rpc.ValidateHeader(name, value)
		if err != nil {
			if rpc.CodeOf(err) != rpc.InvalidArgument {
				t.Fatalf("code %v", rpc.CodeOf(err))
			}
			return
		}
		if name == "" || len(name) > 128 || len(value) > 8<<10 {
			t.Fatalf("accepted %d bytes of name, %d of value", len(name), len(value))
		}
		for _, c := range []byte(name) {
			if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
				t.Fatalf("accepted the byte %q in the name %q", c, name)
			}
		}
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "rpc-") || strings.HasPrefix(lower, "nats-") || lower == "content-type" {
			t.Fatalf("accepted the reserved name %q", name)
		}
		for i := range len(value) {
			if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
				t.Fatalf("accepted the control character %#x in the value %q", c, value)
			}
		}
		if !utf8.ValidString(value) {
			t.Fatalf("accepted a value that is not UTF-8: %q", value)
		}
	})
}
