package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Stored is a message as it was stored.
type Stored struct {
	Key      string
	Sequence uint64
	Time     time.Time // the stream leader's clock
	Header   nats.Header
	Data     []byte
}

// Deleted reports whether the message says that the key has no value.
func (s *Stored) Deleted() bool {
	switch s.Header.Get(HeaderOperation) {
	case "DEL", "PURGE":
		return true
	}
	return s.Header.Get(headerReason) != ""
}

// ErrStale is returned by a read whose answer is older than asked for, however
// often it was tried.
var ErrStale = errors.New("journal: the replicas that answer are behind")

// ErrTooMany is returned by LastOf when more keys match than it can return.
var ErrTooMany = errors.New("journal: more than 1024 keys match")

// readTimeout bounds one read.
const readTimeout = 2 * time.Second

// Last returns the last message of a key, nil when there is none. Any replica
// answers: what it says may be old.
func (j *Journal) Last(ctx context.Context, key string) (*Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	msg, err := j.bus.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+j.stream+"."+j.prefix+key, nil)
	if err != nil {
		return nil, fmt.Errorf("journal: read %s of %s: %w", key, j.stream, err)
	}
	return j.stored(msg)
}

// At returns the message with that sequence, nil when it is not there (yet, on
// the replica that answers).
func (j *Journal) At(ctx context.Context, sequence uint64) (*Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	msg, err := j.bus.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+j.stream, []byte(`{"seq":`+strconv.FormatUint(sequence, 10)+`}`))
	if err != nil {
		return nil, fmt.Errorf("journal: read message %d of %s: %w", sequence, j.stream, err)
	}
	return j.stored(msg)
}

// History returns the kept messages of a key, the oldest first.
func (j *Journal) History(ctx context.Context, key string) ([]*Stored, error) {
	all, _, err := j.many(ctx, directGet{NextFor: j.prefix + key, Seq: 1, Batch: 256})
	return all, err
}

// LastOf returns the last messages of the keys that have one, as of one moment
// at which the replica had at least the message with the sequence after. Keys
// may have wildcards. At most 1024 messages are returned.
func (j *Journal) LastOf(ctx context.Context, after uint64, keys ...string) ([]*Stored, error) {
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = j.prefix + key
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		all, upTo, err := j.many(ctx, directGet{MultiLast: subjects, Batch: 1024})
		if err != nil || upTo >= after {
			return all, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ErrStale
		}
	}
}

// Keys returns the keys that match, which may have a wildcard, as the stream had
// them when it had at least the message with the sequence after. Some may be
// deleted. They are in no order.
func (j *Journal) Keys(ctx context.Context, after uint64, match string) ([]string, error) {
	type info struct {
		Total int `json:"total"`
		State struct {
			LastSeq  uint64            `json:"last_seq"`
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var keys []string
	for {
		request, err := json.Marshal(map[string]any{"subjects_filter": j.prefix + match, "offset": len(keys)})
		if err != nil {
			return nil, err
		}
		msg, err := j.bus.Conn().RequestWithContext(ctx, "$JS.API.STREAM.INFO."+j.stream, request)
		var i info
		if err == nil {
			err = json.Unmarshal(msg.Data, &i)
		}
		if err == nil && i.Error != nil {
			err = errors.New(i.Error.Description)
		}
		if err != nil {
			return nil, fmt.Errorf("journal: list the keys of %s: %w", j.stream, err)
		}
		if i.State.LastSeq < after { // a leader that is none any more
			keys = nil
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil, ErrStale
			}
		}
		for subject := range i.State.Subjects {
			keys = append(keys, j.Key(subject))
		}
		if len(i.State.Subjects) == 0 || len(keys) >= i.Total {
			return keys, nil
		}
	}
}

// listTimeout bounds a listing of keys.
const listTimeout = 30 * time.Second

// directGet is a request for several messages (ADR-31).
type directGet struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	Batch     int      `json:"batch,omitempty"`
}

// many returns the messages, and up to which sequence the replica looked.
func (j *Journal) many(ctx context.Context, get directGet) ([]*Stored, uint64, error) {
	fail := func(err error) ([]*Stored, uint64, error) {
		return nil, 0, fmt.Errorf("journal: read from %s: %w", j.stream, err)
	}
	request, err := json.Marshal(get)
	if err != nil {
		return fail(err)
	}
	conn := j.bus.Conn()
	inbox := conn.NewRespInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := conn.PublishRequest("$JS.API.DIRECT.GET."+j.stream, inbox, request); err != nil {
		return fail(err)
	}
	var all []*Stored
	deadline := time.Now().Add(timeoutOf(ctx, readTimeout))
	for {
		msg, err := sub.NextMsg(time.Until(deadline))
		if err != nil {
			return fail(err)
		}
		switch status := msg.Header.Get("Status"); status {
		case "":
			m, err := j.stored(msg)
			if err != nil {
				return nil, 0, err
			}
			all = append(all, m)
		case "204":
			upTo, _ := strconv.ParseUint(msg.Header.Get("Nats-UpTo-Sequence"), 10, 64) // only multi_last has it
			return all, upTo, nil
		case "404":
			return nil, 0, nil
		case "413":
			return nil, 0, ErrTooMany
		default:
			return fail(fmt.Errorf("%s %s", status, msg.Header.Get("Description")))
		}
	}
}

// stored reads one answer.
func (j *Journal) stored(msg *nats.Msg) (*Stored, error) {
	switch status := msg.Header.Get("Status"); status {
	case "":
	case "404":
		return nil, nil
	default:
		return nil, fmt.Errorf("journal: read from %s: %s %s", j.stream, status, msg.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("journal: read from %s: an answer without a sequence", j.stream)
	}
	at, err := time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return nil, fmt.Errorf("journal: read from %s: an answer without a time", j.stream)
	}
	return &Stored{Key: j.Key(msg.Header.Get("Nats-Subject")), Sequence: seq, Time: at, Header: msg.Header, Data: msg.Data}, nil
}

// Purge removes messages, as the request to the server's API says.
func (j *Journal) Purge(ctx context.Context, request []byte) error {
	msg, err := j.bus.Conn().RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+j.stream, request)
	if err != nil {
		return fmt.Errorf("journal: purge %s: %w", j.stream, err)
	}
	var answer struct {
		Success bool `json:"success"`
		Error   *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return fmt.Errorf("journal: purge %s: %w", j.stream, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("journal: purge %s: %s", j.stream, answer.Error.Description)
	}
	return nil
}
