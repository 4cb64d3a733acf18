package durable

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

// ListIDs says which ids to list. The zero value lists the first 1,000.
type ListIDs struct {
	// Prefix is what ids begin with.
	Prefix string
	// After is the id to go on after, as Page.Next has it.
	After string
	// Limit bounds how many are listed. Defaults to 1,000.
	Limit int
}

// defaultIDs is how many ids a page has.
const defaultIDs = 1000

// Page is a part of a list of ids.
type Page struct {
	// IDs are in the order of their bytes.
	IDs []string `json:"ids"`
	// Next is what ListIDs.After is for the next page; empty after the last one.
	Next string `json:"next,omitempty"`
}

// IDs lists ids of the objects that exist. Those that came or went while it was
// listing, or in the last moments on a cluster, may be there or not.
//
// To find a page it looks through the keys of the whole class, which takes some
// microseconds for each object; All does that once.
func (c *Catalogue) IDs(ctx context.Context, opts ListIDs) (Page, error) {
	if opts.Limit < 0 {
		return Page{}, rpc.InvalidArgument.Errorf("limit %d: want 1 or more; 0 stands for %d", opts.Limit, defaultIDs)
	}
	for {
		f := idFilter{prefix: opts.Prefix, after: opts.After, limit: cmp.Or(opts.Limit, defaultIDs)}
		if err := c.scanIDs(ctx, &f); err != nil {
			return Page{}, err
		}
		if ids, more := f.page(); !more {
			return Page{IDs: ids}, nil
		} else if len(ids) > 0 {
			return Page{IDs: ids, Next: ids[len(ids)-1]}, nil
		}
		// All that were in the page went while it was made.
	}
}

// All lists the ids of all objects that exist and begin with the prefix, in the
// order of their bytes. It holds all of them in memory. After an error there are
// no more.
func (c *Catalogue) All(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		f := idFilter{prefix: prefix}
		if err := c.scanIDs(ctx, &f); err != nil {
			yield("", err)
			return
		}
		ids, _ := f.page()
		for _, id := range ids {
			if !yield(id, nil) {
				return
			}
		}
	}
}

// count returns how many objects there are, or at most are when there are too
// many to look at all.
func (c *Catalogue) count(ctx context.Context) (n int, exact bool, err error) {
	size, err := c.journal.LeaderSize(ctx)
	if err != nil {
		return 0, false, c.failed(ctx, err)
	}
	if size.Subjects > manyKeys {
		return size.Subjects, false, nil
	}
	var f idFilter
	err = c.scanIDs(ctx, &f)
	return len(f.ids), true, err
}

// Entries lists the keyed storage of an object.
//
// Errors: NotFound when there is no such object.
func (c *Catalogue) Entries(ctx context.Context, id string, opts ListOptions) ([]Entry, error) {
	key, err := c.key(id)
	if err != nil {
		return nil, err
	}
	rec, err := c.record(ctx, id, key)
	if err != nil || !rec.storage {
		return nil, err
	}
	all := map[string]Entry{}
	err = c.scan(ctx, journal.Follow{Match: key + ".*"}, func(m *journal.Stored) {
		name, err := bus.Unescape(strings.TrimPrefix(m.Key, key+"."))
		switch {
		case err != nil || !opts.has(name):
		case m.Deleted():
			delete(all, name)
		default:
			all[name] = Entry{name, m.Data}
		}
	})
	if err != nil {
		return nil, err
	}
	return opts.order(slices.Collect(maps.Values(all))), nil
}

// scanBeat is by how long a list may take longer when others write.
const scanBeat = 200 * time.Millisecond

// scan reads the last message of each key that matches, and what comes meanwhile.
func (c *Catalogue) scan(ctx context.Context, what journal.Follow, take func(*journal.Stored)) error {
	what.Name, what.Beat = "list", scanBeat
	f, err := c.journal.Follow(ctx, what)
	if err != nil {
		return c.failed(ctx, err)
	}
	defer f.Close()
	for f.Pending() > 0 {
		m, err := f.Next()
		if err != nil {
			return c.failed(ctx, err)
		}
		if m != nil {
			take(m)
		}
	}
	return nil
}

// manyKeys is from how many keys on a bucket is read as a whole, history
// included: to find the last message of each key, which is faster, the server
// keeps everybody from writing for a microsecond or two a key.
const manyKeys = 100_000

func (c *Catalogue) scanIDs(ctx context.Context, f *idFilter) error {
	size, err := c.journal.LeaderSize(ctx)
	if err != nil {
		return c.failed(ctx, err)
	}
	what := journal.Follow{Match: "*", HeadersOnly: true}
	if size.Subjects > manyKeys {
		what.From = 1
	}
	return c.scan(ctx, what, f.take)
}

// idFilter picks the ids of a page out of the messages of a bucket, of which an
// id may have several. It never holds many more than the limit.
type idFilter struct {
	prefix, after string
	limit         int // zero for none

	ids map[string]struct{}
	// bound is the first id that is beyond the page, once there is one. It never
	// grows: what was left out once must not be skipped by what comes later.
	bound string
}

func (f *idFilter) take(m *journal.Stored) {
	if m.Key[0] == '_' {
		return // the system's
	}
	id, err := bus.Unescape(m.Key)
	if err != nil || id <= f.after || !strings.HasPrefix(id, f.prefix) || f.bound != "" && id >= f.bound {
		return
	}
	if m.Deleted() {
		delete(f.ids, id)
		return
	}
	if f.ids == nil {
		f.ids = map[string]struct{}{}
	}
	f.ids[id] = struct{}{}
	if f.limit > 0 && len(f.ids) > 2*f.limit {
		f.page()
	}
}

// page returns the ids in their order and leaves out those beyond the limit;
// more says that there are any.
func (f *idFilter) page() (ids []string, more bool) {
	ids = sortedKeys(f.ids)
	if f.limit > 0 && len(ids) > f.limit {
		f.bound = ids[f.limit]
		for _, id := range ids[f.limit:] {
			delete(f.ids, id)
		}
		ids = ids[:f.limit]
	}
	return ids, f.bound != ""
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
