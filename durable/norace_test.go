//go:build !race

package durable_test

// raceDetector says that the tests have the race detector, which makes them
// several times slower.
const raceDetector = false
