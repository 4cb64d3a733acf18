package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// LeaderLast returns the last message of a key, nil when there is none, as the
// stream's leader has it: all that was acknowledged before is seen, unless the
// leader has been deposed and has not heard of it.
func (j *Journal) LeaderLast(ctx context.Context, key string) (*Stored, error) {
	var a struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err := j.ask(ctx, "STREAM.MSG.GET.", map[string]string{"last_by_subj": j.prefix + key}, &a)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: read %s of %s: %w", key, j.stream, err)
	}
	m := &Stored{Key: j.Key(a.Message.Subject), Sequence: a.Message.Seq, Time: a.Message.Time, Data: a.Message.Data}
	if len(a.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(a.Message.Header); err != nil {
			return nil, fmt.Errorf("journal: read %s of %s: %w", key, j.stream, err)
		}
	}
	return m, nil
}

// Size is how much a stream has.
type Size struct {
	LastSequence uint64 `json:"last_seq"`
	Subjects     int    `json:"num_subjects"` // with all keys of the system's own
}

// LeaderSize returns the size of the stream, as its leader has it.
func (j *Journal) LeaderSize(ctx context.Context) (Size, error) {
	var a struct {
		State Size `json:"state"`
	}
	if err := j.ask(ctx, "STREAM.INFO.", nil, &a); err != nil {
		return Size{}, fmt.Errorf("journal: look up %s: %w", j.stream, err)
	}
	return a.State, nil
}

// ask makes a request about the stream of the server's API.
func (j *Journal) ask(ctx context.Context, what string, request, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	msg, err := j.bus.Conn().RequestWithContext(ctx, jetstream.DefaultAPIPrefix+what+j.stream, data)
	if err != nil {
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &failed); err != nil {
		return err
	}
	if failed.Error != nil {
		return failed.Error
	}
	return json.Unmarshal(msg.Data, answer)
}
