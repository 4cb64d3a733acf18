package bus

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nuid"
)

// MaxTimeout bounds the time of one call.
const MaxTimeout = 24 * time.Hour

// DefaultTimeout is the time of a call whose request does not say.
const DefaultTimeout = 5 * time.Second

// Inbox is the stem of a caller's reply subjects,
// "<prefix>.<caller>-<nuid>.". What a reply subject adds to it tells the call's
// identity, time and moment, so that the common call needs no headers.
type Inbox string

// NewInbox returns a fresh inbox below prefix for the caller with that name.
func NewInbox(prefix, caller string) Inbox {
	return Inbox(prefix + "." + caller + "-" + nuid.Next() + ".")
}

// Wildcard returns the subject that covers all replies to the inbox.
func (in Inbox) Wildcard() string { return string(in) + ">" }

// Identity returns the identity of call number n: the two middle tokens of its
// reply subject.
func (in Inbox) Identity(prefix string, n uint64) string {
	return string(in[len(prefix)+1:]) + strconv.FormatUint(n, 36)
}

// ReplySubject returns the reply subject of call number n:
// "<prefix>.<caller>-<nuid>.<n>.t<timeout ms>-<sent, unix ms>", with n and sent
// in base 36.
func (in Inbox) ReplySubject(n uint64, timeout time.Duration, sent time.Time) string {
	var room [128]byte
	buf := append(room[:0], in...)
	buf = strconv.AppendUint(buf, n, 36)
	buf = append(buf, ".t"...)
	buf = strconv.AppendInt(buf, max(timeout, 0).Milliseconds(), 10)
	buf = append(buf, '-')
	buf = strconv.AppendInt(buf, sent.UnixMilli(), 36)
	return string(buf)
}

// CallNumber returns the number of the call that a reply on subject belongs to.
func (in Inbox) CallNumber(subject string) (uint64, bool) {
	rest, ok := strings.CutPrefix(subject, string(in))
	if !ok {
		return 0, false
	}
	number, _, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(number, 36, 64)
	return n, err == nil
}

// maxInboxToken has room for the longest name, a dash and a nuid, and keeps an
// identity within what ValidateID allows.
const maxInboxToken = 128

// replyInfo is what a reply subject says of its call.
type replyInfo struct {
	identity string
	caller   string
	timeout  time.Duration
	sent     time.Time
}

// parseReply reads a reply subject of the form ReplySubject writes. It reports
// false for any other, such as the inboxes of plain NATS clients.
func parseReply(reply, prefix string) (replyInfo, bool) {
	rest := reply[len(prefix)+1:]
	inbox, rest, ok := strings.Cut(rest, ".")
	if !ok {
		return replyInfo{}, false
	}
	number, last, ok := strings.Cut(rest, ".")
	if !ok || len(last) < 4 || last[0] != 't' {
		return replyInfo{}, false
	}
	dash := strings.LastIndexByte(inbox, '-')
	if dash <= 0 || len(inbox) > maxInboxToken || strings.ContainsFunc(inbox, notNameRune) {
		return replyInfo{}, false
	}
	if _, err := strconv.ParseUint(number, 36, 64); err != nil {
		return replyInfo{}, false
	}
	millis, sent, ok := strings.Cut(last[1:], "-")
	if !ok {
		return replyInfo{}, false
	}
	timeout, err := strconv.ParseUint(millis, 10, 63)
	if err != nil {
		return replyInfo{}, false
	}
	at, err := strconv.ParseUint(sent, 36, 50)
	if err != nil {
		return replyInfo{}, false
	}
	return replyInfo{
		identity: reply[len(prefix)+1 : len(reply)-len(last)-1],
		caller:   inbox[:dash],
		timeout:  clampTimeout(timeout),
		sent:     time.UnixMilli(int64(at)),
	}, true
}

func clampTimeout(millis uint64) time.Duration {
	return time.Duration(min(millis, uint64(MaxTimeout/time.Millisecond))) * time.Millisecond
}

// AllowedReply reports whether a service with these prefixes may answer to
// reply: it lies below one of them and names one place.
func AllowedReply(reply string, prefixes []string) bool {
	_, ok := underPrefix(reply, prefixes)
	return ok
}

// underPrefix reports whether a reply subject is one that a service may answer
// to: below one of the prefixes, and a subject that names one place.
func underPrefix(reply string, prefixes []string) (string, bool) {
	longest := ""
	for _, p := range prefixes {
		if len(p) > len(longest) && len(reply) > len(p)+1 && reply[len(p)] == '.' && reply[:len(p)] == p {
			longest = p
		}
	}
	if longest == "" || !plainSubject(reply[len(longest)+1:]) {
		return "", false
	}
	return longest, true
}

// notPlain has the bytes that a subject which names one place can't have:
// white space and control characters, and the wildcards.
var notPlain = func() (bytes [256]bool) {
	for c := range ' ' + 1 {
		bytes[c] = true
	}
	bytes['*'], bytes['>'], bytes[0x7f] = true, true, true
	return bytes
}()

func plainSubject(s string) bool {
	if len(s) > 512 {
		return false
	}
	for i := range len(s) {
		if notPlain[s[i]] {
			return false
		}
	}
	return s[0] != '.' && s[len(s)-1] != '.'
}
