//go:build rpcdo_unfenced

package durable

const fenceOff = true
