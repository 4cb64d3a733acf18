package durable

import (
	"context"

	"rpc.do"
	"rpc.do/server"
)

// destroy is the system's method by which Catalogue.Delete has an object's owner
// delete it. What is not there stays so: no trace is left of an id that has
// never been.
func (c *class) destroy(ctx context.Context, call server.ObjectCall, _ rpc.None, result *rpc.None) error {
	return c.turn(ctx, call, result, nil, func(t *turn, _ any) error {
		there, err := t.object.there(ctx)
		if there {
			t.Destroy()
		}
		return err
	})
}

// there reports whether the object has anything to delete, as its turn finds it.
func (o *object) there(ctx context.Context) (bool, error) {
	o.mu.Lock()
	rev, unstored := o.rev, o.open != nil || o.inflight != nil
	o.mu.Unlock()
	if unstored || rev == 0 {
		return unstored, nil
	}
	last, err := o.class.journal.At(ctx, rev)
	if err != nil {
		return false, rpc.Unavailable.Errorf("the object %s/%.80s can't be read now: %w", o.class.name, o.id, err)
	}
	// It is the record's revision, so what is not found is on a replica that is
	// behind.
	return last == nil || !last.Deleted(), nil
}
