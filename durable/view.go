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
	began  time.Time
	stale  bool // the storage is newer than the state: the view has to begin again
}

// maxViewTries bounds how often a view of the storage begins again because the
// object was written meanwhile.
const maxViewTries = 10

func (v *view) ID() string { return v.object.id }

func (v *view) Alarm() (time.Time, bool) { return v.snap.alarm.at, v.snap.alarm.set() }

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
	b := readBase{end: v.snap.end, storage: v.snap.storage, exactly: true}
	if time.Since(v.began) > entryTTL/2 {
		b.rev = v.snap.rev // what has been deleted since may not be told any more
	}
	return b
}

func (v *view) note(err error) error {
	if errors.Is(err, errNewer) {
		v.stale = true
	}
	return err
}

// hold is what a view has on its object that has found no moment between two
// commits: the next one waits for the view, though not for long.
type hold struct{ object *object }

// viewHolds are the holds on an object.
type viewHolds struct {
	n    int
	none chan struct{} // closed when n gets zero
}

const (
	// freeTries is how often a view begins before it gets a hold.
	freeTries = 2
	// maxHold is how long a commit waits for views.
	maxHold = 50 * time.Millisecond
)

// begin lets the commit end that is under way, before the view begins once more.
func (h *hold) begin(ctx context.Context, o *object, try int) error {
	h.end()
	o.mu.Lock()
	var ended <-chan struct{}
	if g := o.inflight; g != nil {
		ended = g.doneLocked()
	}
	if try+1 >= freeTries {
		h.object = o
		if o.holds.n++; o.holds.n == 1 {
			o.holds.none = make(chan struct{})
		}
	}
	o.mu.Unlock()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hold) end() {
	o := h.object
	if o == nil {
		return
	}
	h.object = nil
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.holds.n--; o.holds.n == 0 {
		close(o.holds.none)
	}
}

// letViews waits for the views that have a hold and returns with the object
// locked.
func (o *object) letViews() {
	o.mu.Lock()
	if o.holds.n == 0 {
		return
	}
	over := time.NewTimer(maxHold)
	defer over.Stop()
	for o.holds.n > 0 {
		none := o.holds.none
		o.mu.Unlock()
		select {
		case <-none:
			o.mu.Lock()
		case <-over.C:
			o.mu.Lock()
			return
		}
	}
}
