// Package callparams calls a method with other params.
package callparams

import (
	"context"

	"rpc.do"
)

type params struct{ A, B int }

type other struct{ A, B string }

type result struct{ Sum int }

var add = rpc.NewMethod[params, result]("math.add")

func call(ctx context.Context, c rpc.Caller) (result, error) {
	return add.Call(ctx, c, other{"1", "2"})
}
