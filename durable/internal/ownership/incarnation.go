package ownership

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/durable/internal/journal"
	"rpc.do/durable/internal/lease"
)

// incarnation is a member from when it joins until its lease is lost. The next
// one has another id, so nothing that this one began concerns it.
type incarnation struct {
	id  string
	ctx context.Context // ends with it
	end context.CancelFunc

	// What follows is used by one renewal at a time.
	rev      uint64    // of its key, zero before it is known to be stored
	renewals []renewal // whose answers have not come
}

type renewal struct {
	stamp string
	sent  lease.Instant
}

// maxRenewals bounds how many renewals without an answer are remembered.
const maxRenewals = 64

func newIncarnation(ctx context.Context) *incarnation {
	in := &incarnation{id: rand.Text()}
	in.ctx, in.end = context.WithCancel(ctx)
	return in
}

func (in *incarnation) key() string { return memberPrefix + in.id }

// errExpelled says that the lease is lost: others may own the slots by now.
var errExpelled = errors.New("the lease is lost")

// renew writes the member's key and extends the lease.
func (m *Member) renew(ctx context.Context, in *incarnation, leaving bool) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Lease/4)
	defer cancel()
	for {
		refused, err := m.sendRenewal(ctx, in, leaving)
		if rejected, ok := errors.AsType[*journal.Rejected](err); ok && rejected.Code == codeNoResponders {
			// The stream has no leader now, or somebody has deleted it.
			return errors.Join(err, m.ensureBucket(ctx))
		}
		if refused == nil {
			return err
		}
		// The answer to an earlier renewal was lost, or the key has expired, or
		// somebody has fenced this member off.
		now, err := m.current(ctx, in.key(), refused.Last)
		switch {
		case err != nil:
			return err
		case now == nil && in.rev == 0 || now != nil && now.Sequence != refused.Last && now.Sequence <= in.rev:
			if err := pause(ctx, 10*time.Millisecond); err != nil { // a replica that is behind
				return err
			}
		case !in.recognise(now):
			return errExpelled
		default:
			m.acknowledged(in, readPeer(now).Renewal, now.Sequence)
		}
	}
}

// codeNoResponders is what a write is rejected with when no stream takes it.
const codeNoResponders = 503

// sendRenewal sends one renewal. It returns a refusal apart from other errors.
func (m *Member) sendRenewal(ctx context.Context, in *incarnation, leaving bool) (*journal.Refused, error) {
	r := renewal{stamp: rand.Text(), sent: lease.Now()}
	value, err := json.Marshal(memberRecord{
		Name: m.cfg.Name, Classes: m.names(), Leaving: leaving, LeaseMS: m.cfg.Lease.Milliseconds(), Renewal: r.stamp,
	})
	if err != nil {
		return nil, err
	}
	if len(in.renewals) == maxRenewals {
		in.renewals = slices.Delete(in.renewals, 0, 1)
	}
	in.renewals = append(in.renewals, r)
	rev, err := m.journal.Write(ctx, journal.Message{Key: in.key(), Data: value, Header: nats.Header{
		journal.HeaderExpect: {strconv.FormatUint(in.rev, 10)},
		journal.HeaderTTL:    {ttl(m.cfg.Lease)},
	}})
	if err == nil {
		m.acknowledged(in, r.stamp, rev)
		return nil, nil
	}
	refused, _ := errors.AsType[*journal.Refused](err)
	return refused, err
}

// recognise reports whether what is stored is a renewal of this incarnation.
// Anything else may be of a copy of this process, such as a virtual machine that
// was restored twice: it has the same id, and its slots are not ours.
func (in *incarnation) recognise(now *journal.Stored) bool {
	p := readPeer(now)
	return !p.dead && slices.ContainsFunc(in.renewals, func(r renewal) bool { return r.stamp == p.Renewal })
}

// acknowledged extends the lease by a renewal that was stored.
func (m *Member) acknowledged(in *incarnation, stamp string, rev uint64) {
	for _, r := range in.renewals {
		if r.stamp == stamp {
			m.lease.Extend(r.sent, m.cfg.Lease-m.cfg.Margin)
		}
	}
	in.rev, in.renewals = rev, in.renewals[:0]
}

// current reads the last message of a key, whose sequence is known unless it is
// zero.
func (m *Member) current(ctx context.Context, key string, sequence uint64) (*journal.Stored, error) {
	if sequence != 0 {
		if s, err := m.journal.At(ctx, sequence); err != nil || s != nil && s.Key == key {
			return s, err
		}
	}
	return m.journal.Last(ctx, key)
}

// resign deletes the member's key, so that nobody waits for the lease to end. It
// must have ended here.
func (m *Member) resign(in *incarnation) {
	if in == nil || !m.bus.Connected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	_, err := m.journal.Write(ctx, journal.Message{Key: in.key(), Header: tombstone(true)})
	if err != nil {
		m.cfg.Logger.Debug().Err(err).Msg("member key not deleted; it expires by itself")
	}
}

// leaveTimeout bounds what is done for the sake of others before the end.
const leaveTimeout = time.Second

// ttl writes a duration as the server takes it: whole seconds.
func ttl(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10) + "s"
}

// bucketVersion is the version of the bucket's config.
const bucketVersion = 1

func (m *Member) ensureBucket(ctx context.Context) error {
	_, err := m.bus.EnsureStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + Bucket, Subjects: []string{"$KV." + Bucket + ".>"}, Description: "owners of durable objects",
		MaxMsgsPerSubject: 1, AllowRollup: true, AllowDirect: true, AllowMsgTTL: true,
		SubjectDeleteMarkerTTL: markerTTL, Storage: jetstream.FileStorage,
	}, bucketVersion)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
