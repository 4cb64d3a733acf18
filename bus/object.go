package bus

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"rpc.do"
)

// ObjectPrefix begins the subject of every call that goes straight to the
// owner of an object: $RPC.object.<class>.<slot>.<id>.<method>.
const ObjectPrefix = "$RPC.object."

// Slots is how many slots the objects of a class are spread over. A slot is
// what a member owns.
const Slots = 256

// Methods that the objects of every class have: the system's own.
const (
	// MethodDestroy deletes the object.
	MethodDestroy = "$destroy"
	// MethodAlarm runs the object's alarm, if it is due.
	MethodAlarm = "$alarm"
)

// SystemMethod reports whether name is one of the system's own methods.
func SystemMethod(name string) bool { return name == MethodDestroy || name == MethodAlarm }

// maxChain bounds how many object turns a call may be made from.
const maxChain = 64

// Slot returns the slot of an object: FNV-1a-32 of its id, modulo Slots.
func Slot(id string) int {
	h := uint32(2166136261)
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return int(h % Slots)
}

// ObjectSubject returns the subject of a call of a method of an object.
func ObjectSubject(class, id, method string) string {
	slot := Slot(id)
	var room [128]byte
	b := room[:0]
	b = append(b, ObjectPrefix...)
	b = append(b, class...)
	b = append(b, '.', hexDigits[slot>>4], hexDigits[slot&15], '.')
	b = appendEscaped(b, id)
	b = append(b, '.')
	b = append(b, method...)
	return string(b)
}

// SlotSubject returns the wildcard that covers all calls of a slot's objects.
func SlotSubject(class string, slot int) string {
	return ObjectPrefix + class + "." + SlotToken(slot) + ".>"
}

// SlotToken writes a slot as two lower-case hex digits.
func SlotToken(slot int) string {
	return string([]byte{hexDigits[slot>>4&15], hexDigits[slot&15]})
}

const (
	hexDigits   = "0123456789abcdef"
	upperDigits = "0123456789ABCDEF"
)

// Escape writes text as one token of a subject or key: every byte outside
// A-Z a-z 0-9 - becomes =XX, with upper-case hex digits.
func Escape(text string) string {
	for i := range len(text) {
		if !tokenByte(text[i]) {
			return string(appendEscaped(make([]byte, 0, len(text)+16), text))
		}
	}
	return text
}

func appendEscaped(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; tokenByte(c) {
			b = append(b, c)
		} else {
			b = append(b, '=', upperDigits[c>>4], upperDigits[c&15])
		}
	}
	return b
}

func tokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
}

var errNotEscaped = errors.New("want A-Z a-z 0-9 - and =XX for every other byte")

// Unescape reads what Escape wrote. There is one way to write a text, and any
// other is an error: two subjects never name the same object.
func Unescape(token string) (string, error) {
	plain := strings.IndexByte(token, '=') < 0
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		c := token[i]
		switch {
		case c == '=':
			if i+2 >= len(token) {
				return "", errNotEscaped
			}
			hi, lo := strings.IndexByte(upperDigits, token[i+1]), strings.IndexByte(upperDigits, token[i+2])
			if hi < 0 || lo < 0 || tokenByte(byte(hi<<4|lo)) {
				return "", errNotEscaped
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		case !tokenByte(c):
			return "", errNotEscaped
		case !plain:
			b.WriteByte(c)
		}
	}
	if plain {
		return token, nil
	}
	return b.String(), nil
}

// readObjectSubject reads what comes after ObjectPrefix in a subject.
func (req *Request) readObjectSubject(rest string) error {
	_, rest, _ = strings.Cut(rest, ".") // the class, which may have two names
	slot, rest, ok := strings.Cut(rest, ".")
	token, method, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 {
		return rpc.InvalidArgument.Errorf("subject: want %s<class>.<slot>.<id>.<method>", ObjectPrefix)
	}
	req.Method, req.Direct = method, true
	id, err := Unescape(token)
	if err != nil {
		return rpc.InvalidArgument.Errorf("subject: object id %.80q: %w", token, err)
	}
	if err := rpc.ValidateObjectID(id); err != nil {
		return rpc.InvalidArgument.Errorf("subject: %w", err)
	}
	if n := Slot(id); len(slot) != 2 || slot[0] != hexDigits[n>>4] || slot[1] != hexDigits[n&15] {
		return rpc.InvalidArgument.Errorf("subject: the object %.80q is in slot %s, not in %.8q", id, SlotToken(n), slot)
	}
	req.Object = id
	return nil
}

// Link names an object in a chain: "<class>/<id>", escaped.
func Link(class, id string) string { return class + "/" + Escape(id) }

// Chain writes the HeaderChain of a call made from these object turns.
func Chain(links []string) string { return strings.Join(links, ",") }

// parseChain reads what Chain wrote.
func parseChain(v string) ([]string, error) {
	links := strings.Split(v, ",")
	if len(links) > maxChain {
		return nil, rpc.FailedPrecondition.Errorf("header %s: a call made from %s object turns is a runaway; at most %d are allowed",
			HeaderChain, strconv.Itoa(len(links)), maxChain)
	}
	for _, link := range links {
		class, token, _ := strings.Cut(link, "/")
		if _, err := Unescape(token); err != nil || token == "" || rpc.ValidateService(class) != nil {
			return nil, rpc.InvalidArgument.Errorf("header %s: want <class>/<id>,…, got %.80q", HeaderChain, link)
		}
	}
	return links, nil
}

// ShowLink writes a link as a person would.
func ShowLink(link string) string {
	class, token, _ := strings.Cut(link, "/")
	id, err := Unescape(token)
	if err != nil {
		return link
	}
	return fmt.Sprintf("%s/%.80s", class, id)
}
