package linear

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func soon() time.Time { return time.Now().Add(20 * time.Second) }

func pointers(ops []Op) []*Op { return byObject(ops)["x"] }

func list(ops []Op) string {
	var b strings.Builder
	for i := range ops {
		fmt.Fprintf(&b, "%s %d-%d: %v %v\n", ops[i].ID, ops[i].Call, ops[i].Return, &ops[i], ops[i].Trace)
	}
	return b.String()
}

// Short ways to write down the operations of object x.
func add(id string, by, call, ret, value int64) Op {
	return Op{ID: id, Client: id[:1], Object: "x", Kind: Add, By: by, Call: call, Return: ret, Outcome: OK, Result: Result{Value: value}}
}

func read(id string, call, ret, value int64) Op {
	return Op{ID: id, Client: id[:1], Object: "x", Kind: Read, Call: call, Return: ret, Outcome: OK, Result: Result{Value: value}}
}

func cas(id string, expect, set, call, ret, value int64, swapped bool) Op {
	return Op{
		ID: id, Client: id[:1], Object: "x", Kind: CompareAndSet, Expect: expect, Set: set, Call: call, Return: ret,
		Outcome: OK, Result: Result{Value: value, Swapped: swapped},
	}
}

func (op Op) unknown() Op {
	op.Outcome, op.Result = Unknown, Result{}
	return op
}

func (op Op) failed() Op {
	op.Outcome, op.Result = Failed, Result{}
	return op
}

func (op Op) trace(ids ...string) Op {
	op.Trace = ids
	return op
}

func TestKnownHistories(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		what string
		ops  []Op
		want Verdict
		says string // in the report of a violation
	}{
		{"one after the other", []Op{add("a1", 1, 0, 10, 1), read("b1", 11, 20, 1)}, Pass, ""},
		{"concurrent read before", []Op{add("a1", 1, 0, 10, 1), read("b1", 5, 20, 0)}, Pass, ""},
		{"concurrent read after", []Op{add("a1", 1, 0, 10, 1), read("b1", 1, 2, 1)}, Pass, ""},
		{"touching counts as concurrent", []Op{add("a1", 1, 0, 10, 1), read("b1", 10, 20, 0)}, Pass, ""},
		{"stale read", []Op{add("a1", 1, 0, 10, 1), read("b1", 11, 20, 0)}, Violation, "it found 0, but add 1 → 1 [a1] had returned"},
		{"reads go backwards", []Op{add("a1", 1, 0, 100, 1), read("b1", 1, 2, 1), read("c1", 3, 4, 0)}, Violation, "it found 0, but read → 1"},
		{"lost update", []Op{add("a1", 1, 0, 10, 1), add("b1", 1, 11, 20, 1)}, Violation, "changed the same value 0: one of the two was lost"},
		{"lost update, concurrent", []Op{add("a1", 1, 0, 10, 1), add("b1", 1, 5, 20, 1)}, Violation, "one of the two was lost"},
		{"double increment after a retry", []Op{add("a1", 1, 0, 10, 1), read("b1", 11, 20, 2)}, Violation, "this one has no place"},
		{"double increment, the second result", []Op{add("a1", 1, 0, 10, 2), read("b1", 11, 20, 2)}, Violation, "this one has no place"},
		{"a value from the future", []Op{read("b1", 0, 5, 1), add("a1", 1, 6, 10, 1)}, Violation, "read → 1"},
		{"a value from nowhere", []Op{read("b1", 0, 5, 7)}, Violation, "read → 7"},
		{"failed, and did nothing", []Op{add("a1", 1, 0, 10, 1).failed(), read("b1", 11, 20, 0)}, Pass, ""},
		{"failed, yet done", []Op{add("a1", 1, 0, 10, 1).failed(), read("b1", 11, 20, 1)}, Violation, "read → 1"},

		{"unknown, took effect late", []Op{add("a1", 1, 0, 10, 0).unknown(), read("b1", 50, 60, 0), read("b2", 70, 80, 1)}, Pass, ""},
		{"unknown, never took effect", []Op{add("a1", 1, 0, 10, 0).unknown(), read("b1", 50, 60, 0), add("b2", 1, 70, 80, 1)}, Pass, ""},
		{"unknown, took effect at once", []Op{add("a1", 1, 0, 10, 0).unknown(), read("b1", 1, 2, 1)}, Pass, ""},
		{"unknown, before its call", []Op{add("a1", 1, 5, 10, 0).unknown(), read("b1", 1, 2, 1)}, Violation, "read → 1"},
		{"unknown, effect taken back", []Op{add("a1", 1, 0, 10, 0).unknown(), read("b1", 20, 30, 1), read("b2", 31, 40, 0)}, Violation, "it found 0, but read → 1"},
		{"unknown, twice", []Op{add("a1", 1, 0, 10, 0).unknown(), read("b1", 20, 30, 2)}, Violation, "read → 2"},
		{"unknown, the second of two", []Op{
			add("a1", 5, 0, 10, 0).unknown(), add("c1", 7, 0, 10, 0).unknown(), read("b1", 20, 30, 7), read("b2", 31, 40, 12),
		}, Pass, ""},
		{"unknown, wrong one of two", []Op{
			add("a1", 5, 0, 10, 0).unknown(), add("c1", 7, 25, 30, 0).unknown(), read("b1", 20, 22, 7),
		}, Violation, "read → 7"},
		{"unknown, called too late for a second read", []Op{
			add("a1", 1, 15, 20, 0).unknown(), read("b1", 0, 100, 1), read("c1", 5, 10, 1),
		}, Violation, "no order"},
		{"unknown, of two alike the one that was called by then", []Op{
			add("u1", 1, 50, 60, 0).unknown(), add("v1", 1, 0, 10, 0).unknown(), read("b1", 20, 30, 1),
		}, Pass, ""},
		{"unknown read", []Op{read("b1", 0, 5, 7).unknown(), add("a1", 1, 6, 10, 1)}, Pass, ""},

		{"conditional update", []Op{cas("a1", 0, 5, 0, 10, 5, true), cas("b1", 0, 9, 11, 20, 5, false)}, Pass, ""},
		{"conditional update, refused without cause", []Op{cas("a1", 0, 5, 0, 10, 0, false)}, Violation, "does not fit"},
		{"conditional update, done without cause", []Op{add("a1", 1, 0, 10, 1), cas("b1", 0, 5, 11, 20, 5, true)}, Violation, "lost"},
		{"conditional update, another value", []Op{cas("a1", 0, 5, 0, 10, 6, true)}, Violation, "does not fit"},
		{"two conditional updates, both done", []Op{cas("a1", 0, 5, 0, 10, 5, true), cas("b1", 0, 6, 0, 10, 6, true)}, Violation, "lost"},
		{"conditional update, unknown and done", []Op{cas("a1", 0, 5, 0, 10, 0, false).unknown(), read("b1", 20, 30, 5)}, Pass, ""},
		{"conditional update, unknown, not possible", []Op{
			add("c1", 1, 0, 1, 1), cas("a1", 0, 5, 2, 10, 0, false).unknown(), read("b1", 20, 30, 5),
		}, Violation, "read → 5"},
		{"there and back by unknown ones", []Op{
			cas("a1", 0, 5, 0, 10, 0, false).unknown(), cas("c1", 5, 0, 0, 10, 0, false).unknown(),
			read("b1", 20, 30, 5), read("b2", 40, 50, 0),
		}, Pass, ""},
		{"there, back and there by unknown ones", []Op{
			cas("a1", 0, 5, 0, 10, 0, false).unknown(), cas("c1", 5, 0, 0, 10, 0, false).unknown(),
			read("b1", 20, 30, 5), read("b2", 40, 50, 0), read("b3", 60, 70, 5),
		}, Violation, "read → 5"},

		{"trace", []Op{add("a1", 1, 0, 10, 1).trace("a1"), add("b1", 2, 11, 20, 3).trace("a1", "b1"), read("c1", 30, 40, 3).trace("b1")}, Pass, ""},
		{"trace, an unknown one between", []Op{
			add("a1", 1, 0, 10, 1).trace("a1"), add("u1", 2, 0, 10, 0).unknown(), add("v1", 2, 0, 10, 0).unknown(),
			read("c1", 30, 40, 3).trace("a1", "v1"), read("c2", 50, 60, 5).trace("v1", "u1"),
		}, Pass, ""},
		{"trace, double hidden in the value", []Op{
			add("a1", 1, 0, 10, 1).trace("a1"), add("u1", 1, 0, 10, 0).unknown(), read("c1", 30, 40, 2).trace("a1", "a1"),
		}, Violation, "a1 took effect twice"},
		{"trace, unknown one twice, far apart", []Op{
			add("u1", 1, 0, 10, 0).unknown(), add("v1", 1, 0, 10, 0).unknown(), add("a1", 1, 0, 10, 2).trace("u1", "a1"),
			add("b1", 1, 20, 30, 4).trace("a1", "u1", "b1"),
		}, Violation, "no order"},
		{"trace, a failed one", []Op{
			add("f1", 1, 0, 10, 0).failed(), add("u1", 1, 0, 10, 0).unknown(), read("c1", 30, 40, 1).trace("f1"),
		}, Violation, "f1 took effect"},
		{"trace, without itself", []Op{add("a1", 1, 0, 10, 1).trace("b1"), add("b1", 1, 0, 10, 0).unknown()}, Violation, "no order"},
		{"trace, in another order", []Op{
			add("a1", 1, 0, 10, 1).trace("a1"), add("b1", 2, 11, 20, 3).trace("a1", "b1"), read("c1", 30, 40, 3).trace("b1", "a1"),
		}, Violation, "no order"},
		{"trace, with one left out", []Op{
			add("a1", 1, 0, 10, 1).trace("a1"), add("b1", 1, 11, 20, 2).trace("b1"), add("c1", 1, 21, 30, 3).trace("b1", "c1"),
			read("d1", 40, 50, 3).trace("a1", "c1"),
		}, Violation, "no order"},
		{"trace, with one that was called later", []Op{
			add("a1", 1, 0, 10, 1).trace("a1"), read("c1", 20, 30, 3).trace("a1", "u1"), add("u1", 2, 40, 50, 0).unknown(),
		}, Violation, "u1 took effect: it failed, changes nothing, or was not called by then"},
		{"trace, of two orders that end alike", []Op{
			add("a1", 1, 0, 100, 1), add("b1", -1, 0, 100, 0), add("c1", 1, 0, 100, 1), add("d1", -1, 0, 100, 0),
			read("r1", 200, 210, 0).trace("c1", "d1", "a1", "b1"),
		}, Pass, ""},
		{"trace, shorter than what happened unseen", []Op{
			add("a1", 1, 0, 10, 1).trace("a1"),
			add("u1", 1, 0, 10, 0).unknown(), add("v1", 1, 0, 10, 0).unknown(), add("w1", 1, 0, 10, 0).unknown(),
			read("c1", 30, 40, 4).trace("w1"), add("d1", 1, 50, 60, 5).trace("w1", "d1"), read("c2", 70, 80, 5).trace("u1", "w1", "d1"),
		}, Pass, ""},
		{"trace of some only", []Op{
			add("a1", 1, 0, 10, 1).trace("a1"), add("u1", 1, 0, 10, 0).unknown(), add("v1", 1, 0, 10, 0).unknown(),
			read("c1", 30, 40, 2), read("c2", 50, 60, 3).trace("a1", "v1", "u1"),
		}, Pass, ""},
	} {
		t.Run(test.what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r, err := Check(test.ops, Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict != test.want || (r.Err() == nil) != (test.want == Pass) {
				t.Fatalf("%v, want %v", r, test.want)
			}
			if legal := brute(test.ops); legal != (test.want == Pass) {
				t.Errorf("by definition legal: %v", legal)
			}
			if test.want != Violation {
				return
			}
			if text := r.Err().Error(); !strings.Contains(text, test.says) || !strings.Contains(text, "✗") {
				t.Errorf("the report does not say %q: %s", test.says, text)
			}
			drawn, err := os.ReadFile(r.Objects[0].File)
			if err != nil || filepath.Dir(r.Objects[0].File) != dir || !strings.Contains(string(drawn), "<html") {
				t.Errorf("drawn in %q: %v", r.Objects[0].File, err)
			}
		})
	}
}

func TestObjectsAreApart(t *testing.T) {
	t.Parallel()
	other := read("b1", 11, 20, 0)
	other.Object = "y"
	r, err := Check([]Op{add("a1", 1, 0, 10, 1), other}, Config{})
	if err != nil || r.Err() != nil || len(r.Objects) != 2 {
		t.Errorf("%v, %v", r, err)
	}
	bad := read("b2", 21, 30, 9)
	bad.Object = "y"
	r, err = Check([]Op{add("a1", 1, 0, 10, 1), other, bad}, Config{})
	if err != nil || r.Verdict != Violation || r.Objects[0].Object != "y" || r.Objects[1].Verdict != Pass {
		t.Errorf("%v, %v", r, err)
	}
}

func TestHistoriesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		ops  []Op
		says string
	}{
		{nil, "nothing was checked"},
		{[]Op{add("a1", 1, 0, 10, 1).unknown()}, "nothing was checked"},
		{[]Op{add("a1", 1, 0, 10, 1), read("a1", 0, 10, 1)}, "two operations have the ID a1"},
		{[]Op{add("a1", 0, 0, 10, 1)}, "adds 0"},
		{[]Op{add("a1", 1, 10, 0, 1)}, "returned before it was called"},
		{[]Op{cas("a1", 1, 1, 0, 10, 1, true)}, "sets what it expects"},
		{[]Op{{ID: "a1", Outcome: OK}}, "unknown kind"},
		{[]Op{{Kind: Read, Outcome: OK}}, "has no ID"},
		{[]Op{{ID: "a1", Kind: Read}}, "unknown outcome"},
	} {
		if r, err := Check(test.ops, Config{}); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v: %v, %v, want an error with %q", test.ops, r, err, test.says)
		}
	}
}

// What a bound ends is no pass.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	// Where values go up and down every open operation doubles the work, and so
	// does every caller; the last read makes the search futile.
	ops, _ := simulation{clients: 30, ops: 600, unknown: 0.2, falls: true, amount: different}.run(rand.New(rand.NewPCG(1, 1)))
	ops = append(ops, read("z", 1e6, 1e6+1, -12345))
	few, _ := simulation{clients: 16, ops: 200, falls: true, amount: alike}.run(rand.New(rand.NewPCG(1, 1)))
	few = append(few, read("z", 1e6, 1e6+1, -12345))
	// Values only rise here, but all amounts differ and nobody says which of
	// them are in the sum.
	var jump []Op
	for i := range 30 {
		jump = append(jump, add(fmt.Sprint("u", i), 1<<i, 0, 1, 0).unknown())
	}
	jump = append(jump, read("z", 2, 3, 1<<30-1))
	// Here they can be found out, but there are too many to go on with.
	var ways []Op
	for i := range 60 {
		ways = append(ways, add(fmt.Sprint("u", i), 2+int64(i%8), 0, 1, 0).unknown())
	}
	ways = append(ways, read("y", 2, 3, 24), read("z", 4, 5, 25))
	for _, test := range []struct {
		ops  []Op
		cfg  Config
		says string
	}{
		{ops, Config{Timeout: 200 * time.Millisecond}, "gave up"},
		{jump, Config{}, "too many ways to explain"},
		{ways, Config{}, "too many ways to explain"},
		{ops, Config{Timeout: 1}, "no time was left"},
		{few, Config{MaxMemory: 1}, "more than 1000 states"},
		{few, Config{Timeout: 20 * time.Millisecond}, "it was given"},
	} {
		begin := time.Now()
		report, err := Check(test.ops, test.cfg)
		if err != nil || report.Verdict != GaveUp || report.Err() == nil || !strings.Contains(report.Err().Error(), test.says) {
			t.Errorf("%+v: %v, %v", test.cfg, report, err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%+v: took %v", test.cfg, took)
		}
	}
}
