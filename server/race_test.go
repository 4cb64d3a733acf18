//go:build race

package server_test

// slowdown is how much more time the race detector gets.
const slowdown = 20
