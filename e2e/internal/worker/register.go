package main

import (
	"slices"

	"rpc.do"
	"rpc.do/durable"
	"rpc.do/e2e/internal/work"
	"rpc.do/server"
)

// register is the state of an object of the class register.
type register struct {
	Value int64    `json:"value"`
	Trace []string `json:"trace"`
}

// traceLength is how many changes a register remembers.
const traceLength = 24

func serveRegisters(svc *server.Service, cfg durable.Config) {
	registers := durable.Serve[register](svc, "register", cfg)
	durable.Handle(registers, work.Add, (*register).add)
	durable.Handle(registers, work.Swap, (*register).swap)
	durable.View(registers, work.Read, register.read)
}

func (r *register) add(ctx durable.Context, c work.Change) (work.Register, error) {
	r.Value += c.By
	r.note(c.ID)
	if c.Event {
		if err := durable.Emit(ctx, work.Added, c); err != nil {
			return work.Register{}, err
		}
	}
	return r.answer(false), nil
}

func (r *register) swap(_ durable.Context, c work.Change) (work.Register, error) {
	if r.Value != c.Expect {
		return r.answer(false), nil
	}
	r.Value = c.Set
	r.note(c.ID)
	return r.answer(true), nil
}

func (r register) read(durable.ReadContext, rpc.None) (work.Register, error) {
	return r.answer(false), nil
}

func (r *register) note(id string) {
	r.Trace = append(r.Trace, id)
	r.Trace = r.Trace[max(0, len(r.Trace)-traceLength):]
}

func (r *register) answer(swapped bool) work.Register {
	return work.Register{Value: r.Value, Swapped: swapped, Trace: slices.Clone(r.Trace)}
}
