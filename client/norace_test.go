//go:build !race

package client_test

// raceDetector reports whether it is on: it allocates for itself.
const raceDetector = false
