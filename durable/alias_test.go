package durable_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable"
	"rpc.do/server"
)

type bag struct {
	Items map[string]int `json:"items"`
}

// What a handler returns may be part of the state: it is encoded before the next
// turn can change it.
func TestResultMayBePartOfTheState(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	add := rpc.NewObjectMethod[string, map[string]int]("bag.add")
	svc := server.New(b, "bags", server.Config{})
	bags := durable.Serve[bag](svc, "bag", durable.Config{})
	durable.Handle(bags, add, func(s *bag, _ durable.Context, key string) (map[string]int, error) {
		if s.Items == nil {
			s.Items = map[string]int{}
		}
		s.Items[key]++
		return s.Items, nil
	})
	run(t, svc)
	for _, noShortcut := range []bool{false, true} {
		c := client.New(b, client.Config{NoShortcut: noShortcut})
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				for n := 1; n <= 50; n++ {
					key := strconv.FormatBool(noShortcut) + strconv.Itoa(i)
					got, err := add.Call(context.Background(), c, "x", key)
					if err != nil || got[key] != n {
						t.Errorf("call %d of %s: %d, %v", n, key, got[key], err)
						return
					}
				}
			})
		}
		wg.Wait()
		c.Close()
	}
}
