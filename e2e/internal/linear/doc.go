// Package linear records what the clients of an object did and saw, from
// several processes, and checks with porcupine that the object was
// linearizable: that all operations can be put in one order that explains every
// result and that no operation leaves the time between its call and its return.
// It also draws up schedules of faults for the tests that make such histories.
//
//	rec := linear.NewRecorder("caller", nil)
//	call := rec.Begin(linear.Op{Client: "3", Object: "alice", Kind: linear.Add, By: 1})
//	value, err := add(ctx, "alice", call.ID(), 1)
//	switch {
//	case err == nil:
//		call.OK(linear.Result{Value: value})
//	case surelyNotExecuted(err):
//		call.Failed(err)
//	default:
//		call.Unknown(err)
//	}
//	// …
//	report, err := linear.Check(rec.Ops(), linear.Config{Dir: dir})
//	// report.Err() is nil only if everything was checked and is in order.
//
// # The model
//
// An object is a register that begins at 0 and is not touched by anybody whose
// operations are not in the history. Objects are checked one by one: a history
// is linearizable if that of each object is.
//
// # Unknown outcomes
//
// An operation whose outcome is unknown may take effect at any time after its
// call, or never. Checkers commonly keep such an operation open to the end of
// the history; then each one that did nothing doubles the work of all that
// follows. Here they are no part of the history that porcupine sees. They are
// kept at hand, and used when the result of another operation needs them: the
// value has to get from where it is to where that operation found it. That is
// no loss. In any legal order an operation without a result can be moved to
// just before the next operation with one, and what is left over at the end can
// be left out. And as they have no end, of those that do the same the one that
// was called first can be used first.
//
// How fast that is depends on the history:
//
//   - Values only rise (all By positive, every Set above its Expect): the values
//     give the order of the known operations, and there is nothing to try out.
//     Tens of thousands of operations with hundreds of open ones take well below
//     a second if a jump in the value has few explanations: amounts that are all
//     alike, or few in kind.
//   - Results carry a [Result.Trace], the identities of the latest mutations:
//     then a jump has one explanation, whatever the amounts. It is also the
//     sharpest check: a mutation that ran twice, or ran though it had failed, is
//     found even if open operations could make up for it in the value.
//   - Values that go up and down, together with open operations and without
//     traces, cost exponential time in the number of these and of callers at
//     once. A dozen callers and a few open operations an object are fine.
//
// Where a bound is reached the verdict is [GaveUp], which is no pass.
package linear
