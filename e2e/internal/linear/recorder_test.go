package linear

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func TestRecorder(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	r := NewRecorder("p", &file)
	before := Now()
	var calls []*Call
	for i, op := range []Op{
		{Client: "1", Object: "x", Kind: Add, By: 3},
		{Client: "2", Object: "x", Kind: Read},
		{Client: "1", Object: "y", Kind: CompareAndSet, Expect: 0, Set: 4},
		{Client: "1", Object: "y", Kind: AddEvent, By: -1},
		{ID: "mine", Client: "1", Object: "y", Kind: Add, By: 1},
	} {
		calls = append(calls, r.Begin(op))
		if want := fmt.Sprint("p-", i); i < 4 && calls[i].ID() != want {
			t.Errorf("ID %q, want %q", calls[i].ID(), want)
		}
	}
	calls[0].OK(Result{Value: 3, Trace: []string{"p-0"}})
	calls[0].Unknown(nil) // too late
	calls[1].OK(Result{})
	calls[2].OK(Result{Value: 4, Swapped: true})
	calls[3].Failed(errors.New("refused"))
	after := Now()

	ops := r.Ops()
	want := []Op{
		{ID: "p-0", Client: "1", Object: "x", Kind: Add, By: 3, Outcome: OK, Result: Result{Value: 3, Trace: []string{"p-0"}}},
		{ID: "p-1", Client: "2", Object: "x", Kind: Read, Outcome: OK},
		{ID: "p-2", Client: "1", Object: "y", Kind: CompareAndSet, Set: 4, Outcome: OK, Result: Result{Value: 4, Swapped: true}},
		{ID: "p-3", Client: "1", Object: "y", Kind: AddEvent, By: -1, Outcome: Failed, Note: "refused"},
		{ID: "mine", Client: "1", Object: "y", Kind: Add, By: 1, Outcome: Unknown},
	}
	for i := range want {
		got := &ops[i]
		if got.Call < before || i < 4 && got.Return < got.Call || got.Return > after || i == 4 && got.Return != 0 {
			t.Errorf("times %d – %d are not between %d and %d", got.Call, got.Return, before, after)
		}
		want[i].Call, want[i].Return = got.Call, got.Return
	}
	if !reflect.DeepEqual(ops, want) || r.Err() != nil {
		t.Errorf("recorded\n%+v, want\n%+v; %v", ops, want, r.Err())
	}

	text := file.String()
	decoded, err := Decode(strings.NewReader(text))
	if err != nil || !reflect.DeepEqual(decoded, want) {
		t.Errorf("decoded\n%+v, want\n%+v; %v\n%s", decoded, want, err, text)
	}
	var again bytes.Buffer
	if err := Encode(&again, ops); err != nil {
		t.Fatal(err)
	}
	if decoded, err := Decode(&again); err != nil || !reflect.DeepEqual(decoded, want) {
		t.Errorf("encoded at once:\n%+v, want\n%+v; %v", decoded, want, err)
	}

	// Whenever the process is killed, its file is good, and holds all calls
	// that were sent.
	for cut := range len(text) + 1 {
		decoded, err := Decode(strings.NewReader(text[:cut]))
		if err != nil || len(decoded) < strings.Count(text[:cut], `"kind":`)-1 {
			t.Fatalf("cut at %d: %d operations, %v", cut, len(decoded), err)
		}
	}
}

func TestRecorderReportsWriting(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "lines"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	r := NewRecorder("p", f)
	r.Begin(Op{Kind: Read}).OK(Result{Value: 1})
	if err := r.Err(); !errors.Is(err, os.ErrClosed) || len(r.Ops()) != 1 {
		t.Errorf("error %v, %v", err, r.Ops())
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	const call = `{"id":"a","kind":"read","call":1}` + "\n"
	const ret = `{"id":"a","return":2,"outcome":"ok"}` + "\n"
	for text, says := range map[string]string{
		"x\n":                             "line 1",
		call + call:                       "line 2: a second call of operation a",
		ret:                               `line 1: operation "a" returns, but was not called`,
		call + "\n" + ret + ret:           "line 4: operation a returns for the second time",
		`{"id":"a","kind":"sing"}` + "\n": "unknown kind",
		`{"id":"a","kind":"add","call":1}` + "\n":    "adds 0",
		call + `{"id":"a","return":2}` + "\n":        "unknown outcome",
		call + `{"id":"a","outcome":"ok"}` + "\n":    "returned before it was called",
		`{"kind":"read","outcome":"unknown"}` + "\n": "has no ID",
	} {
		if ops, err := Decode(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, %v, want an error with %q", text, ops, err, says)
		}
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	a, b := []Op{read("a1", 5, 6, 0), read("a2", 7, 8, 0)}, []Op{read("b1", 6, 7, 0)}
	all, err := Merge(a, b)
	if err != nil || len(all) != 3 || all[1].ID != "b1" {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := Merge(a, a); err == nil || !strings.Contains(err.Error(), "two operations have the ID a1") {
		t.Errorf("%v", err)
	}
}

// Times of several processes can be compared: what was called after another had
// returned has the later time.
func TestTimesOfProcesses(t *testing.T) {
	t.Parallel()
	r := NewRecorder("parent", nil)
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "1"), filepath.Join(dir, "2")}
	begin := func() { r.Begin(Op{Kind: Read}).OK(Result{}) }
	begin()
	for _, file := range files {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRecordsAsChild$")
		cmd.Env = append(os.Environ(), "LINEAR_CHILD="+file)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		begin()
	}
	histories := [][]Op{r.Ops()}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		ops, err := Decode(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		histories = append(histories, ops)
	}
	all, err := Merge(histories...)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for i, op := range all {
		order = append(order, op.ID)
		if i > 0 && op.Call < all[i-1].Return {
			t.Errorf("%v is called before %v returns", op, all[i-1])
		}
	}
	if got := strings.Join(order, " "); got != "parent-0 1-0 parent-1 2-0 parent-2" {
		t.Errorf("merged as %s", got)
	}
}

func TestRecordsAsChild(t *testing.T) {
	file := os.Getenv("LINEAR_CHILD")
	if file == "" {
		return // it is a test's child process only
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder(filepath.Base(file), f)
	r.Begin(Op{Kind: Read}).OK(Result{})
	if err := errors.Join(r.Err(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A real register, real goroutines, and the recorder between: it passes, and no
// longer does when the register is not locked as it should be.
func TestRecordsRegister(t *testing.T) {
	t.Parallel()
	for _, broken := range []bool{false, true} {
		rec := NewRecorder("p", nil)
		var mu sync.Mutex
		var now object
		var wg sync.WaitGroup
		var old object
		for client := range 8 {
			wg.Go(func() {
				for i := range 100 {
					op := Op{Client: fmt.Sprint(client), Object: "x", Kind: Add, By: 1}
					if i%3 == 0 {
						op.Kind, op.By = Read, 0
					}
					call := rec.Begin(op)
					op.ID = call.ID()
					mu.Lock()
					if i == 30 {
						old = object{now.value, now.log}
					}
					acts := &now
					if broken && op.Kind == Read && i > 60 {
						acts = &old
					}
					acts.apply(&op)
					acts.answer(&op, 8)
					mu.Unlock()
					switch {
					case i%10 == 9:
						call.Unknown(errors.New("timeout"))
					default:
						call.OK(op.Result)
					}
				}
			})
		}
		wg.Wait()
		r, err := Check(rec.Ops(), Config{})
		if err != nil || (r.Err() != nil) != broken || broken != (r.Verdict == Violation) {
			t.Errorf("broken %v: %v, %v", broken, r, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"id":"a","kind":"add","by":1,"call":1}` + "\n" + `{"id":"a","return":2,"outcome":"ok","value":1,"trace":["a"]}` + "\n"))
	f.Add([]byte(`{"id":"a","kind":"cas","set":1,"call":1,"return":2,"outcome":"unknown","note":"x"}` + "\n{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ops, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		var file bytes.Buffer
		if err := Encode(&file, ops); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(&file)
		if err != nil || len(ops) != len(again) {
			t.Fatalf("%v: %v, then %v", err, ops, again)
		}
		if len(ops) < 30 {
			_, _ = Check(ops, Config{}) // must come to an end
		}
	})
}
