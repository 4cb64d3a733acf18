package durable

import (
	"context"

	"rpc.do/bus"
	"rpc.do/server"
)

func registerSystem(c *class) {
	server.HandleSystem(c.service, bus.MethodDestroy, c.destroy)
	registerAlarm(c)
}

func (c *class) startSystem(ctx context.Context) error {
	if err := c.pauses.start(ctx, c); err != nil {
		return err
	}
	return c.startAlarms(ctx)
}
