package rpc

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits on names, in bytes.
const (
	MaxServiceName = 64
	MaxMethodName  = 192
	MaxObjectID    = 256
	MaxEventName   = 256
)

// reserved names can't be methods: they mean something else in the systems this
// contract can be bridged to.
var reserved = map[string]bool{
	"fetch": true, "connect": true, "alarm": true, "dup": true, "constructor": true,
	"webSocketMessage": true, "webSocketClose": true, "webSocketError": true,
}

// ReservedMethod reports whether no method may have the name.
func ReservedMethod(name string) bool { return reserved[name] }

// SplitName splits "<service>.<method>" at the first dot and checks both parts.
func SplitName(name string) (service, method string, err error) {
	service, method, ok := strings.Cut(name, ".")
	if !ok {
		return "", "", fmt.Errorf("name %.80q: want <service>.<method>, such as orders.place", name)
	}
	if err := ValidateService(service); err != nil {
		return "", "", err
	}
	if err := ValidateMethod(method); err != nil {
		return "", "", err
	}
	return service, method, nil
}

// ValidateService checks the name of a service or class: one token of letters,
// digits, _ and -, at most 64 bytes, that does not begin with _.
func ValidateService(name string) error {
	if err := checkTokens(name, 1, 1, MaxServiceName); err != nil {
		return fmt.Errorf("service name %.80q: %w", name, err)
	}
	return nil
}

// ValidateMethod checks the name of a method: tokens of letters, digits, _ and
// - joined by dots, at most 192 bytes, no token beginning with _, and not one
// of the reserved names.
func ValidateMethod(name string) error {
	if reserved[name] {
		return fmt.Errorf("method name %q is reserved", name)
	}
	if err := checkTokens(name, 1, 16, MaxMethodName); err != nil {
		return fmt.Errorf("method name %.80q: %w", name, err)
	}
	return nil
}

// ValidateEvent checks the name of an event: two to six tokens of letters,
// digits, _ and - joined by dots, at most 256 bytes.
func ValidateEvent(name string) error {
	if err := checkTokens(name, 2, 6, MaxEventName); err != nil {
		return fmt.Errorf("event name %.80q: %w", name, err)
	}
	return nil
}

// ValidateObjectID checks the id of an object: any UTF-8 text of 1 to 256 bytes.
func ValidateObjectID(id string) error {
	switch {
	case id == "":
		return errors.New("the object's id is empty")
	case len(id) > MaxObjectID:
		return fmt.Errorf("object id %.40q…: %d bytes are too long, at most %d are allowed", id, len(id), MaxObjectID)
	case !utf8.ValidString(id):
		return fmt.Errorf("object id %q: not valid UTF-8", id)
	}
	return nil
}

func checkTokens(name string, minTokens, maxTokens, maxLen int) error {
	if name == "" {
		return errors.New("it is empty")
	}
	if len(name) > maxLen {
		return fmt.Errorf("%d bytes are too long, at most %d are allowed", len(name), maxLen)
	}
	tokens, begin := 1, 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if i == begin {
				return errEmptyToken
			}
			tokens++
			begin = i + 1
		case i == begin && (c == '_' || c == '$'):
			return fmt.Errorf("names that begin with %c are the system's", c)
		case !nameByte(c):
			r, _ := utf8.DecodeRuneInString(name[i:])
			return fmt.Errorf("%q is not allowed, only A-Z a-z 0-9 _ -", r)
		}
	}
	if begin == len(name) {
		return errEmptyToken
	}
	if tokens < minTokens || tokens > maxTokens {
		if maxTokens == 1 {
			return errors.New("it must be one token, without dots")
		}
		return fmt.Errorf("%d tokens; %d to %d are allowed", tokens, minTokens, maxTokens)
	}
	return nil
}

var errEmptyToken = errors.New("a token between dots is empty")

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}
