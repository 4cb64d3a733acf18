// Package bench measures calls and, in alternating rounds of the same run, what
// they are compared with. A round of one is followed by a round of the other,
// and who goes first changes each time, so that both see the same machine.
package bench

import (
	"context"
	"fmt"
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

	// Duration is how long a row is measured, the baseline not counted.
	Duration time.Duration

	// Rounds is how many parts Duration is in.
	Rounds int

	// Size is the size of a request's JSON in bytes; the reply is about as
	// large. Requests are at least as large as two numbers are.
	Size int

	// Baseline has plain nats.go requests measured too.
	Baseline bool

	// Progress, if any, is called before each row.
	Progress func(name string, concurrency int)
}

// Call measures calls, one row for each concurrency. It ends early, with an
// error, when ctx ends or a call fails.
func Call(ctx context.Context, cfg Config) (rows []Row, err error) {
	ours, err := startCalls(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = firstError(err, ours.stop()) }()
	sides := []*workload{ours}
	if cfg.Baseline {
		raw, err := startRaw(ctx, cfg)
		if err != nil {
			return nil, err
		}
		defer func() { err = firstError(err, raw.stop()) }()
		sides = append(sides, raw)
	}
	name := fmt.Sprintf("call/%s/%s", cfg.Transport, sizeName(cfg.Size))
	for _, n := range cfg.Concurrency {
		if cfg.Progress != nil {
			cfg.Progress(name, n)
		}
		measured, err := alternate(ctx, cfg, sides, n)
		if err != nil {
			return nil, err
		}
		rows = append(rows, newRow(name, n, sides, measured))
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

func sizeName(size int) string {
	switch {
	case size <= 128:
		return "small"
	case size%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", size>>20)
	case size%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", size>>10)
	default:
		return fmt.Sprintf("%dB", size)
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
