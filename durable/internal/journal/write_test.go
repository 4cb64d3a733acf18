package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// newBucket makes a bucket as classes of objects have it, and opens its journal.
func newBucket(t testing.TB, b *bus.Bus, name string) *Journal {
	t.Helper()
	_, err := b.JetStream().CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, MaxMsgsPerSubject: 5, Replicas: b.Replicas(),
		AllowRollup: true, AllowDirect: true, AllowAtomicPublish: true, AllowMsgTTL: true, AllowMsgSchedules: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return open(t, b, name)
}

func open(t testing.TB, b *bus.Bus, name string) *Journal {
	t.Helper()
	j, err := Open(b, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

// expecting is a message that is stored only if its key's last sequence is rev.
func expecting(key string, rev uint64, data string) Message {
	return Message{Key: key, Data: []byte(data), Header: nats.Header{HeaderExpect: {strconv.FormatUint(rev, 10)}}}
}

func put(t testing.TB, j *Journal, msgs ...Message) uint64 {
	t.Helper()
	seq, err := j.Write(t.Context(), msgs...)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// has fails the test unless the stream has so many messages.
func has(t testing.TB, j *Journal, want uint64) {
	t.Helper()
	s, err := j.bus.JetStream().Stream(t.Context(), j.stream)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.LastSeq; n != want {
		t.Errorf("the stream is at %d, want %d", n, want)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	j := newBucket(t, bustest.New(t), "b")
	if seq := put(t, j, expecting("a", 0, "1")); seq != 1 {
		t.Errorf("first: %d", seq)
	}
	if seq := put(t, j, expecting("a", 1, "2"), Message{Key: "a.x"}, Message{Key: "a.y"}); seq != 2 {
		t.Errorf("a batch of 3 after 1: %d", seq)
	}
	if seq := put(t, j, expecting("a", 2, "3")); seq != 5 {
		t.Errorf("after the batch: %d", seq)
	}
	for name, msgs := range map[string][]Message{
		"one":                 {expecting("a", 2, "no")},
		"new":                 {expecting("a", 0, "no")},
		"far":                 {expecting("a", 99, "no")},
		"batch":               {expecting("a", 2, "no"), {Key: "b", Data: []byte("no")}},
		"for another subject": {{Key: "b", Header: nats.Header{HeaderExpect: {"2"}, HeaderExpectSubject: {j.Subject("a")}}}},
	} {
		_, err := j.Write(t.Context(), msgs...)
		refused, ok := errors.AsType[*Refused](err)
		if !ok || refused.Last != 5 || !strings.Contains(err.Error(), "5") {
			t.Errorf("%s: %v, want refused at 5", name, err)
		}
	}
	has(t, j, 5)
	if j.Key(j.Subject("a.b")) != "a.b" {
		t.Error(j.Key(j.Subject("a.b")))
	}
}

// A batch is stored whole or not at all, whichever of its messages is wrong.
func TestBatchIsAtomic(t *testing.T) {
	t.Parallel()
	j := newBucket(t, bustest.New(t), "b")
	put(t, j, Message{Key: "there", Data: []byte("1")})
	good := Message{Key: "a", Data: []byte("x")}
	many := make([]Message, MaxBatch+1)
	for i := range many {
		many[i] = Message{Key: fmt.Sprint("many.", i)}
	}
	for name, msgs := range map[string][]Message{
		"TTL of the first": {{Key: "b", Header: nats.Header{HeaderTTL: {"soon"}}}, good},
		"TTL of the last":  {good, {Key: "b", Header: nats.Header{HeaderTTL: {"soon"}}}},
		"schedule":         {good, {Key: "b", Header: nats.Header{HeaderSchedule: {"@at noon"}}}},
		"header of 64 KiB": {good, {Key: "b", Header: nats.Header{"X": {strings.Repeat("x", 1<<16)}}}, good},
		"too large":        {good, {Key: "b", Data: make([]byte, 1<<20+1)}},
		"too many":         many,
		"an id twice":      {{Key: "a", Header: nats.Header{nats.MsgIdHdr: {"1"}}}, {Key: "b", Header: nats.Header{nats.MsgIdHdr: {"1"}}}},
	} {
		_, err := j.Write(t.Context(), msgs...)
		if rejected, ok := errors.AsType[*Rejected](err); !ok || rejected.Passing {
			t.Errorf("%s: %v", name, err)
		}
	}
	has(t, j, 1)
	if seq := put(t, j, many[:MaxBatch]...); seq != 2 {
		t.Errorf("the largest batch begins at %d", seq)
	}
	has(t, j, 1+MaxBatch)
}

func TestWriteWithoutAnswer(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	j := newBucket(t, b, "b")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, give := range map[string]func(Message) (uint64, error){
		"ctx":     func(m Message) (uint64, error) { return j.Write(ended, m) },
		"timeout": func(m Message) (uint64, error) { return j.WriteWithin(1, m) },
		"batch":   func(m Message) (uint64, error) { return j.WriteWithin(1, m, Message{Key: "more"}) },
	} {
		if _, err := give(expecting(name, 0, "first")); err == nil {
			continue // the answer was faster
		} else if rejected, ok := errors.AsType[*Rejected](err); ok && rejected.Passing {
			continue // it was not even sent
		} else if !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, err := j.Write(t.Context(), expecting(name, 0, "again"))
		refused, ok := errors.AsType[*Refused](err)
		if !ok {
			t.Errorf("%s: again: %v", name, err)
			continue
		}
		if m, err := j.At(t.Context(), refused.Last); err != nil || string(m.Data) != "first" {
			t.Errorf("%s: what is in the way is %v, %v", name, m, err)
		}
	}
	closed, err := Open(b, "b")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := closed.Write(t.Context(), Message{Key: "a", Header: nats.Header{HeaderExpect: {"0"}}})
		done <- err
	}()
	closed.Close()
	if err := <-done; err != nil && !errors.Is(err, ErrNoAnswer) {
		t.Errorf("closed: %v", err)
	}
}

// An answer that comes too late is not taken for that to another write.
func TestLateAnswers(t *testing.T) {
	t.Parallel()
	j := newBucket(t, bustest.New(t), "b")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 100 {
				key, data := fmt.Sprintf("k%d.%d", w, i), fmt.Sprint(i)
				timeout := time.Minute
				if i%2 == 0 {
					timeout = time.Duration(i) * 10 * time.Microsecond
				}
				seq, err := j.WriteWithin(timeout, expecting(key, 0, data))
				if err != nil {
					if i%2 == 1 || !errors.Is(err, ErrNoAnswer) {
						t.Errorf("%s: %v", key, err)
					}
					continue
				}
				if m, err := j.At(t.Context(), seq); err != nil || m == nil || m.Key != key || string(m.Data) != data {
					t.Errorf("%s was stored at %d, there is %v, %v", key, seq, m, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestRejected(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	rejected := func(j *Journal, passing bool, m ...Message) {
		t.Helper()
		_, err := j.Write(t.Context(), m...)
		if r, ok := errors.AsType[*Rejected](err); !ok || r.Passing != passing {
			t.Errorf("%v: want rejected, passing %v", err, passing)
		}
	}
	rejected(open(t, b, "none"), true, Message{Key: "a"})
	rejected(open(t, b, "none"), true, Message{Key: "a"}, Message{Key: "b"})
	j := newBucket(t, b, "b")
	rejected(j, false, Message{Key: "a", Data: make([]byte, b.MaxPayload()+1)})
	rejected(j, false, Message{Key: "a", Header: nats.Header{HeaderTTL: {"soon"}}})
	rejected(j, false, Message{Key: "a", Header: nats.Header{"X": {strings.Repeat("x", math.MaxUint16)}}})
	lost := make(chan struct{}, 1)
	b.OnDisconnect(func() { lost <- struct{}{} })
	s.Shutdown()
	<-lost
	rejected(j, true, Message{Key: "a"})
	rejected(j, true, Message{Key: "a"}, Message{Key: "b"})
}

// Many writers, each by single messages and batches, try to follow the last
// revision: nobody overwrites what he has not seen, and all that was acknowledged
// is there, where the answer says.
func TestCompareAndSet(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	newBucket(t, bustest.Connect(t, s), "b")
	const writers, each = 8, 25
	var refusals atomic.Int32
	var mu sync.Mutex
	stored := map[uint64]string{}
	var wg sync.WaitGroup
	for w := range writers {
		j := open(t, bustest.Connect(t, s), "b")
		wg.Go(func() {
			rev := uint64(0)
			for i := 0; i < each; {
				data := fmt.Sprint(w, "/", i)
				msgs := []Message{expecting("a", rev, data)}
				for n := range i % 3 {
					msgs = append(msgs, Message{Key: fmt.Sprintf("e.%d", n), Data: []byte(data)})
				}
				first, err := j.Write(t.Context(), msgs...)
				if refused, ok := errors.AsType[*Refused](err); ok && refused.Last > 0 {
					rev = refused.Last
					refusals.Add(1)
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", data, err)
					return
				}
				mu.Lock()
				for n, m := range msgs {
					stored[first+uint64(n)] = m.Key + "=" + data
				}
				mu.Unlock()
				rev = first
				i++
			}
		})
	}
	wg.Wait()
	j := open(t, bustest.Connect(t, s), "b")
	has(t, j, uint64(len(stored)))
	for _, key := range []string{"a", "e.0", "e.1"} {
		history, err := j.History(t.Context(), key)
		if err != nil || len(history) != 5 {
			t.Fatalf("%s: %d messages, %v", key, len(history), err)
		}
		for _, m := range history {
			if got := key + "=" + string(m.Data); stored[m.Sequence] != got {
				t.Errorf("%d has %s, its writer thinks %s", m.Sequence, got, stored[m.Sequence])
			}
		}
	}
	t.Logf("%d refusals", refusals.Load())
}

// More batches at once than the server takes from all, from several members.
func TestManyBatches(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	newBucket(t, bustest.Connect(t, s), "b")
	var wg sync.WaitGroup
	for m := range 3 {
		j := open(t, bustest.Connect(t, s), "b")
		for w := range 40 {
			wg.Go(func() {
				for i := range 3 {
					if _, err := j.Write(t.Context(), expecting(fmt.Sprintf("k%d.%d.%d", m, w, i), 0, ""), Message{Key: "x"}, Message{Key: "y"}); err != nil {
						t.Errorf("batch: %v", err)
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestReadAck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		data  string
		n     int
		first uint64
		err   any
	}{
		{`{"stream":"S","seq":42}`, 1, 42, nil},
		{`{"stream":"S","seq":42,"batch":"x","count":3}`, 3, 40, nil},
		{`{"stream":"S", "domain":"hub", "seq":42}`, 1, 42, nil},
		{`{"stream":"S","seq":2}`, 3, 0, ErrNoAnswer},
		{`{"stream":"S","seq":0}`, 1, 0, ErrNoAnswer},
		{`{}`, 1, 0, ErrNoAnswer},
		{`{"stream":"S","seq":-1}`, 1, 0, ErrNoAnswer},
		{`{"stream":"S","seq":}`, 1, 0, ErrNoAnswer},
		{`{"stream":"S","seq":99999999999999999999}`, 1, 0, ErrNoAnswer},
		{``, 1, 0, ErrNoAnswer},
		{`+ACK`, 1, 0, ErrNoAnswer},
		{`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 17"}}`, 1, 0, Refused{17}},
		{`{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"}}`, 1, 0, Refused{0}},
		{`{"error":{"code":503,"err_code":10008,"description":"system temporarily unavailable"}}`, 1, 0, Rejected{10008, "system temporarily unavailable", true}},
		{`{"error":{"code":429,"err_code":10210,"description":"too many inflight"}}`, 1, 0, Rejected{10210, "too many inflight", true}},
		{`{"error":{"code":400,"err_code":10176,"description":"batch is incomplete"}}`, 2, 0, Rejected{10176, "batch is incomplete", true}},
		{`{"error":{"code":400,"err_code":10199,"description":"batch is too large"}}`, 2, 0, Rejected{10199, "batch is too large", false}},
	} {
		first, err := readAck(&nats.Msg{Data: []byte(tt.data)}, tt.n)
		var got any = err
		switch e := err.(type) {
		case *Refused:
			got = *e
		case *Rejected:
			got = *e
		}
		if first != tt.first || got != tt.err {
			t.Errorf("%s: %d, %v, want %d, %v", tt.data, first, got, tt.first, tt.err)
		}
	}
}

// No answer of a server makes reading it fail in another way than by an error, or
// tells of a sequence that it does not name.
func FuzzReadAck(f *testing.F) {
	for _, seed := range []string{`{"stream":"S","seq":42}`, `{"stream":"S","seq":42,"duplicate":true}`, `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 17"}}`} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		n = 1 + n&1023
		first, err := readAck(&nats.Msg{Data: data}, n)
		if (err == nil) != (first > 0) || err == nil && !strings.Contains(string(data), strconv.FormatUint(first+uint64(n)-1, 10)) {
			t.Errorf("%q of %d: %d, %v", data, n, first, err)
		}
	})
}
