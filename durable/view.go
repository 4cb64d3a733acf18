package durable

import (
	"context"
	"errors"
	"time"
)

// view is the ReadContext of one view.
type view struct {
	context.Context
	object *object
	snap   *snapshot
	stale  bool // the storage is newer than the state: the view has to begin again
}

// maxViewTries bounds how often a view of the storage begins again because the
// object was written meanwhile.
const maxViewTries = 20

func (v *view) ID() string { return v.object.id }

func (v *view) Alarm() (time.Time, bool) { return v.snap.alarm, !v.snap.alarm.IsZero() }

func (v *view) Storage() ReadStorage { return viewStorage{v} }

// viewStorage is the storage as of the view's snapshot.
type viewStorage struct{ view *view }

func (s viewStorage) Get(key string, value any) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	found, err := readEntry(s.view, s.view.object, s.view.base(), key, value)
	return found, s.view.note(err)
}

func (s viewStorage) List(opts ListOptions) ([]Entry, error) {
	entries, err := listEntries(s.view, s.view.object, s.view.base(), opts)
	return entries, s.view.note(err)
}

func (v *view) base() readBase {
	return readBase{rev: v.snap.rev, end: v.snap.end, storage: v.snap.storage, exactly: true}
}

func (v *view) note(err error) error {
	if errors.Is(err, errNewer) {
		v.stale = true
	}
	return err
}

// wait lets the commit end that is under way, before the view begins again.
func (v *view) wait(ctx context.Context, try int) error {
	o := v.object
	o.mu.Lock()
	g := o.inflight
	o.mu.Unlock()
	if g == nil {
		return nil
	}
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
