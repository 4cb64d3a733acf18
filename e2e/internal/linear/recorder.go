package linear

import (
	"fmt"
	"io"
	"slices"
	"sync"
)

// Recorder writes down the operations of one process. Its methods may be called
// by many goroutines at once.
type Recorder struct {
	name string

	mu  sync.Mutex
	w   io.Writer
	err error
	ops []Op
}

// NewRecorder makes a recorder. The identities that it gives begin with name,
// which must differ between the processes of one history. If w is not nil, each
// call and each return is written to it as a line, in one Write, before Begin,
// OK, Failed or Unknown returns, so that all that is needed of a process that
// is killed is in its file; give each process a file of its own. [Decode] reads
// it.
func NewRecorder(name string, w io.Writer) *Recorder { return &Recorder{name: name, w: w} }

// Call is an operation that has begun.
type Call struct {
	r     *Recorder
	index int
	id    string
}

// Begin records that the operation is called now; of op it uses the fields up
// to Set. If op.ID is empty the operation gets an identity. One that is not
// ended has an unknown outcome.
func (r *Recorder) Begin(op Op) *Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	if op.ID == "" {
		op.ID = fmt.Sprintf("%s-%d", r.name, len(r.ops))
	}
	op.Return, op.Outcome, op.Result = 0, Unknown, Result{}
	op.Call = Now()
	r.ops = append(r.ops, op)
	op.Outcome = "" // the line of a call has none
	r.write(&op)
	return &Call{r: r, index: len(r.ops) - 1, id: op.ID}
}

// ID returns the operation's identity.
func (c *Call) ID() string { return c.id }

// OK records that the operation has returned with a result. Only the first of
// OK, Failed and Unknown counts.
func (c *Call) OK(result Result) { c.end(OK, result, nil) }

// Failed records that the operation has surely not been done and will not be.
// The error is kept as text.
func (c *Call) Failed(err error) { c.end(Failed, Result{}, err) }

// Unknown records that the caller has given up. The error is kept as text.
func (c *Call) Unknown(err error) { c.end(Unknown, Result{}, err) }

func (c *Call) end(outcome Outcome, result Result, err error) {
	now := Now()
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	op := &c.r.ops[c.index]
	if op.Return != 0 {
		return
	}
	result.Trace = slices.Clone(result.Trace)
	op.Return, op.Outcome, op.Result = now, outcome, result
	if err != nil {
		op.Note = err.Error()
	}
	c.r.write(&Op{ID: op.ID, Return: now, Outcome: outcome, Result: result, Note: op.Note})
}

// write needs r.mu.
func (r *Recorder) write(line *Op) {
	if r.w == nil || r.err != nil {
		return
	}
	r.err = writeLine(r.w, line)
}

// Ops returns what has been recorded so far, in the order of the calls.
func (r *Recorder) Ops() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops)
}

// Err returns the first error of writing, after which nothing more is written.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
