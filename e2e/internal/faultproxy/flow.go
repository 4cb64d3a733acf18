package faultproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// What ends a flow other than an end of what comes in.
var (
	errSwallowed = errors.New("faultproxy: what comes is not to be passed on")
	errNotTaken  = errors.New("faultproxy: not taken")
)

// flow is one direction of a connection.
type flow struct {
	c      *conn
	from   Side
	in     *bufio.Reader
	out    *bufio.Writer
	chance map[*Active]*rand.Rand
}

func newFlow(c *conn, from Side, in io.Reader, out io.Writer) *flow {
	f := &flow{c: c, from: from, out: bufio.NewWriterSize(taker{out}, maxLine), chance: map[*Active]*rand.Rand{}}
	f.in = bufio.NewReaderSize(flushFirst{in, f.out}, maxLine)
	return f
}

// flushFirst sends what is ready before it waits for more.
type flushFirst struct {
	in  io.Reader
	out *bufio.Writer
}

func (f flushFirst) Read(p []byte) (int, error) {
	if err := f.out.Flush(); err != nil {
		return 0, err
	}
	return f.in.Read(p)
}

// taker tells errors of writing from those of reading.
type taker struct{ io.Writer }

func (t taker) Write(p []byte) (int, error) {
	n, err := t.Writer.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errNotTaken, err)
	}
	return n, err
}

// run passes on what comes, message by message. It returns io.EOF when that
// ended and all of it was passed on.
func (f *flow) run() error {
	for {
		line, err := f.in.ReadSlice('\n')
		if gateErr := f.gate(); gateErr != nil {
			return gateErr
		}
		switch {
		case err == nil:
			err = f.line(line)
		case errors.Is(err, bufio.ErrBufferFull):
			err = f.longLine(line)
		default:
			if _, writeErr := f.out.Write(line); writeErr != nil {
				return writeErr
			}
			err = f.ended(err)
		}
		if err != nil {
			return err
		}
	}
}

// gate waits while the proxy holds back what comes. It fails when nothing more
// is to be passed on.
func (f *flow) gate() error {
	if f.c.open() {
		return nil
	}
	if err := f.out.Flush(); err != nil {
		return err
	}
	if !f.c.gate() {
		return errSwallowed
	}
	return nil
}

// line passes on a line and the message that follows it, if one does, unless a
// rule says otherwise.
func (f *flow) line(line []byte) error {
	frame, message, ok := f.from.parse(line)
	if !ok {
		return f.unread(line)
	}
	if !message {
		_, err := f.out.Write(line)
		return err
	}
	count := &f.c.p.stats.side[f.from]
	count.messages.Add(1)
	switch action, delay := f.decide(frame); action {
	case Drop:
		count.dropped.Add(1)
		return f.message(frame.size, false)
	case Delay:
		count.delayed.Add(1)
		if err := f.wait(delay); err != nil {
			return err
		}
	case Cut:
		count.dropped.Add(1)
		if err := f.out.Flush(); err != nil {
			return err
		}
		f.c.cut()
		return errSwallowed
	}
	if _, err := f.out.Write(line); err != nil {
		return err
	}
	return f.message(frame.size, true)
}

// message passes on or leaves out what a line has announced.
func (f *flow) message(size int, pass bool) error {
	if err := f.bytes(size, pass); err != nil {
		return err
	}
	end, err := f.in.Peek(2)
	if err == nil && string(end) != "\r\n" {
		return f.unread(nil)
	}
	// If it ended within the line end, that much is passed on.
	if bytesErr := f.bytes(len(end), pass); bytesErr != nil {
		return bytesErr
	}
	if err != nil {
		return f.ended(err)
	}
	return nil
}

// bytes passes on or leaves out so many bytes.
func (f *flow) bytes(n int, pass bool) error {
	for n > 0 {
		if _, err := f.in.Peek(1); err != nil {
			return f.ended(err)
		}
		chunk, err := f.in.Peek(min(n, f.in.Buffered()))
		if err != nil {
			return err // not reached: so much is there
		}
		if pass {
			if _, err := f.out.Write(chunk); err != nil {
				return err
			}
		}
		n -= len(chunk)
		if _, err := f.in.Discard(len(chunk)); err != nil {
			return err // not reached either
		}
	}
	return nil
}

// ended passes on what is left after an error of reading, which it returns.
func (f *flow) ended(err error) error {
	if gateErr := f.gate(); gateErr != nil {
		return gateErr
	}
	if flushErr := f.out.Flush(); flushErr != nil {
		return flushErr
	}
	return err
}

// longLine passes on a line of which only the begin is known.
func (f *flow) longLine(begin []byte) error {
	if _, _, message := f.from.begins(begin); message {
		return f.unread(begin)
	}
	for {
		if _, err := f.out.Write(begin); err != nil {
			return err
		}
		rest, err := f.in.ReadSlice('\n')
		switch {
		case err == nil:
			_, err := f.out.Write(rest)
			return err
		case !errors.Is(err, bufio.ErrBufferFull):
			if _, err := f.out.Write(rest); err != nil {
				return err
			}
			return f.ended(err)
		}
		begin = rest
	}
}

// unread passes on all that follows as it is.
func (f *flow) unread(line []byte) error {
	f.c.p.stats.side[f.from].unread.Add(1)
	if _, err := f.out.Write(line); err != nil {
		return err
	}
	for {
		if _, err := f.in.Peek(1); err != nil {
			return f.ended(err)
		}
		if err := f.gate(); err != nil {
			return err
		}
		if err := f.bytes(f.in.Buffered(), true); err != nil {
			return err
		}
	}
}

// decide asks the rules about a message.
func (f *flow) decide(frame frame) (Action, time.Duration) {
	for _, a := range *f.c.p.rules.Load() {
		if a.rule.From != f.from {
			continue
		}
		chance := f.chance[a]
		if chance == nil {
			chance = rand.New(rand.NewPCG(f.c.p.cfg.Seed, a.number<<32|f.c.number))
			f.chance[a] = chance
		}
		if hit, delay := a.try(frame, chance); hit {
			return a.rule.Action, delay
		}
	}
	return 0, 0
}

// wait sends what is ready and waits.
func (f *flow) wait(delay time.Duration) error {
	if err := f.out.Flush(); err != nil {
		return err
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return f.gate()
	case <-f.c.ctx.Done():
		return errSwallowed
	}
}
