// Package e2e has tests alone: they build the programs, run them as processes
// and look at them from outside, through sockets, signals, exit statuses and
// what they print. What one process can show is tested beside the code.
//
//	go test ./e2e          # about a minute
//	go test ./e2e -long    # more rounds of every fault
//
// With the race detector on, the programs under test have it too, and a race
// that it finds in any of them fails the test that started it.
package e2e
