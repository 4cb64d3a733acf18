package read

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
)

// Open is the end of a scan that has none.
const Open = ^uint64(0)

// Scan reads what is there between two sequences.
type Scan struct {
	*Reader
	end  uint64 // the sequence after the last one
	sure uint64 // all before it is seen, on a server that is behind the others too
	many bool   // there are several servers
}

// NewScan returns a scan of [from, end), which ends where the stream does. All
// that the stream had when info was asked for is in it. It is to be closed.
func NewScan(b *bus.Bus, from, end uint64, info *jetstream.StreamInfo, cfg Config) *Scan {
	return &Scan{
		Reader: New(b, max(from, 1)-1, cfg),
		end:    end,
		sure:   min(end, info.State.LastSeq+1),
		many:   info.Config.Replicas > 1,
	}
}

// More reports whether there may be something after a message of the scan.
func (s *Scan) More(m Message) bool {
	next := m.Stored.Sequence + 1
	return next < s.end && (m.Pending > 0 || s.many && next < s.sure)
}

// anewAfter is how often a consumer may say that there is nothing more, while
// there is, before it is made anew.
const anewAfter = 4

// Next returns the next message, or ErrNoMore. That a consumer has nothing more is
// not the end: it is when the leader of the stream has nothing more either.
func (s *Scan) Next(ctx context.Context) (Message, error) {
	for try := 1; ; try++ {
		m, err := s.Reader.Next(ctx)
		if err == nil && m.Stored.Sequence >= s.end {
			return Message{}, ErrNoMore
		}
		if !errors.Is(err, ErrNoMore) {
			return m, err
		}
		if done, err := s.complete(ctx); err != nil {
			return Message{}, err
		} else if done {
			return Message{}, ErrNoMore
		}
		if try%anewAfter == 0 {
			s.Close()
		}
		if err := Pause(ctx, try); err != nil {
			return Message{}, err
		}
	}
}

// complete asks the leader of the stream whether there is nothing more, unless all
// has come that was to. The consumer is on one of the stream's servers, which may
// be behind the leader.
func (s *Scan) complete(ctx context.Context) (bool, error) {
	subjects := s.cfg.Filters
	if len(subjects) == 0 {
		subjects = []string{">"}
	}
	for _, subject := range subjects {
		if s.Position+1 >= s.sure {
			return true, nil
		}
		m, err := FromLeader(ctx, s.bus, s.Position+1, subject)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, err
		}
		if err == nil && m.Sequence < s.sure {
			return false, nil
		}
	}
	return true, nil
}
