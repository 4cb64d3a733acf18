// Package view does in views what only turns may do. Each line that says so is
// a mistake.
package view

import (
	"time"

	"rpc.do"
	"rpc.do/durable"
)

type door struct {
	Open bool `json:"open"`
}

var (
	slam   = rpc.NewObjectMethod[rpc.None, rpc.None]("door.slam")
	opened = rpc.NewEvent[bool]("Door.opened")
)

func (d door) alarm(ctx durable.ReadContext) {
	ctx.SetAlarm(time.Now()) // want: ctx.SetAlarm undefined
	ctx.DeleteAlarm()        // want: ctx.DeleteAlarm undefined
}

func (d door) destroy(ctx durable.ReadContext) {
	ctx.Destroy() // want: ctx.Destroy undefined
}

func (d door) emit(ctx durable.ReadContext) {
	_ = ctx.Emit("Door.slammed", 1)      // want: ctx.Emit undefined
	_ = durable.Emit(ctx, opened, false) // want: as durable.Context value in argument to durable.Emit
}

func (d door) storage(ctx durable.ReadContext) {
	_ = ctx.Storage().Put("key", 1) // want: ctx.Storage().Put undefined
	_ = ctx.Storage().Delete("key") // want: ctx.Storage().Delete undefined
}

func (d *door) slam(durable.ReadContext, rpc.None) (rpc.None, error) { return rpc.None{}, nil }

func (d door) peek(durable.Context, rpc.None) (rpc.None, error) { return rpc.None{}, nil }

func handle(doors *durable.Class[door]) {
	durable.View(doors, slam, (*door).slam) // want: does not match
	durable.View(doors, slam, door.peek)    // want: does not match
}
