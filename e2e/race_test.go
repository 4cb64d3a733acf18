//go:build race

package e2e

// raceDetector says that the tests have the race detector, so the programs
// get it too.
const raceDetector = true
