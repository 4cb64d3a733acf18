package durabletest_test

import (
	"context"
	"fmt"
	"time"

	"rpc.do"
	"rpc.do/durable"
	"rpc.do/durable/durabletest"
)

// door is a durable object.
type door struct {
	Open bool `json:"open"`
}

func (d *door) open(ctx durable.Context, forHowLong time.Duration) (rpc.None, error) {
	if forHowLong <= 0 {
		return rpc.None{}, rpc.InvalidArgument.Errorf("a door opens for some time")
	}
	d.Open = true
	ctx.SetAlarm(time.UnixMilli(0).Add(forHowLong))
	if err := ctx.Storage().Put("last", forHowLong.String()); err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, ctx.Emit("Door.opened", ctx.ID())
}

func Example() {
	ctx := durabletest.New(context.Background(), "front")
	d := &door{}
	_, err := d.open(ctx, 2*time.Second)
	at, set := ctx.Alarm()
	last, _, _ := durable.Get[string](ctx.Read().Storage(), "last")
	fmt.Println(d.Open, err)
	fmt.Println(at.UnixMilli(), set, last)
	for _, e := range ctx.Events() {
		fmt.Println(e.Name, string(e.Data))
	}
	_, err = d.open(ctx, 0)
	fmt.Println(err)
	// Output:
	// true <nil>
	// 2000 true 2s
	// Door.opened "front"
	// invalid_argument: a door opens for some time
}
