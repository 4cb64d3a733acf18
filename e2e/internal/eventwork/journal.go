package eventwork

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"rpc.do/e2e/internal/linear"
)

// Journal is a file of one process. Each line is one write, so a process that is
// killed has noted all that it did until then.
//
//	B <when> <run> <handler> <sequence> <n> <attempt> <again> <key>   an attempt begins
//	D <when> <run>                                                    it has handled the event
//	F <when> <run>                                                    it has failed
//
// When is nanoseconds of linear.Now, a clock that all processes share.
type Journal struct {
	file *os.File
	runs atomic.Uint64
}

// OpenJournal makes the file.
func OpenJournal(path string) (*Journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &Journal{file: file}, nil
}

// Begin notes that an attempt began at a time, and returns its number.
func (j *Journal) Begin(a Attempt) (run uint64, err error) {
	run = j.runs.Add(1)
	_, err = fmt.Fprintf(j.file, "B %d %d %s %d %d %d %t %s\n", a.Begin, run, a.Handler, a.Sequence, a.N, a.Number, a.Again, a.Key)
	return run, err
}

// End notes how the attempt ends.
func (j *Journal) End(run uint64, done bool) error {
	what := "F"
	if done {
		what = "D"
	}
	_, err := fmt.Fprintf(j.file, "%s %d %d\n", what, linear.Now(), run)
	return err
}

// Attempt is one attempt as the journal has it.
type Attempt struct {
	Process  string
	Handler  string
	Sequence uint64 // in EVENTS
	N        int
	Key      string
	Number   int // from 1
	Again    bool
	Begin    int64
	End      int64 // 0 when it is not known
	Done     bool
}

// Reader reads a journal while it is written.
type Reader struct {
	process  string
	path     string
	offset   int64
	rest     []byte
	byRun    map[uint64]int
	attempts []Attempt
	done     map[string]int
}

// NewReader returns a reader of the journal of a process.
func NewReader(process, path string) *Reader {
	return &Reader{process: process, path: path, byRun: map[uint64]int{}, done: map[string]int{}}
}

// Read takes in what was written since. A journal that is not there is empty.
func (r *Reader) Read() error {
	file, err := os.Open(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(io.NewSectionReader(file, r.offset, 1<<40))
	if err != nil {
		return err
	}
	r.offset += int64(len(data))
	data = append(r.rest, data...)
	end := bytes.LastIndexByte(data, '\n') + 1
	for line := range strings.Lines(string(data[:end])) {
		if err := r.line(strings.Fields(line)); err != nil {
			return fmt.Errorf("%s: %q: %w", r.path, line, err)
		}
	}
	r.rest = bytes.Clone(data[end:])
	return nil
}

func (r *Reader) line(fields []string) error {
	if len(fields) < 3 {
		return errors.New("too short")
	}
	var numbers [2]int64
	for i := range numbers {
		n, err := strconv.ParseInt(fields[1+i], 10, 64)
		if err != nil {
			return err
		}
		numbers[i] = n
	}
	when, run := numbers[0], uint64(numbers[1])
	if fields[0] == "B" {
		a := Attempt{Process: r.process, Begin: when}
		if _, err := fmt.Sscan(strings.Join(fields[3:8], " "), &a.Handler, &a.Sequence, &a.N, &a.Number, &a.Again); err != nil {
			return err
		}
		if len(fields) > 8 {
			a.Key = fields[8]
		}
		r.byRun[run] = len(r.attempts)
		r.attempts = append(r.attempts, a)
		return nil
	}
	i, ok := r.byRun[run]
	if !ok {
		return errors.New("it ends and has not begun")
	}
	delete(r.byRun, run)
	a := &r.attempts[i]
	a.End, a.Done = when, fields[0] == "D"
	if a.Done {
		r.done[a.Handler]++
	}
	return nil
}

// Attempts returns what was read. They are in the order in which they were noted.
func (r *Reader) Attempts() []Attempt { return r.attempts }

// Done counts the attempts of a handler that have succeeded.
func (r *Reader) Done(handler string) int { return r.done[handler] }

// Last returns the attempt that was noted last, false for none.
func (r *Reader) Last() (Attempt, bool) {
	if len(r.attempts) == 0 {
		return Attempt{}, false
	}
	return r.attempts[len(r.attempts)-1], true
}
