package durable

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

// Pages of any size have all ids together, each once and in order, whatever
// messages the bucket has of them, and hold little.
func TestPagesHaveAllIDs(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		live := map[string]bool{}
		var messages []*journal.Stored
		for range r.IntN(200) {
			id := fmt.Sprintf("%c%d", "ab_é"[r.IntN(3)], r.IntN(60))
			m := &journal.Stored{Key: bus.Escape(id), Header: nats.Header{}}
			if r.IntN(3) == 0 {
				m.Header.Set(journal.HeaderOperation, []string{"DEL", "PURGE"}[r.IntN(2)])
			}
			live[id] = !m.Deleted()
			messages = append(messages, m)
		}
		prefix := []string{"", "a", "_", "a1"}[r.IntN(4)]
		maps.DeleteFunc(live, func(id string, is bool) bool { return !is || !strings.HasPrefix(id, prefix) })
		want := slices.Sorted(maps.Keys(live))
		limit := 1 + r.IntN(20)
		var got []string
		for after, more := "", true; more; {
			f := idFilter{prefix: prefix, after: after, limit: limit}
			for _, m := range messages {
				f.take(m)
				if len(f.ids) > 2*limit {
					t.Fatalf("seed %d: it holds %d ids for a page of %d", seed, len(f.ids), limit)
				}
			}
			var ids []string
			if ids, more = f.page(); len(ids) > limit {
				t.Fatalf("seed %d: %d ids on a page of %d", seed, len(ids), limit)
			}
			if more && len(ids) == 0 { // all of them went while it read: IDs looks again
				f = idFilter{prefix: prefix, after: after}
				for _, m := range messages {
					f.take(m)
				}
				ids, more = f.page()
			}
			got = append(got, ids...)
			if len(ids) > 0 {
				after = ids[len(ids)-1]
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: limit %d, prefix %q: %q, want %q", seed, limit, prefix, got, want)
		}
	}
}

// A bucket of many keys is read with its history, with the same result.
func TestScanOfAllHistory(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	for i := range 7 {
		for j := range 3 {
			x.do(fmt.Sprint("id ", i), func(s *box, _ Context) error { s.N = j + 1; return nil })
		}
	}
	c, err := Open(t.Context(), x.bus, "box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Delete(t.Context(), "id 3"); err != nil {
		t.Fatal(err)
	}
	for _, from := range []uint64{0, 1} {
		f, read := idFilter{}, 0
		err = c.scan(t.Context(), journal.Follow{Match: "*", HeadersOnly: true, From: from}, func(m *journal.Stored) {
			read++
			f.take(m)
			if len(m.Data) > 0 {
				t.Errorf("the data of %s were read", m.Key)
			}
		})
		ids, _ := f.page()
		if err != nil || strings.Join(ids, " ") != "id 0 id 1 id 2 id 4 id 5 id 6" || (read > 7) != (from == 1) {
			t.Errorf("from %d: %q of %d messages, %v", from, ids, read, err)
		}
	}
}
