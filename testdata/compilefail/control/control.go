// Package control does everything that the other cases do, with the right
// types: it shows that they fail for their one mistake.
package control

import (
	"context"

	"rpc.do"
	"rpc.do/server"
)

type params struct{ A, B int }

type result struct{ Sum int }

var (
	add  = rpc.NewMethod[params, result]("math.add")
	push = rpc.NewObjectMethod[params, result]("stack.push")
)

func handle(svc *server.Service) {
	server.Handle(svc, add, func(_ context.Context, p params) (result, error) {
		return result{p.A + p.B}, nil
	})
}

func call(ctx context.Context, c rpc.Caller) (result, error) {
	if _, err := push.Call(ctx, c, "alice", params{1, 2}); err != nil {
		return result{}, err
	}
	return add.Call(ctx, c, params{1, 2})
}
