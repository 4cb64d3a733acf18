// Package objectkey calls a method of an object without saying which object.
package objectkey

import (
	"context"

	"rpc.do"
)

type params struct{ A, B int }

type result struct{ Sum int }

var push = rpc.NewObjectMethod[params, result]("stack.push")

func call(ctx context.Context, c rpc.Caller) (result, error) {
	return push.Call(ctx, c, params{1, 2})
}
