// Package handleresult handles a method with a function of another result.
package handleresult

import (
	"context"

	"rpc.do"
	"rpc.do/server"
)

type params struct{ A, B int }

type result struct{ Sum int }

type other struct{ Sum string }

var add = rpc.NewMethod[params, result]("math.add")

func handle(svc *server.Service) {
	server.Handle(svc, add, func(_ context.Context, p params) (other, error) {
		return other{}, nil
	})
}
