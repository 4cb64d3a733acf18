package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	var all []*Stored
	for get := (directGet{NextFor: j.prefix + key, Seq: 1, Batch: 256, MaxBytes: maxReadBytes}); ; {
		found, end, err := j.many(ctx, get)
		if err != nil && !errors.Is(err, errNothing) {
			return nil, err
		}
		all = append(all, found...)
		if err != nil || end.left == 0 || len(found) == 0 {
			return all, nil
		}
		get.Seq = found[len(found)-1].Sequence + 1
	}
}

// LastOf returns the last messages of the keys that have one, from replicas that
// have at least the message with the sequence after. Keys may have wildcards;
// 1024 messages may match. Witness is a key that surely has a message: it is
// asked for, and returned, only when no other is found, since it takes a message
// for a replica to say how far it is. LastOf tries again until ctx ends.
//
// When none of the messages has a sequence beyond after, all of them are the
// last ones as of it. Otherwise some may be newer than others, and a key may
// come twice, its older message first.
func (j *Journal) LastOf(ctx context.Context, after uint64, witness string, keys ...string) ([]*Stored, error) {
	get := directGet{Batch: maxLast, MaxBytes: maxReadBytes, MultiLast: make([]string, len(keys), len(keys)+1)}
	for i, key := range keys {
		get.MultiLast[i] = j.prefix + key
	}
	if len(keys) == 0 {
		get.MultiLast = append(get.MultiLast, j.prefix+witness)
	}
	var all []*Stored
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		found, end, err := j.many(ctx, get)
		switch {
		case errors.Is(err, errNothing) && len(get.MultiLast) == len(keys):
			get.MultiLast = append(get.MultiLast, j.prefix+witness)
			continue
		case err == nil && end.upTo >= after:
			all = append(all, found...)
			if end.left == 0 || len(found) == 0 {
				return all, nil
			}
			// What is not on the next page has been on this one, or has been
			// written since; so the next must not come from an older replica.
			get.Seq, after = found[len(found)-1].Sequence+1, end.upTo
			continue
		case err == nil, errors.Is(err, errNothing): // an old replica
			err = ErrStale
		case errors.Is(err, ErrTooMany):
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Keys returns the keys that match, which may have a wildcard, in the order of
// their bytes, as the stream had them when it had at least the message with the
// sequence after. What comes or goes while it reads may be in or not. Some may be
// deleted.
func (j *Journal) Keys(ctx context.Context, after uint64, match string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var keys []string
	for offset := 0; ; {
		page, total, err := j.keysFrom(ctx, after, match, offset)
		if err != nil {
			return nil, fmt.Errorf("journal: list the keys of %s: %w", j.stream, err)
		}
		n := len(keys)
		if offset > 0 && n > 0 && (len(page) == 0 || page[0] > keys[n-1]) {
			offset = max(0, offset-pageOverlap) // so many have gone meanwhile that some were passed over
			continue
		}
		for _, key := range page {
			if n == 0 || key > keys[n-1] {
				keys = append(keys, key)
			}
		}
		if offset+len(page) >= total {
			return keys, nil
		}
		offset = max(offset+len(page)-pageOverlap, offset+1)
	}
}

// pageOverlap is by how much the pages of Keys overlap: keys before a page may go
// while they are read.
const pageOverlap = 1000

// keysFrom returns a page of the keys, sorted, and how many there are.
func (j *Journal) keysFrom(ctx context.Context, after uint64, match string, offset int) (page []string, total int, err error) {
	request, err := json.Marshal(map[string]any{"subjects_filter": j.prefix + match, "offset": offset})
	if err != nil {
		return nil, 0, err
	}
	for {
		msg, err := j.bus.Conn().RequestWithContext(ctx, "$JS.API.STREAM.INFO."+j.stream, request)
		if err != nil {
			return nil, 0, err
		}
		var info struct {
			Total int `json:"total"`
			State struct {
				LastSeq  uint64            `json:"last_seq"`
				Subjects map[string]uint64 `json:"subjects"`
			} `json:"state"`
			Error *struct {
				Description string `json:"description"`
			} `json:"error"`
		}
		switch err := json.Unmarshal(msg.Data, &info); {
		case err != nil:
			return nil, 0, err
		case info.Error != nil:
			return nil, 0, errors.New(info.Error.Description)
		case info.State.LastSeq >= after:
			for subject := range info.State.Subjects {
				page = append(page, j.Key(subject))
			}
			slices.Sort(page)
			return page, info.Total, nil
		}
		select { // a leader that is none any more
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, 0, ErrStale
		}
	}
}

// listTimeout bounds a listing of keys.
const listTimeout = 30 * time.Second

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
