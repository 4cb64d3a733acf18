package pipeline

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"rpc.do"
	"rpc.do/bus"
)

// Pattern says which events, by their type: "User.registered" is that type alone,
// "User.*" and "*.created" are all types of two tokens with that one,
// "User.>" is all that begins with User, and "$.>" every event. A * stands for
// exactly one token, a > at the end for one or more. The zero Pattern matches no
// event.
type Pattern struct {
	text string // without "$."
}

// Wildcards of patterns and filters.
const (
	oneToken = "*"
	theRest  = ">"
)

// everyEvent is how the pattern that matches all is written.
const everyEvent = "$.>"

// maxPatternTokens is how many tokens an event has at most.
const maxPatternTokens = 6

// ParsePattern reads a pattern, with or without "$." before it. Its tokens other
// than wildcards are as in the names of events. An error is an InvalidArgument
// that says what is wrong, and what to write instead.
func ParsePattern(text string) (Pattern, error) {
	if err := checkPattern(text); err != nil {
		return Pattern{}, rpc.InvalidArgument.Errorf("pattern %.80q: %s", text, err.Message)
	}
	return Pattern{strings.TrimPrefix(text, "$.")}, nil
}

// String returns the pattern as ParsePattern reads it, without "$." in front
// unless it is the one for every event, "$.>".
func (p Pattern) String() string {
	if p.text == theRest {
		return everyEvent
	}
	return p.text
}

// Match reports whether the pattern takes in an event of that type, such as
// "User.registered".
func (p Pattern) Match(event string) bool {
	pattern, more := p.text, p.text != ""
	for more && event != "" {
		var want, have string
		want, pattern, more = strings.Cut(pattern, ".")
		if want == theRest {
			return true
		}
		var rest bool
		have, event, rest = strings.Cut(event, ".")
		if want != oneToken && want != have {
			return false
		}
		if more != rest {
			return false // one has ended before the other
		}
		if !more {
			return true
		}
	}
	return false
}

// checkPattern returns what is wrong with a pattern, nil when nothing is.
func checkPattern(text string) *rpc.Error {
	wrong := rpc.InvalidArgument.Errorf
	bare := strings.TrimPrefix(text, "$.")
	switch {
	case text == "":
		return wrong("it is empty: write a type such as User.registered, or %s for every event", everyEvent)
	case len(bare) > rpc.MaxEventName:
		return wrong("%d bytes are too long, at most %d are allowed", len(bare), rpc.MaxEventName)
	case text == "$":
		return wrong("$ is what all subjects of events begin with: write %s for every event", everyEvent)
	case text == theRest:
		return wrong("it would be more than events: write %s for every event", everyEvent)
	}
	tokens := strings.Split(bare, ".")
	for i, token := range tokens {
		if err := checkToken(tokens, i, token); err != nil {
			return err
		}
	}
	switch first := tokens[0]; {
	case len(tokens) > maxPatternTokens:
		return wrong("%d tokens: an event has 2 to %d; write > as the last one for any number", len(tokens), maxPatternTokens)
	case len(tokens) > 1 || first == theRest:
		return nil
	case first == oneToken:
		return wrong("one token: an event has two or more: write *.* for those of two, or %s for every event", everyEvent)
	default:
		return wrong("one token: an event has two or more: write %s.* for those of two, or $.%s.> for all that begin with %s", first, first, first)
	}
}

// checkToken returns what is wrong with the i-th token of a pattern.
func checkToken(tokens []string, i int, token string) *rpc.Error {
	wrong := rpc.InvalidArgument.Errorf
	switch {
	case token == "":
		return wrong("a token between dots is empty: write * there for any one")
	case token == theRest && i < len(tokens)-1:
		return wrong("> stands for all that follows, so it must be the last token: write * for a single one")
	case token == theRest || token == oneToken:
		return nil
	case token[0] == '_' || token[0] == '$':
		return wrong("token %q: names that begin with %c are the system's: leave it out", token, token[0])
	case strings.ContainsAny(token, oneToken+theRest):
		return wrong("token %q: a wildcard is a whole token: write * in its place", token)
	}
	for _, r := range token {
		switch {
		case unicode.IsSpace(r):
			return wrong("a space is not allowed: write a dot between tokens, as in User.registered")
		case r >= utf8.RuneSelf || !patternByte(byte(r)):
			return wrong("%q is not allowed, only A-Z a-z 0-9 _ - and the wildcards * and >: write * for a token that you can't name", r)
		}
	}
	return nil
}

func patternByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// filters returns the subjects of a consumer that gets all that the patterns
// match, sorted. The server refuses a filter that another covers, and of filters
// that overlap in part it miscounts what is pending, so what overlaps is replaced
// by something wider: the consumer may get more than the patterns match.
func filters(patterns []Pattern) []string {
	var all [][]string
	for _, p := range patterns {
		if p.text != "" {
			all = addFilter(all, strings.Split(p.text, "."))
		}
	}
	subjects := make([]string, len(all))
	for i, tokens := range all {
		subjects[i] = bus.EventSubject(strings.Join(tokens, "."))
	}
	slices.Sort(subjects)
	return subjects
}

// addFilter adds one to filters of which no two overlap, so that none does.
func addFilter(all [][]string, tokens []string) [][]string {
	for i := 0; i < len(all); i++ {
		if overlap(all[i], tokens) {
			tokens = generalise(all[i], tokens)
			all = slices.Delete(all, i, i+1)
			i = -1 // what is wider may overlap with those that did not
		}
	}
	return append(all, tokens)
}

// overlap reports whether there is a subject that both take in.
func overlap(a, b []string) bool {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == theRest || b[i] == theRest:
			return true
		case a[i] != b[i] && a[i] != oneToken && b[i] != oneToken:
			return false
		}
	}
	return len(a) == len(b)
}

// generalise returns what takes in all that either of two that overlap does:
// the wider one when it covers the other.
func generalise(a, b []string) []string {
	var wide []string
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == theRest || b[i] == theRest:
			return append(wide, theRest)
		case a[i] == b[i]:
			wide = append(wide, a[i])
		default:
			wide = append(wide, oneToken)
		}
	}
	return wide
}
