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
// How fast that is depends on the history. So let tests do what the first two
// of these say:
//
//   - Values only rise (every By above 0, every Set above its Expect). Then the
//     values give the order of the known operations, and there is nothing to try
//     out but how open operations explain a jump of the value.
//   - Results carry a [Result.Trace], the identities of the latest mutations.
//     Then a jump has one explanation, whatever the amounts. It is also the
//     sharpest check: a mutation that ran twice, or ran though it had failed, is
//     found even if an open operation could make up for it in the value.
//   - With both, or with amounts that are all alike, an object with 20,000 known
//     and 1,400 open operations by 64 callers is checked in 0.3 seconds, one with
//     45,000 in one second and 350 MB, which grows with the square.
//   - With values that rise, amounts that differ and no traces, 75 open
//     operations an object are fine, 400 are too many.
//   - With values that go up and down the time is exponential in the number of
//     callers at once: 2,000 operations by 16 callers take 0.1 seconds, by 32 up
//     to 5, by 64 too long. Open operations without traces make that worse.
//
// Where a bound is reached the verdict is [GaveUp], which is no pass.
package linear
