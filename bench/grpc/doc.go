// Package grpc compares calls over the bus with gRPC's. It is a module of its
// own so that gRPC is no dependency of the product. See CONTRIBUTING.md for how
// to run it.
package grpc
