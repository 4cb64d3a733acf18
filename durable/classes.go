package durable

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/ownership"
)

// ClassInfo is what the bus tells of a class.
type ClassInfo struct {
	// Class is the name that its bucket has.
	Class string `json:"class"`
	// Objects is how many there are. In a bucket of more than 100,000 keys they
	// are not counted: Exact is false, and there are Objects at most.
	Objects int  `json:"objects"`
	Exact   bool `json:"exact"`
	// Members is how many instances serve the class.
	Members int `json:"members"`
	// Paused says what pauses the class.
	Paused *Pause `json:"paused,omitempty"`
}

// Classes lists the classes that have a bucket, by name.
func Classes(ctx context.Context, b *bus.Bus) ([]ClassInfo, error) {
	var all []ClassInfo
	names := b.JetStream().StreamNames(ctx)
	for name := range names.Name() {
		if class, ok := strings.CutPrefix(name, "KV_"+Bucket("")); ok && rpc.ValidateService(class) == nil {
			all = append(all, ClassInfo{Class: class})
		}
	}
	switch err := names.Err(); {
	case err == nil:
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return nil, rpc.Unavailable.Errorf("JetStream does not answer: is it enabled on the bus (nats-server -js; rpcdo dev has it)? %w", err)
	default:
		return nil, cmp.Or(rpc.CodeOf(ctx.Err()), rpc.Unavailable).Errorf("the classes can't be listed: %w", err)
	}
	members, err := membersOf(ctx, b)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b ClassInfo) int { return strings.Compare(a.Class, b.Class) })
	for i := range all {
		all[i].Members = members[all[i].Class]
		if err := all[i].look(ctx, b); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// look fills in what the bucket tells.
func (info *ClassInfo) look(ctx context.Context, b *bus.Bus) error {
	c, err := Open(ctx, b, info.Class)
	if err != nil {
		return err
	}
	defer c.Close()
	if info.Objects, info.Exact, err = c.count(ctx); err != nil {
		return err
	}
	m, err := c.journal.LeaderLast(ctx, pausedPrefix+pausedClass)
	if err != nil {
		return c.failed(ctx, err)
	}
	info.Paused = newPause("", m)
	return nil
}

// membersOf counts the members that host each class.
func membersOf(ctx context.Context, b *bus.Bus) (map[string]int, error) {
	j, err := journal.Open(b, ownership.Bucket)
	if err != nil {
		return nil, rpc.Unavailable.Errorf("the members can't be listed: %w", err)
	}
	defer j.Close()
	classes := map[string][]string{} // by member
	owners := Catalogue{bus: b, journal: j, class: ownership.Bucket}
	err = owners.scan(ctx, journal.Follow{Match: "member.*"}, func(m *journal.Stored) {
		var member struct {
			Classes []string `json:"classes"`
		}
		if m.Deleted() || json.Unmarshal(m.Data, &member) != nil {
			delete(classes, m.Key)
			return
		}
		classes[m.Key] = member.Classes
	})
	if err != nil && rpc.CodeOf(err) != rpc.NotFound { // as when nobody has ever served any
		return nil, err
	}
	members := map[string]int{}
	for _, hosted := range classes {
		for _, class := range hosted {
			members[class]++
		}
	}
	return members, nil
}
