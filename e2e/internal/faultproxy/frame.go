package faultproxy

import (
	"bytes"
	"strconv"
)

// Side is one of the two that a proxy stands between.
type Side int

const (
	// Client is the one that has connected to the proxy.
	Client Side = iota + 1

	// Server is the one that the proxy has connected to.
	Server
)

// String returns "client" or "server".
func (s Side) String() string {
	switch s {
	case Client:
		return "client"
	case Server:
		return "server"
	default:
		return "side(" + strconv.Itoa(int(s)) + ")"
	}
}

// maxLine is the length of the longest line that is looked at. Servers take
// control lines of 4 KiB by default; longer ones pass unread.
const maxLine = 64 << 10

// maxSize is the size of the largest message: servers can't be set to take
// larger ones.
const maxSize = 64 << 20

// frame is what the line before a message says of it.
type frame struct {
	subject []byte
	reply   []byte
	size    int // of headers and payload, without the line end that follows
}

// begins reports whether the line is one of those that a message follows when
// it comes from that side, with how many arguments at least, and whether the
// message has headers.
func (s Side) begins(line []byte) (least int, headers, message bool) {
	i := bytes.IndexAny(line, " \t\r\n")
	if i < 0 || i > len("HPUB") {
		return 0, false, false
	}
	switch verb := bytes.ToUpper(line[:i]); {
	case s == Client && string(verb) == "PUB":
		return 2, false, true // subject [reply] size
	case s == Client && string(verb) == "HPUB":
		return 3, true, true // subject [reply] header-size size
	case s == Server && string(verb) == "MSG":
		return 3, false, true // subject sid [reply] size
	case s == Server && string(verb) == "HMSG":
		return 4, true, true // subject sid [reply] header-size size
	}
	return 0, false, false
}

// parse reads the line before a message from that side. The frame lasts as long
// as the line. After a line that should be one and can't be read, ok is false:
// it is not known where the next line begins.
func (s Side) parse(line []byte) (f frame, message, ok bool) {
	least, headers, message := s.begins(line)
	if !message {
		return frame{}, false, true
	}
	args := bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' })[1:]
	if len(args) != least && len(args) != least+1 {
		return frame{}, true, false
	}
	f.subject = args[0]
	sizes := args[len(args)-1:]
	if headers {
		sizes = args[len(args)-2:]
	}
	if len(args) > least {
		f.reply = args[len(args)-len(sizes)-1]
	}
	for _, text := range sizes { // that of the headers is part of the other
		size, ok := parseSize(text)
		if !ok || size < f.size {
			return frame{}, true, false
		}
		f.size = size
	}
	return f, true, true
}

func parseSize(digits []byte) (int, bool) {
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(string(digits))
	return n, err == nil && n <= maxSize
}
