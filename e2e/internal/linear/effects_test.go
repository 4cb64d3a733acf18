package linear

import (
	"strings"
	"testing"
)

func TestCheckEffects(t *testing.T) {
	t.Parallel()
	ops := []Op{
		add("a1", 1, 0, 1, 1), add("u1", 1, 0, 1, 0).unknown(), add("f1", 1, 0, 1, 0).failed(), read("r1", 0, 1, 1),
		cas("c1", 1, 2, 3, 4, 2, true), cas("d1", 1, 2, 5, 6, 2, false),
	}
	for seen, says := range map[string]string{
		"a1 c1":       "",
		"c1 u1 a1":    "",
		"a1":          "lost: cas 1 to 2 → 2 [c1]",
		"c1":          "lost: add 1 → 1 [a1]",
		"a1 c1 a1":    "twice: add 1 → 1 [a1] of \"x\": 2 times",
		"a1 c1 u1 u1": "twice: add 1 → ? [u1]",
		"a1 c1 f1":    "not to be: add 1 → failed [f1]",
		"a1 c1 r1":    "not to be: read → 1 [r1]",
		"a1 c1 d1":    "not to be: cas 1 to 2 → refused, is 2 [d1]",
		"a1 c1 z":     `not of this history: "z"`,
		"a1 a1 c1 c1": "2 wrong",
	} {
		err := CheckEffects(ops, strings.Fields(seen))
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", seen, err, says)
		}
	}
	if err := CheckEffects(append(ops, ops[0]), nil); err == nil {
		t.Error("the same operation twice in the history: no error")
	}
}
