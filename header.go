package rpc

import (
	"maps"
	"strings"
	"unicode/utf8"
)

// Header is the metadata that a caller sends beside the params. Names are kept
// as written and looked up without regard to case.
type Header map[string][]string

// Get returns the first value of name, or "".
func (h Header) Get(name string) string {
	if v := h.Values(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Values returns all values of name.
func (h Header) Values(name string) []string {
	if v, ok := h[name]; ok {
		return v
	}
	for k, v := range h {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

// Set replaces the values of name.
func (h Header) Set(name, value string) {
	maps.DeleteFunc(h, func(k string, _ []string) bool { return k != name && strings.EqualFold(k, name) })
	h[name] = []string{value}
}

// ValidateHeader reports what is wrong with a metadata name or value: a name is
// an HTTP token (RFC 9110, 5.6.2) of at most 128 bytes that does not begin with
// "Rpc-" or "Nats-" and is not Content-Type; a value is UTF-8 text of at most
// 8 KiB without control characters other than tabs.
func ValidateHeader(name, value string) error {
	switch {
	case name == "" || len(name) > 128:
		return InvalidArgument.Errorf("header name %.40q: must have 1 to 128 bytes", name)
	case strings.IndexFunc(name, notToken) >= 0:
		return InvalidArgument.Errorf("header name %q: only letters, digits and !#$%%&'*+-.^_`|~ are allowed", name)
	case hasPrefixFold(name, "Rpc-"), hasPrefixFold(name, "Nats-"):
		return InvalidArgument.Errorf("header name %q: names that begin with Rpc- or Nats- are reserved", name)
	case strings.EqualFold(name, "Content-Type"):
		return InvalidArgument.Errorf("header Content-Type: it is the codec's and can't be set")
	case len(value) > 8<<10:
		return InvalidArgument.Errorf("header %s: a value has at most 8192 bytes, this one has %d", name, len(value))
	case !utf8.ValidString(value):
		return InvalidArgument.Errorf("header %s: the value is not valid UTF-8", name)
	case strings.IndexFunc(value, isControl) >= 0:
		return InvalidArgument.Errorf("header %s: a value can't contain control characters such as line ends", name)
	}
	return nil
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func notToken(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
