//go:build !rpcdo_unfenced

package durable

// fenceOff is true only in programs built with the tag rpcdo_unfenced, which
// tests use to see that they notice when owners are not kept apart.
const fenceOff = false
