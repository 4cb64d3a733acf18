// Package bus is the connection to NATS and what goes over it: subjects,
// headers, codecs, replies and sizes, as docs/protocol.md has them.
//
// It neither calls nor serves: retries are package client's, dispatch is
// package server's. It does not start a server either: bus/natsd does, so that
// a program which only connects does not link one.
//
// A program has one [Bus] and shares it among its clients and services:
//
//	b, err := bus.Connect(ctx, bus.Config{Name: "orders"})
//	if err != nil {
//		return err // says what to do about it
//	}
//	defer b.Close() // drains: what was received is handled, what was sent is flushed
//
//	c := client.New(b, client.Config{})
//	svc := server.New(b, "orders", server.Config{})
//
// A connection that is lost is made again without end, at intervals that grow
// to two seconds. Tests get a bus of their own, with a server, from
// bus/bustest.
package bus
