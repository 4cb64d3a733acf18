package cli

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/pipeline"
)

type tailFlags struct {
	connection
	from  string
	limit int
}

func (a *app) eventsTail() *cobra.Command {
	f := &tailFlags{}
	cmd := &cobra.Command{
		Use:   "tail [pattern…] [flags]",
		Short: "Show events as they are stored",
		Long: `Shows the events that one of the patterns matches, or all, as they are stored,
until Ctrl-C: when it was stored, its sequence, type, id, subject and data. With
--json each is a line of JSON; data that are not JSON are in "raw", in base64.

It goes on by itself when the bus was away, and leaves out nothing. What was
removed before it could be shown is told: with --json, by a line with "missing".`,
		Example: `  rpcdo events tail
  rpcdo events tail 'User.*' --from all --limit 5
  rpcdo events tail --from 1h --json`,
		Args: onlyPatterns,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runTail(cmd.Context(), f, args) },
	}
	cmd.Flags().StringVar(&f.from, "from", "new", "where to begin: `new`, all, a sequence, or a time or how long ago")
	cmd.Flags().IntVar(&f.limit, "limit", 0, "end after so many events; 0 for no end")
	f.register(cmd)
	complete(cmd, "from", "new", "all")
	return cmd
}

// start says where a tail begins.
func (f *tailFlags) start() (pipeline.Start, error) {
	switch f.from {
	case "new":
		return pipeline.StartNew(), nil
	case "all":
		return pipeline.StartAll(), nil
	}
	n, notNumber := strconv.ParseUint(f.from, 10, 64)
	if n > 0 && notNumber == nil {
		return pipeline.StartSequence(n), nil
	}
	t, err := when("from", f.from, time.Now())
	if err != nil || notNumber == nil {
		return pipeline.Start{}, usagef("--from %.80q: want new, all, a sequence from 1, a time, such as 2026-11-29T15:04:05Z, or how long ago, such as 90m", f.from)
	}
	return pipeline.StartTime(t), nil
}

// missing are the events of a gap, for programs.
type missing struct {
	Missing struct {
		First uint64 `json:"first"`
		Last  uint64 `json:"last"`
	} `json:"missing"`
}

func (a *app) runTail(ctx context.Context, f *tailFlags, patterns []string) error {
	if f.limit < 0 {
		return usagef("--limit %d: want 1 or more, or 0 for no end", f.limit)
	}
	from, err := f.start()
	if err != nil {
		return err
	}
	return a.withEvents(ctx, &f.connection, func(p *pipeline.Pipeline) error {
		events, err := p.Watch(ctx, pipeline.WatchOptions{Patterns: patterns, From: from})
		if err != nil {
			return interrupted(ctx, asUsage(err))
		}
		if a.env.ErrTerminal {
			a.note("rpcdo: showing events; Ctrl-C ends it")
		}
		shown := 0
		for e, err := range events {
			if gap, ok := errors.AsType[*pipeline.GapError](err); ok {
				err = a.printGap(gap)
			} else if err == nil {
				err = a.printEvent(e)
				shown++
			}
			if err != nil || shown == f.limit && f.limit > 0 {
				return err
			}
		}
		return nil
	})
}

func (a *app) printGap(gap *pipeline.GapError) error {
	if !a.json {
		a.note("rpcdo: %v", gap)
		return nil
	}
	var m missing
	m.Missing.First, m.Missing.Last = gap.First, gap.Last
	return a.printJSON(m)
}
