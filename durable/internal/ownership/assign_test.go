package ownership

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"rpc.do/bus"
)

func randomIDs(r *rand.Rand, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%016X%010X", r.Uint64(), r.Uint32())
	}
	return ids
}

// Each slot goes to one candidate, whatever their order; one that comes takes
// its share from the others and nothing else moves; one that goes leaves the
// rest where it is.
func TestAssign(t *testing.T) {
	t.Parallel()
	r := newSeed(t)
	for range 300 {
		class := fmt.Sprint("class-", r.IntN(1000))
		ids := randomIDs(r, 1+r.IntN(20))
		before := assign(class, ids)
		for n, owner := range before {
			if !slices.Contains(ids, owner) {
				t.Fatalf("slot %d goes to %q", n, owner)
			}
		}
		shuffled := slices.Clone(ids)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if assign(class, shuffled) != before {
			t.Fatal("the order of the candidates matters")
		}
		comer := randomIDs(r, 1)[0]
		after := assign(class, append(shuffled, comer))
		for n := range after {
			if after[n] != before[n] && after[n] != comer {
				t.Fatalf("slot %d moves from %s to %s when %s comes", n, before[n], after[n], comer)
			}
		}
		goer := ids[r.IntN(len(ids))]
		after = assign(class, slices.DeleteFunc(shuffled, func(id string) bool { return id == goer }))
		for n := range after {
			if before[n] != goer && after[n] != before[n] {
				t.Fatalf("slot %d moves from %s to %s when %s goes", n, before[n], after[n], goer)
			}
			if len(ids) > 1 && after[n] == goer || len(ids) == 1 && after[n] != "" {
				t.Fatalf("slot %d stays with %s", n, after[n])
			}
		}
	}
}

// The shares are what drawing lots would give: within five standard deviations
// of a fair share, in all classes together and in each.
func TestAssignBalance(t *testing.T) {
	t.Parallel()
	r := newSeed(t)
	within := func(what string, got, slots, members int) {
		p := 1 / float64(members)
		mean, deviation := float64(slots)*p, math.Sqrt(float64(slots)*p*(1-p))
		if math.Abs(float64(got)-mean) > 5*deviation+1 {
			t.Errorf("%s: %d of %d slots, with %d members: %.0f ± %.1f is fair", what, got, slots, members, mean, deviation)
		}
	}
	for _, members := range []int{2, 3, 5, 10, 30} {
		ids := randomIDs(r, members)
		all := map[string]int{}
		const classes = 20
		for c := range classes {
			class := fmt.Sprint("class-", c)
			counts := map[string]int{}
			for _, id := range assign(class, ids) {
				counts[id]++
				all[id]++
			}
			for _, id := range ids {
				within(class, counts[id], bus.Slots, members)
			}
		}
		for _, id := range ids {
			within("all classes", all[id], classes*bus.Slots, members)
		}
	}
}

func BenchmarkAssign(b *testing.B) {
	ids := randomIDs(rand.New(rand.NewPCG(1, 2)), 10)
	for b.Loop() {
		assign("counter", ids)
	}
}
