// Package objecthandle handles a method of an object as one of a service.
package objecthandle

import (
	"context"

	"rpc.do"
	"rpc.do/server"
)

type params struct{ A, B int }

type result struct{ Sum int }

var push = rpc.NewObjectMethod[params, result]("stack.push")

func handle(svc *server.Service) {
	server.Handle(svc, push, func(_ context.Context, p params) (result, error) {
		return result{}, nil
	})
}
