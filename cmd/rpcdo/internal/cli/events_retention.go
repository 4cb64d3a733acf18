package cli

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/pipeline"
)

type retentionFlags struct {
	connection
	age, bytes, events string
	yes                bool
}

// off is the value of a limit that there is none.
const off = "off"

func (a *app) eventsRetention() *cobra.Command {
	f := &retentionFlags{}
	cmd := &cobra.Command{
		Use:   "retention [flags]",
		Short: "Show how long events are kept, or change it",
		Long: `Shows the limits on the events that are kept, and how many there are. The
oldest go when a limit is passed, whether handlers have had them or not. With
flags it changes the limits that are given; the others stay.

What is beyond a limit is removed at once. When there are such events it asks
before; without a terminal it does nothing unless --yes says that it is meant.`,
		Example: `  rpcdo events retention
  rpcdo events retention --max-age 30d --max-bytes 10GB
  rpcdo events retention --max-events off --json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runRetention(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.age, "max-age", "", "keep events for this `TIME`, such as 30d or 12h; off for no limit")
	flags.StringVar(&f.bytes, "max-bytes", "", "keep this many `BYTES`, such as 10GB or 512MiB; off for no limit")
	flags.StringVar(&f.events, "max-events", "", "keep the last `N` events; off for no limit")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	f.register(cmd)
	for _, name := range []string{"max-age", "max-bytes", "max-events"} {
		complete(cmd, name, off)
	}
	return cmd
}

// apply changes the limits that are given.
func (f *retentionFlags) apply(r *pipeline.Retention) error {
	if f.age != "" {
		age, err := parseAge(f.age)
		if f.age == off {
			age, err = 0, nil
		}
		if err != nil || age <= 0 && f.age != off {
			return usagef("--max-age %.80q: want a time with its unit, such as 30d or 12h, or off", f.age)
		}
		r.MaxAge = age
	}
	for _, limit := range []struct {
		flag, text, want string
		parse            func(string) (int64, bool)
		to               *int64
	}{
		{"max-bytes", f.bytes, "a size, such as 10GB or 512MiB, or off", parseBytes, &r.MaxBytes},
		{"max-events", f.events, "a number of events from 1, or off", parseCount, &r.MaxEvents},
	} {
		switch n, ok := limit.parse(limit.text); {
		case limit.text == "":
		case limit.text == off:
			*limit.to = 0
		case !ok:
			return usagef("--%s %.80q: want %s", limit.flag, limit.text, limit.want)
		default:
			*limit.to = n
		}
	}
	return nil
}

func parseCount(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n > 0
}

// parseBytes reads a size of one byte or more.
func parseBytes(text string) (int64, bool) {
	digits := strings.TrimRight(strings.ToUpper(text), "KMGTIB ")
	unit := strings.TrimSpace(strings.ToUpper(text)[len(digits):])
	each := map[string]float64{
		"": 1, "B": 1, "K": 1e3, "KB": 1e3, "M": 1e6, "MB": 1e6, "G": 1e9, "GB": 1e9, "T": 1e12, "TB": 1e12,
		"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
	}[unit]
	n, err := strconv.ParseFloat(digits, 64)
	if n *= each; err != nil || !(n >= 1) || n >= math.MaxInt64 {
		return 0, false
	}
	return int64(n), true
}

// shownBytes writes a size for people.
func shownBytes(n float64) string {
	for _, unit := range []struct {
		name string
		each float64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= unit.each {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", n/unit.each), ".0") + " " + unit.name
		}
	}
	return fmt.Sprintf("%.0f bytes", n)
}

// shownRetention is the limits and what there is, for programs.
type shownRetention struct {
	Retention pipeline.Retention `json:"retention"`
	Usage     pipeline.Usage     `json:"usage"`
}

func (a *app) runRetention(ctx context.Context, f *retentionFlags) error {
	if err := f.apply(&pipeline.Retention{}); err != nil {
		return err
	}
	return a.withEvents(ctx, &f.connection, func(p *pipeline.Pipeline) error {
		has, usage, err := p.Retention(ctx)
		if err != nil {
			return err
		}
		want := has
		if err := f.apply(&want); err != nil {
			return err
		}
		if want != has {
			if why := removes(want, has, usage); why != "" {
				if !f.yes && !a.env.InTerminal {
					return usagef("this removes events for good, %s, and there is no terminal to ask on: give --yes if you mean it", why)
				}
				if err := a.surely(ctx, f.yes, "Remove events for good, "+why+"?", "nothing was changed"); err != nil {
					return err
				}
			}
			if err := p.SetRetention(ctx, want); err != nil {
				return asUsage(err)
			}
			if has, usage, err = p.Retention(ctx); err != nil {
				return err
			}
		}
		return a.printRetention(has, usage)
	})
}

// removes says what of the events is beyond limits that are narrower than before,
// empty for none.
func removes(want, has pipeline.Retention, usage pipeline.Usage) string {
	narrower := func(want, has int64) bool { return want > 0 && (has == 0 || want < has) }
	age := time.Since(usage.FirstTime)
	switch {
	case usage.Events == 0:
		return ""
	case narrower(want.MaxEvents, has.MaxEvents) && usage.Events > uint64(want.MaxEvents):
		return fmt.Sprintf("%d of %d", usage.Events-uint64(want.MaxEvents), usage.Events)
	case narrower(want.MaxBytes, has.MaxBytes) && usage.Bytes > uint64(want.MaxBytes):
		return fmt.Sprintf("%s of %s", shownBytes(float64(usage.Bytes)-float64(want.MaxBytes)), shownBytes(float64(usage.Bytes)))
	case narrower(int64(want.MaxAge), int64(has.MaxAge)) && age > want.MaxAge:
		return fmt.Sprintf("of which the oldest is %s old", shownAge(age))
	}
	return ""
}

func (a *app) printRetention(r pipeline.Retention, u pipeline.Usage) error {
	if a.json {
		return a.printJSON(shownRetention{r, u})
	}
	return a.printTable(func(w *tabwriter.Writer) {
		limit := func(name string, n int64, shown string) {
			if n == 0 {
				shown = "no limit"
			}
			fmt.Fprintf(w, "  %s\t%s\n", name, shown)
		}
		fmt.Fprintln(w, "limits")
		limit("age", int64(r.MaxAge), shownAge(r.MaxAge))
		limit("bytes", r.MaxBytes, shownBytes(float64(r.MaxBytes)))
		limit("events", r.MaxEvents, strconv.FormatInt(r.MaxEvents, 10))
		fmt.Fprintf(w, "stored\n  events\t%d\n  bytes\t%s\n", u.Events, shownBytes(float64(u.Bytes)))
		if u.Events > 0 {
			fmt.Fprintf(w, "  oldest\t%s, sequence %d\n  newest\t%s, sequence %d\n", shownTime(u.FirstTime), u.FirstSequence, shownTime(u.LastTime), u.LastSequence)
		}
	})
}
