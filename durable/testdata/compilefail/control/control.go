// Package control does in turns, and where views may, what package view does in
// views.
package control

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
	look   = rpc.NewObjectMethod[rpc.None, bool]("door.look")
	opened = rpc.NewEvent[bool]("Door.opened")
)

func (d *door) slam(ctx durable.Context, _ rpc.None) (rpc.None, error) {
	ctx.SetAlarm(time.Now())
	ctx.DeleteAlarm()
	ctx.Destroy()
	if err := ctx.Emit("Door.slammed", 1); err != nil {
		return rpc.None{}, err
	}
	if err := durable.Emit(ctx, opened, false); err != nil {
		return rpc.None{}, err
	}
	if err := ctx.Storage().Delete("key"); err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, ctx.Storage().Put("key", 1)
}

func (d door) look(ctx durable.ReadContext, _ rpc.None) (bool, error) {
	_, alarm := ctx.Alarm()
	found, err := ctx.Storage().Get("key", new(int))
	return d.Open && alarm && found && ctx.ID() != "", err
}

func handle(doors *durable.Class[door]) {
	durable.Handle(doors, slam, (*door).slam)
	durable.View(doors, look, door.look)
}
