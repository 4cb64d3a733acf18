package linear

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Encode writes operations as JSON, one a line. Decode reads them.
func Encode(w io.Writer, ops []Op) error {
	for i := range ops {
		if err := writeLine(w, &ops[i]); err != nil {
			return err
		}
	}
	return nil
}

func writeLine(w io.Writer, op *Op) error {
	line, err := json.Marshal(op)
	if err != nil {
		return fmt.Errorf("linear: operation %s: %w", op.ID, err)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("linear: operation %s: %w", op.ID, err)
	}
	return nil
}

// Decode reads what Encode or one Recorder has written: lines that hold a call,
// the return of an earlier call, or both. A call without a return has an
// unknown outcome. A last line that was cut short, as by a kill, is left out.
func Decode(r io.Reader) ([]Op, error) {
	var ops []Op
	byID := map[string]int{}
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF):
			return ops, checkAll(ops) // what follows the last line end was cut short
		case err != nil:
			return nil, fmt.Errorf("linear: line %d: %w", n, err)
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		var op Op
		if err := json.Unmarshal(line, &op); err != nil {
			return nil, fmt.Errorf("linear: line %d: %w", n, err)
		}
		i, known := byID[op.ID]
		switch {
		case op.Kind != "" && !known:
			if op.Outcome == "" {
				op.Outcome = Unknown
			}
			byID[op.ID] = len(ops)
			ops = append(ops, op)
		case op.Kind != "":
			return nil, fmt.Errorf("linear: line %d: a second call of operation %s", n, op.ID)
		case !known:
			return nil, fmt.Errorf("linear: line %d: operation %q returns, but was not called", n, op.ID)
		case ops[i].Return != 0:
			return nil, fmt.Errorf("linear: line %d: operation %s returns for the second time", n, op.ID)
		default:
			ops[i].Return, ops[i].Outcome, ops[i].Result, ops[i].Note = op.Return, op.Outcome, op.Result, op.Note
		}
	}
}
