// Package durable serves durable objects: state with an id, of which each has
// one owner among all instances, and runs one turn at a time.
//
//	type Counter struct{ Value int }
//
//	func (c *Counter) Increment(ctx durable.Context, p IncrementParams) (int, error) {
//		c.Value += p.By
//		return c.Value, nil
//	}
//
//	func (c Counter) Current(ctx durable.ReadContext, _ rpc.None) (int, error) { return c.Value, nil }
//
//	counters := durable.Serve[Counter](svc, "counter", durable.Config{})
//	durable.Handle(counters, Increment, (*Counter).Increment)
//	durable.View(counters, Current, Counter.Current)
//
// A turn's changes of the state, the events it emits, its alarm and its keyed
// storage are stored in one step, before the caller hears of it, or not at all.
// A call that is sent again is recognised: it has one effect. Reads and writes
// of one object are linearizable, whoever crashes, pauses or is cut off.
//
// The state is the struct as JSON, in the bucket OBJECTS_<class> under the
// object's id. Effects that a handler has elsewhere are its own affair: they
// happen at least once, and rpc.CallInfo.ID is there to make them idempotent.
// Two objects don't share a transaction.
package durable
