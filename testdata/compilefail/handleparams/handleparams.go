// Package handleparams handles a method with a function of other params.
package handleparams

import (
	"context"

	"rpc.do"
	"rpc.do/server"
)

type params struct{ A, B int }

type other struct{ A, B string }

type result struct{ Sum int }

var add = rpc.NewMethod[params, result]("math.add")

func handle(svc *server.Service) {
	server.Handle(svc, add, func(_ context.Context, p other) (result, error) {
		return result{}, nil
	})
}
