package durable

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Bounds of what one turn writes.
const (
	maxTurnWrites = 400      // entries
	maxTurnSize   = 16 << 20 // bytes of entries and events
)

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
	if err := checkKey(key); err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return rpc.InvalidArgument.Errorf("storage key %.80q: the value can't be written as JSON: %w", key, err)
	}
	if limit := s.turn.object.class.bus.MaxPayload() - room; int64(len(data)) > limit {
		return rpc.ResourceExhausted.Errorf("storage key %.80q: the value has %d bytes, at most %d fit into a message", key, len(data), limit)
	}
	return s.write(key, entryWrite{data})
}

func (s turnStorage) Delete(key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return s.write(key, entryWrite{})
}

func (s turnStorage) write(key string, w entryWrite) error {
	t := s.turn
	before, again := t.writes[key]
	if !again && len(t.writes) == maxTurnWrites {
		return rpc.ResourceExhausted.Errorf("storage key %.80q: a turn writes at most %d entries", key, maxTurnWrites)
	}
	if err := t.grow(len(w.value) - len(before.value)); err != nil {
		return rpc.ResourceExhausted.Errorf("storage key %.80q: %w", key, err)
	}
	if t.writes == nil {
		t.writes = map[string]entryWrite{}
	}
	t.writes[key] = w
	return nil
}

// grow adds to the size of what the turn writes.
func (t *turn) grow(n int) error {
	if size := t.size + n; n > 0 && size > maxTurnSize {
		return fmt.Errorf("the turn's entries and events would have %d bytes, at most %d are stored at once", size, maxTurnSize)
	}
	t.size += n
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
	all := map[string]json.RawMessage{}
	unstored := t.unstored() // before what is stored, or something might be in neither
	wider := opts
	for _, writes := range unstored {
		if opts.Limit > 0 {
			wider.Limit += len(writes) // any of them may be deleted
		}
	}
	stored, err := listEntries(t, t.object, t.base(), wider)
	if err != nil {
		return nil, err
	}
	for _, e := range stored {
		all[e.Key] = e.Value
	}
	for _, writes := range unstored {
		for key, w := range writes {
			if w.value == nil {
				delete(all, key)
			} else if opts.has(key) {
				all[key] = bytes.Clone(w.value)
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
	return readBase{end: o.end, storage: o.storage}
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
	end     uint64 // the last sequence of the object's last commit, or one after it
	storage bool
	exactly bool   // and nothing newer
	rev     uint64 // if not zero, the record must have it yet
}

// errNewer is returned for a read that has seen a newer commit than it may.
var errNewer = errors.New("durable: the storage has been written meanwhile")

// read returns the last messages of keys of the object's storage, which may have
// wildcards. What is read exactly is the storage as of base, whatever has been
// written since: an entry that has been set or deleted since would show it, and
// so would the record of an object that has been destroyed.
func (o *object) read(ctx context.Context, base readBase, keys ...string) ([]*journal.Stored, error) {
	if !base.storage {
		return nil, nil
	}
	// The fence is there when no entry is, and much smaller than the record.
	keys = slices.Concat(keys, []string{o.fenceKey()})
	all, err := o.class.journal.LastOf(ctx, base.end, o.key, keys...)
	if err == nil && base.exactly && (base.rev > 0 || !slices.ContainsFunc(all, o.isEntry)) {
		all, err = o.class.journal.LastOf(ctx, base.end, o.key, append(keys, o.key)...)
	}
	if err != nil {
		if errors.Is(err, journal.ErrTooMany) {
			return nil, err
		}
		return nil, rpc.Unavailable.Errorf("the storage of %s/%.80s can't be read: %w", o.class.name, o.id, err)
	}
	entries := all[:0]
	for _, m := range all {
		entry := o.isEntry(m)
		switch {
		case !base.exactly:
		case entry && m.Sequence > base.end, m.Key == o.key && (m.Deleted() || base.rev > 0 && m.Sequence != base.rev):
			return nil, errNewer
		}
		if entry && !m.Deleted() {
			entries = append(entries, m)
		}
	}
	return entries, nil
}

// isEntry reports whether a message is of the object's storage.
func (o *object) isEntry(m *journal.Stored) bool {
	return len(m.Key) > len(o.key) && m.Key[len(o.key)] == '.' && m.Key[:len(o.key)] == o.key
}

func readEntry(ctx context.Context, o *object, base readBase, key string, value any) (bool, error) {
	found, err := o.read(ctx, base, o.key+"."+bus.Escape(key))
	if err != nil || len(found) == 0 {
		return false, err
	}
	return true, Entry{key, found[0].Data}.Decode(value)
}

// Bounds of the keys that one request has.
const (
	pageSize  = 1000
	pageBytes = 256 << 10
)

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
	for {
		n := o.page(keys)
		if found, err = o.read(ctx, base, keys[:n]...); err != nil { // with no keys, too: the object may have been destroyed
			return nil, err
		}
		take(found)
		keys = keys[n:]
		if len(keys) == 0 || opts.Limit > 0 && len(entries) >= opts.Limit {
			return opts.order(entries), nil
		}
	}
}

// page returns how many of the keys are asked for at once.
func (o *object) page(keys []string) int {
	size, limit := 0, min(pageBytes, int(o.class.bus.MaxPayload()/2))
	for i, key := range keys {
		size += len(o.class.journal.Subject(key)) + len(`"",`)
		if i == pageSize || i > 0 && size > limit {
			return i
		}
	}
	return len(keys)
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
