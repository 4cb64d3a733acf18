// Package callresult takes a method's result for something else.
package callresult

import (
	"context"

	"rpc.do"
)

type params struct{ A, B int }

type other struct{ Sum string }

type result struct{ Sum int }

var add = rpc.NewMethod[params, result]("math.add")

func call(ctx context.Context, c rpc.Caller) (other, error) {
	return add.Call(ctx, c, params{1, 2})
}
