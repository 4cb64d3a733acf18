// Package bustest gives tests a bus of their own: a real server with JetStream
// inside the test's process, which starts in milliseconds.
//
//	func TestMain(m *testing.M) { bustest.Main(m) }
//
//	func TestPlace(t *testing.T) {
//		t.Parallel()
//		b := bustest.New(t)
//		svc := server.New(b, "orders", server.Config{})
//		// …
//	}
//
// A test fails when it leaves something behind on the bus. What counts as left
// is looked at when the test and its own cleanups have ended and the functions
// given to Bus.OnClose have run:
//
//   - a subscription of the bus, other than the one that nats.go's own requests
//     share;
//   - a consumer without a durable name on the server;
//   - something that a subscription would not finish when the bus was drained.
//
// A bus that the test closes itself, and a server that it shuts down, are not
// looked at. Goroutines can't be told apart by test when tests run in parallel:
// [Main] looks at them once, after the last test.
package bustest
