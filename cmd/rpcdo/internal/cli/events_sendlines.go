package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"rpc.do"
	"rpc.do/pipeline"
)

// maxLines is how many lines are sent at once at most, maxLineBytes how large they
// are together.
const (
	maxLines     = 1000
	maxLineBytes = 4 << 20
)

// line is one line of stdin.
type line struct {
	number int
	data   []byte
	err    error // of reading it
}

// lineReader reads lines of stdin. A read of a terminal can't be interrupted: the
// goroutine is left behind then, and ends with the program.
type lineReader struct {
	lines   chan line
	pending *line // read, and not taken
}

func readLines(ctx context.Context, in io.Reader) *lineReader {
	r := &lineReader{lines: make(chan line, maxLines)}
	go func() {
		defer close(r.lines)
		buffered := bufio.NewReader(in)
		for n := 1; ; n++ {
			data, err := readLine(buffered)
			if len(data) > 0 || err != nil && err != io.EOF {
				select {
				case r.lines <- line{n, data, errNot(err, io.EOF)}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return r
}

// readLine returns a line without space at its ends. The line is bounded as stdin
// is elsewhere.
func readLine(in *bufio.Reader) (data []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		data = append(data, part...)
		if len(data) > maxInput {
			return nil, failf(rpc.ResourceExhausted, "the line has more than %d bytes, no bus takes that much", maxInput)
		}
		if err != bufio.ErrBufferFull {
			return bytes.TrimSpace(data), err
		}
	}
}

func errNot(err, other error) error {
	if err == other {
		return nil
	}
	return err
}

// next returns the lines that are there, one at least; none at the end.
func (r *lineReader) next(ctx context.Context) (lines []line, err error) {
	size := 0
	take := func(l line) bool {
		if len(lines) > 0 && size+len(l.data) > maxLineBytes {
			r.pending = &l
			return false
		}
		lines, size = append(lines, l), size+len(l.data)
		return len(lines) < maxLines
	}
	if l := r.pending; l != nil {
		r.pending = nil
		take(*l)
	} else {
		select {
		case l, ok := <-r.lines:
			if !ok {
				return nil, nil
			}
			take(l)
		case <-ctx.Done():
			return nil, failf(rpc.Canceled, "interrupted while reading stdin")
		}
	}
	for {
		select {
		case l, ok := <-r.lines:
			if !ok || !take(l) {
				return lines, nil
			}
		default:
			return lines, nil
		}
	}
}

// linesSender sends the lines of stdin as events.
type linesSender struct {
	app      *app
	pipeline *pipeline.Pipeline
	event    string
	flags    *sendFlags
	options  []pipeline.SendOption

	stored, repeated, failed int
	first, last              uint64 // sequences
	firstError               error
	progress                 progress
}

func (a *app) runSendLines(ctx context.Context, f *sendFlags, event string) error {
	for _, flag := range []string{"id", "dedupe", "expect", "at", "after"} {
		if f.given(flag) {
			return usagef("--%s is for one event, and --lines sends several", flag)
		}
	}
	opts, err := f.options()
	if err != nil {
		return err
	}
	return a.withEvents(ctx, &f.connection, func(p *pipeline.Pipeline) error {
		s := &linesSender{app: a, pipeline: p, event: event, flags: f, options: opts, progress: progress{app: a}}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		in := readLines(ctx, a.env.In)
		for {
			lines, err := in.next(ctx)
			if err == nil && len(lines) > 0 {
				err = s.send(ctx, lines)
			}
			if err != nil || len(lines) == 0 {
				s.progress.end()
				return s.end(err)
			}
			s.progress.show("sent %d events", s.stored+s.repeated)
		}
	})
}

// send sends some lines, and tells of them in their order. Its error ends it all.
func (s *linesSender) send(ctx context.Context, lines []line) error {
	items, wrong := make([]pipeline.Item, 0, len(lines)), map[int]error{}
	for _, l := range lines {
		if l.err != nil {
			return fmt.Errorf("reading stdin, line %d: %w", l.number, l.err)
		}
		if err := checkJSON("", l.data); err != nil {
			wrong[l.number] = usagef("%s", strings.TrimPrefix(strings.Replace(err.Error(), " at line 1, column", " at column", 1), ": "))
			continue
		}
		items = append(items, pipeline.Item{Event: s.event, Data: json.RawMessage(l.data), Options: s.options})
	}
	ctx, cancel := context.WithTimeout(ctx, s.flags.timeout)
	defer cancel()
	receipts, err := s.pipeline.SendBatch(ctx, items)
	failed := map[int]error{} // by index
	if batch, ok := errors.AsType[*pipeline.BatchError](err); ok {
		for _, f := range batch.Failed {
			failed[f.Index] = f.Err
		}
	} else if err != nil {
		return asUsage(err)
	}
	sent := 0
	for _, l := range lines {
		err := wrong[l.number]
		if err == nil {
			if err = failed[sent]; err == nil {
				err = s.note(l.number, receipts[sent])
			} else {
				err = s.fail(l.number, err)
			}
			sent++
		} else {
			err = s.fail(l.number, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// note takes in what was stored.
func (s *linesSender) note(number int, r pipeline.Receipt) error {
	if r.Duplicate {
		s.repeated++
	} else {
		if s.stored == 0 {
			s.first = r.Sequence
		}
		s.stored, s.last = s.stored+1, r.Sequence
	}
	if s.app.json {
		return s.app.printJSON(sentLine{number, r})
	}
	return nil
}

// fail tells of a line that was not sent.
func (s *linesSender) fail(number int, err error) error {
	s.failed++
	if s.firstError == nil {
		s.firstError = err
	}
	p := describe(err)
	if s.app.json {
		return s.app.printJSON(failedLine{number, p})
	}
	s.progress.end()
	s.app.note("rpcdo: line %d: %s", number, p.Message)
	return nil
}

// end says what all came to. Err is what ended it early.
func (s *linesSender) end(err error) error {
	if !s.app.json && s.stored+s.repeated > 0 {
		text := "stored " + counted(s.stored, "event")
		if s.stored > 0 {
			text += fmt.Sprintf(", sequences %d to %d", s.first, s.last)
		}
		if s.repeated > 0 {
			text += fmt.Sprintf("; %d were stored already", s.repeated)
		}
		if _, printed := fmt.Fprintln(s.app.env.Out, text); printed != nil {
			return printed
		}
	}
	switch {
	case err != nil:
		return err
	case s.failed > 0:
		return failf(codeOf(s.firstError), "%d of %d lines were not sent", s.failed, s.failed+s.stored+s.repeated)
	case s.stored+s.repeated == 0:
		s.app.note("rpcdo: there is nothing on stdin: nothing was sent")
	}
	return nil
}
