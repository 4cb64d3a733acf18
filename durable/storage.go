package durable

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
)

// Entry is an entry of an object's keyed storage.
type Entry struct {
	Key   string
	Value json.RawMessage
}

// Decode reads the entry's value into v, a pointer.
func (e Entry) Decode(v any) error {
	if err := json.Unmarshal(e.Value, v); err != nil {
		return rpc.InvalidArgument.Errorf("storage key %.80q: the value can't be read as %T: %w", e.Key, v, err)
	}
	return nil
}

// Get reads an entry; found is false, and the value zero, when there is none.
func Get[T any](s ReadStorage, key string) (value T, found bool, err error) {
	found, err = s.Get(key, &value)
	return value, found, err
}

// entryWrite is what a turn does to an entry: sets it, or deletes it when the
// value is nil.
type entryWrite struct{ value []byte }

// maxKey bounds the key of an entry, in bytes.
const maxKey = 256

// maxTurnWrites bounds the entries that one turn writes.
const maxTurnWrites = 400

func checkKey(key string) error {
	switch {
	case key == "":
		return rpc.InvalidArgument.Errorf("storage key: it is empty")
	case len(key) > maxKey:
		return rpc.InvalidArgument.Errorf("storage key %.40q…: %d bytes are too long, at most %d are allowed", key, len(key), maxKey)
	case !utf8.ValidString(key):
		return rpc.InvalidArgument.Errorf("storage key %q: not valid UTF-8", key)
	}
	return nil
}

func (t *turn) Storage() Storage { return turnStorage{t} }

// turnStorage is the storage as a turn sees it: what it has written itself, then
// what earlier turns have that is not stored yet, then what is stored.
type turnStorage struct{ turn *turn }

func (s turnStorage) Put(key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return rpc.InvalidArgument.Errorf("storage key %.80q: the value can't be written as JSON: %w", key, err)
	}
	if limit := s.turn.object.class.bus.MaxPayload() - room; int64(len(data)) > limit {
		return rpc.ResourceExhausted.Errorf("storage key %.80q: the value has %d bytes, at most %d fit into a message", key, len(data), limit)
	}
	return s.write(key, entryWrite{data})
}

func (s turnStorage) Delete(key string) error { return s.write(key, entryWrite{}) }

func (s turnStorage) write(key string, w entryWrite) error {
	if err := checkKey(key); err != nil {
		return err
	}
	t := s.turn
	if _, again := t.writes[key]; !again && len(t.writes) == maxTurnWrites {
		return rpc.ResourceExhausted.Errorf("storage key %.80q: a turn writes at most %d entries", key, maxTurnWrites)
	}
	if t.writes == nil {
		t.writes = map[string]entryWrite{}
	}
	t.writes[key] = w
	return nil
}

func (s turnStorage) Get(key string, value any) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	if w, ok := s.turn.written(key); ok {
		if w.value == nil {
			return false, nil
		}
		return true, Entry{key, w.value}.Decode(value)
	}
	return readEntry(s.turn, s.turn.object, s.turn.base(), key, value)
}

func (s turnStorage) List(opts ListOptions) ([]Entry, error) {
	t := s.turn
	bounded := opts
	bounded.Limit = 0        // what is not stored yet may take the places
	unstored := t.unstored() // before what is stored, or something might be in neither
	stored, err := listEntries(t, t.object, t.base(), bounded)
	if err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	for _, e := range stored {
		all[e.Key] = e.Value
	}
	for _, writes := range unstored {
		for key, w := range writes {
			if w.value == nil {
				delete(all, key)
			} else if opts.has(key) {
				all[key] = w.value
			}
		}
	}
	entries := make([]Entry, 0, len(all))
	for key, value := range all {
		entries = append(entries, Entry{key, value})
	}
	return opts.order(entries), nil
}

// base is the commit that a turn's reads must have seen at least.
func (t *turn) base() readBase {
	o := t.object
	o.mu.Lock()
	defer o.mu.Unlock()
	return readBase{rev: o.rev, end: o.end, storage: o.storage}
}

// unstored returns what has been written and may not be stored yet, the oldest
// first.
func (t *turn) unstored() []map[string]entryWrite {
	o := t.object
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []map[string]entryWrite
	if o.inflight != nil {
		all = append(all, o.inflight.writes)
	}
	if o.open != nil {
		all = append(all, o.open.writes)
	}
	return append(all, t.writes)
}

func (t *turn) written(key string) (entryWrite, bool) {
	for _, writes := range slices.Backward(t.unstored()) {
		if w, ok := writes[key]; ok {
			return w, true
		}
	}
	return entryWrite{}, false
}

// readBase says what a read of the storage must have seen.
type readBase struct {
	rev     uint64 // of the record
	end     uint64 // last sequence of its commit
	storage bool
	exactly bool // and nothing newer
}

// errNewer is returned for a read that has seen a newer commit than it may.
var errNewer = errors.New("durable: the storage has been written meanwhile")

// read returns the last messages of keys of the object's storage, which may have
// wildcards.
func (o *object) read(ctx context.Context, base readBase, keys ...string) ([]*journal.Stored, error) {
	if !base.storage {
		return nil, nil
	}
	all, err := o.class.journal.LastOf(ctx, base.end, append([]string{o.key}, keys...)...)
	if err != nil {
		if errors.Is(err, journal.ErrTooMany) {
			return nil, err
		}
		return nil, rpc.Unavailable.Errorf("the storage of %s/%.80s can't be read: %w", o.class.name, o.id, err)
	}
	entries := all[:0]
	for _, m := range all {
		switch {
		case m.Key != o.key:
			if !m.Deleted() {
				entries = append(entries, m)
			}
		case base.exactly && m.Sequence != base.rev:
			return nil, errNewer
		}
	}
	return entries, nil
}

func readEntry(ctx context.Context, o *object, base readBase, key string, value any) (bool, error) {
	found, err := o.read(ctx, base, o.key+"."+bus.Escape(key))
	if err != nil || len(found) == 0 {
		return false, err
	}
	return true, Entry{key, found[0].Data}.Decode(value)
}

// pageSize is how many entries are read at once.
const pageSize = 1000

func listEntries(ctx context.Context, o *object, base readBase, opts ListOptions) ([]Entry, error) {
	var entries []Entry
	take := func(found []*journal.Stored) {
		for _, m := range found {
			key, err := bus.Unescape(strings.TrimPrefix(m.Key, o.key+"."))
			if err == nil && opts.has(key) {
				entries = append(entries, Entry{key, m.Data})
			}
		}
	}
	found, err := o.read(ctx, base, o.key+".*")
	if err == nil {
		take(found)
		return opts.order(entries), nil
	}
	if !errors.Is(err, journal.ErrTooMany) {
		return nil, err
	}
	keys, err := o.entryKeys(ctx, base, opts)
	if err != nil {
		return nil, err
	}
	for page := range slices.Chunk(keys, pageSize) {
		if opts.Limit > 0 && len(entries) >= opts.Limit {
			break
		}
		if found, err = o.read(ctx, base, page...); err != nil {
			return nil, err
		}
		take(found)
	}
	return opts.order(entries), nil
}

// entryKeys returns the keys that a list may have, as they are in the stream and
// in the order of the list. Some may have been deleted.
func (o *object) entryKeys(ctx context.Context, base readBase, opts ListOptions) ([]string, error) {
	stored, err := o.class.journal.Keys(ctx, base.end, o.key+".*")
	if err != nil {
		return nil, rpc.Unavailable.Errorf("the storage of %s/%.80s can't be read: %w", o.class.name, o.id, err)
	}
	var entries []Entry
	for _, k := range stored {
		if key, err := bus.Unescape(strings.TrimPrefix(k, o.key+".")); err == nil && opts.has(key) {
			entries = append(entries, Entry{Key: key})
		}
	}
	opts.Limit = 0
	keys := make([]string, 0, len(entries))
	for _, e := range opts.order(entries) {
		keys = append(keys, o.key+"."+bus.Escape(e.Key))
	}
	return keys, nil
}

func (opts *ListOptions) has(key string) bool {
	return strings.HasPrefix(key, opts.Prefix) && key >= opts.Start && (opts.End == "" || key < opts.End)
}

// order sorts entries as the list has them and cuts them off at the limit.
func (opts *ListOptions) order(entries []Entry) []Entry {
	slices.SortFunc(entries, func(a, b Entry) int {
		if opts.Reverse {
			a, b = b, a
		}
		return strings.Compare(a.Key, b.Key)
	})
	if opts.Limit > 0 && len(entries) > opts.Limit {
		entries = entries[:opts.Limit]
	}
	return entries
}
