// Package bench measures calls, calls of objects, events and, in alternating rounds of
// the same run, what they are compared with. A round of one is followed by a
// round of the other, and who goes first changes each time, so that both see
// the same machine.
package bench

import (
	"context"
	"runtime"
	"slices"
	"time"

	"rpc.do/bus"
)

// Transport is the way from the caller to the service.
type Transport string

// The transports.
const (
	TCP       Transport = "tcp"       // both over a socket
	InProcess Transport = "inprocess" // both with a server in this process
	Shortcut  Transport = "shortcut"  // one process: the call does not use the bus
)

// Transports returns all transports.
func Transports() []Transport { return []Transport{TCP, InProcess, Shortcut} }

// maxWarmUp bounds how long what is measured runs beforehand.
const maxWarmUp = 500 * time.Millisecond

// Config says what to measure.
type Config struct {
	Transport Transport

	// Connect makes a connection of that transport. The one who gets it closes
	// it. For Shortcut it is the one of InProcess.
	Connect func(context.Context) (*bus.Bus, error)

	// Concurrency are the numbers of callers at once; each makes a row.
	Concurrency []int

	// Duration is how long a row is measured, what it is compared with not
	// counted.
	Duration time.Duration

	// Rounds is how many parts Duration is in.
	Rounds int

	// Size is the size of a request's JSON in bytes, for Call; the reply is
	// about as large. Requests are at least as large as two numbers are.
	Size int

	// Baseline has what plain nats.go makes of the same work measured too.
	Baseline bool

	// Progress, if any, is called before each row.
	Progress func(name string, concurrency int)

	cpu bool // rows tell what the processor did
}

// start starts one side.
type start func(context.Context) (*workload, error)

// compare measures what starts starts, all but the first only with a baseline.
func compare(ctx context.Context, cfg Config, callers int, starts ...start) (rows []Row, err error) {
	if !cfg.Baseline {
		starts = starts[:1]
	}
	var sides []*workload
	defer func() {
		for _, side := range sides {
			err = firstError(err, side.stop())
		}
	}()
	for _, start := range starts {
		side, err := start(ctx)
		if err != nil {
			return nil, err
		}
		sides = append(sides, side)
	}
	return measure(ctx, cfg, callers, sides...)
}

// measure runs the sides in turn with so many callers. It returns a row for each
// side compared with the next one, or the one row of a side that is alone.
func measure(ctx context.Context, cfg Config, callers int, sides ...*workload) ([]Row, error) {
	if cfg.Progress != nil {
		cfg.Progress(sides[0].row, callers)
	}
	measured, err := alternate(ctx, cfg, sides, callers)
	if err != nil {
		return nil, err
	}
	rows := []Row{}
	for i := range max(len(sides)-1, 1) {
		row := newRow(callers, sides[i:], measured[i:])
		if cfg.cpu {
			row = row.withCPU(measured[i:])
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// alternate runs rounds of all sides in turn and returns those of each side.
func alternate(ctx context.Context, cfg Config, sides []*workload, callers int) ([][]round, error) {
	warmUp := min(cfg.Duration/10, maxWarmUp)
	for _, side := range sides {
		if _, err := side.round(ctx, callers, warmUp); err != nil {
			return nil, err
		}
	}
	each := cfg.Duration / time.Duration(cfg.Rounds)
	measured := make([][]round, len(sides))
	order := make([]int, len(sides))
	for i := range order {
		order[i] = i
	}
	for range cfg.Rounds {
		for _, i := range order {
			runtime.GC() // each round begins with the same heap
			r, err := sides[i].round(ctx, callers, each)
			if err != nil {
				return nil, err
			}
			measured[i] = append(measured[i], r)
		}
		slices.Reverse(order)
	}
	return measured, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
