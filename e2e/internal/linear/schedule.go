package linear

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FaultKind is what goes wrong.
type FaultKind string

// The faults.
const (
	KillMember      FaultKind = "kill"        // SIGKILL
	PauseMember     FaultKind = "pause"       // SIGSTOP, and SIGCONT after a while that is longer than the lease
	CutMember       FaultKind = "cut"         // its connections end; it may connect again at once
	PartitionMember FaultKind = "partition"   // it and the bus do not hear of each other for a while, as long as a pause
	RemoveMember    FaultKind = "remove"      // SIGTERM
	AddMember       FaultKind = "add"         // a new one starts; its number has not been used before
	RestartBus      FaultKind = "restart-bus" // the bus is killed and started again
)

func faultKinds() []FaultKind {
	return []FaultKind{KillMember, PauseMember, CutMember, PartitionMember, RemoveMember, AddMember, RestartBus}
}

func (k FaultKind) lasts() bool { return k == PauseMember || k == PartitionMember }

// Fault is one of a plan.
type Fault struct {
	At     time.Duration // since the plan's begin
	Kind   FaultKind
	Member int           // whom it concerns; 0 for RestartBus
	For    time.Duration // how long it lasts, if it does
}

// String is the fault as ParsePlan reads it, such as "1.5s pause 2 for 7.2s".
func (f Fault) String() string {
	text := fmt.Sprintf("%v %s", f.At, f.Kind)
	if f.Kind != RestartBus {
		text += " " + strconv.Itoa(f.Member)
	}
	if f.Kind.lasts() {
		text += fmt.Sprintf(" for %v", f.For)
	}
	return text
}

// Plan is a schedule of faults, the earliest first.
type Plan []Fault

// String is the plan on one line, as ParsePlan reads it.
func (p Plan) String() string {
	texts := make([]string, len(p))
	for i, f := range p {
		texts[i] = f.String()
	}
	return strings.Join(texts, "; ")
}

// ParsePlan reads faults that are separated by semicolons or line ends.
func ParsePlan(text string) (Plan, error) {
	var p Plan
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ';' || r == '\n' }) {
		if strings.TrimSpace(part) == "" {
			continue
		}
		f, err := parseFault(part)
		if err != nil {
			return nil, fmt.Errorf("linear: fault %q: %w", strings.TrimSpace(part), err)
		}
		p = append(p, f)
	}
	slices.SortStableFunc(p, func(a, b Fault) int { return int(a.At - b.At) })
	return p, nil
}

func parseFault(text string) (f Fault, err error) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return f, fmt.Errorf("want a time and a kind")
	}
	if f.At, err = parseTime(words[0]); err != nil {
		return f, err
	}
	f.Kind = FaultKind(words[1])
	if !slices.Contains(faultKinds(), f.Kind) {
		return f, fmt.Errorf("unknown kind %q", f.Kind)
	}
	words = words[2:]
	if f.Kind != RestartBus {
		if len(words) == 0 {
			return f, fmt.Errorf("want the number of a member")
		}
		n, err := strconv.ParseUint(words[0], 10, 31)
		if err != nil {
			return f, fmt.Errorf("%q is not the number of a member", words[0])
		}
		f.Member, words = int(n), words[1:]
	}
	if f.Kind.lasts() {
		if len(words) < 2 || words[0] != "for" {
			return f, fmt.Errorf("want \"for\" and a time")
		}
		if f.For, err = parseTime(words[1]); err != nil {
			return f, err
		}
		words = words[2:]
	}
	if len(words) > 0 {
		return f, fmt.Errorf("did not expect %q", words[0])
	}
	return f, nil
}

func parseTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil && d < 0 {
		err = fmt.Errorf("%v is negative", d)
	}
	return d, err
}

// Defaults of Faults.
const (
	DefaultMembers = 3
	DefaultEvery   = 3 * time.Second
	DefaultLease   = 5 * time.Second
)

// Faults says what a plan is made of. Its zero value works.
type Faults struct {
	// Kinds are the faults to choose from. Each is chosen once before any is
	// chosen again, as far as it is possible. Defaults to all.
	Kinds []FaultKind

	// Members is how many there are at the begin: they have the numbers from 0.
	// Defaults to 3.
	Members int

	// Least is how many members are left that run and are neither paused nor
	// cut off; Most is how many there are at most. Default to 1 and Members+2.
	Least, Most int

	// Every is the mean time between two faults. Defaults to 3 seconds.
	Every time.Duration

	// Lease is what a pause and a partition are longer than: they take 1.2 to
	// 2.2 times as long. Defaults to 5 seconds.
	Lease time.Duration
}

func (c Faults) withDefaults() Faults {
	if len(c.Kinds) == 0 {
		c.Kinds = faultKinds()
	}
	if c.Members == 0 {
		c.Members = DefaultMembers
	}
	if c.Least == 0 {
		c.Least = 1
	}
	if c.Most == 0 {
		c.Most = c.Members + 2
	}
	if c.Every == 0 {
		c.Every = DefaultEvery
	}
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	return c
}

// Schedule draws up a plan that is over, with all faults that last, within a
// duration. The same arguments give the same plan; since that may change with
// the version of this package, print the plan too. A member that is paused or
// cut off is left alone until a lease later.
func Schedule(seed uint64, duration time.Duration, cfg Faults) Plan {
	cfg = cfg.withDefaults()
	s := &scheduler{Faults: cfg, r: rand.New(rand.NewPCG(seed, 0)), duration: duration, next: cfg.Members}
	for i := range cfg.Members {
		s.members = append(s.members, member{number: i})
	}
	var p Plan
	for at := s.between(cfg.Every/2, cfg.Every*3/2); at < duration; at += s.between(cfg.Every/2, cfg.Every*3/2) {
		if f, ok := s.draw(at); ok {
			p = append(p, f)
		}
	}
	return p
}

// scheduler knows how things are at the time of the next fault.
type scheduler struct {
	Faults
	r        *rand.Rand
	duration time.Duration
	members  []member // those that run
	next     int      // number of the next one
	deck     []FaultKind
}

type member struct {
	number int
	well   time.Duration // when the last fault is over
	free   time.Duration // when the next may come
}

// between draws a time, in whole milliseconds.
func (s *scheduler) between(from, to time.Duration) time.Duration {
	return (from + time.Duration(s.r.Int64N(int64(max(to-from, 1))))).Round(time.Millisecond)
}

// draw takes the first possible kind off the deck.
func (s *scheduler) draw(at time.Duration) (Fault, bool) {
	for range 2 { // what is left of one deck, and a new one
		for i, kind := range s.deck {
			if f, ok := s.fault(at, kind); ok {
				s.deck = slices.Delete(s.deck, i, i+1)
				return f, true
			}
		}
		deck := slices.Clone(s.Kinds)
		s.r.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		s.deck = append(s.deck, deck...)
		if len(s.deck) > 4*len(s.Kinds) {
			s.deck = deck // the rest has not been possible for long
		}
	}
	return Fault{}, false
}

// fault makes a fault of that kind, if there can be one.
func (s *scheduler) fault(at time.Duration, kind FaultKind) (Fault, bool) {
	f := Fault{At: at, Kind: kind}
	switch kind {
	case RestartBus:
		return f, true
	case AddMember:
		if len(s.members) >= s.Most {
			return f, false
		}
		f.Member = s.next
		s.members = append(s.members, member{number: s.next})
		s.next++
		return f, true
	}
	var free []int
	well := 0
	for i, m := range s.members {
		if m.well <= at {
			well++
		}
		if m.free <= at {
			free = append(free, i)
		}
	}
	if len(free) == 0 || kind != CutMember && well <= s.Least {
		return f, false
	}
	i := free[s.r.IntN(len(free))]
	m := &s.members[i]
	f.Member = m.number
	switch {
	case kind.lasts():
		f.For = s.between(s.Lease*6/5, s.Lease*11/5)
		if f.At+f.For > s.duration {
			return f, false
		}
		m.well = f.At + f.For
		m.free = m.well + s.Lease
	case kind == KillMember || kind == RemoveMember:
		s.members = slices.Delete(s.members, i, i+1)
	}
	return f, true
}

// Run makes the faults happen: it calls do at the time of each, or as soon as
// the one before is done, and what do returned when a fault that lasts is over.
// What lasts is over when Run returns, in any case. It returns early with the
// first error, or when ctx ends.
func (p Plan) Run(ctx context.Context, do func(context.Context, Fault) (undo func() error, err error)) (err error) {
	type undoing struct {
		at   time.Duration
		undo func() error
	}
	var later []undoing // the earliest first
	defer func() {
		for _, u := range later {
			if undoErr := u.undo(); err == nil {
				err = undoErr
			}
		}
	}()
	begin := time.Now()
	for len(p) > 0 || len(later) > 0 {
		undo := len(later) > 0 && (len(p) == 0 || later[0].at <= p[0].At)
		var at time.Duration
		if undo {
			at = later[0].at
		} else {
			at = p[0].At
		}
		if err := wait(ctx, time.Until(begin.Add(at))); err != nil {
			return err
		}
		if undo {
			u := later[0]
			later = later[1:]
			if err := u.undo(); err != nil {
				return err
			}
			continue
		}
		f := p[0]
		p = p[1:]
		fn, err := do(ctx, f)
		if fn != nil {
			// From when it began, not from when it should have.
			later = append(later, undoing{max(f.At, time.Since(begin)) + f.For, fn})
			slices.SortStableFunc(later, func(a, b undoing) int { return int(a.at - b.at) })
		}
		if err != nil {
			return fmt.Errorf("%v: %w", f, err)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
