package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

func TestRead(t *testing.T) {
	t.Parallel()
	j := newBucket(t, bustest.New(t), "b")
	for i := range 8 {
		put(t, j, Message{Key: "a", Data: fmt.Append(nil, i)}, Message{Key: "a.x", Data: []byte("x")})
	}
	put(t, j, Message{Key: "b", Header: nats.Header{HeaderOperation: {"DEL"}}}) // 17
	ctx := t.Context()
	if m, err := j.Last(ctx, "a"); err != nil || m.Sequence != 15 || string(m.Data) != "7" || m.Key != "a" || m.Deleted() || time.Since(m.Time).Abs() > time.Minute {
		t.Errorf("last: %v, %v", m, err)
	}
	if m, err := j.Last(ctx, "b"); err != nil || !m.Deleted() {
		t.Errorf("last of what is deleted: %v, %v", m, err)
	}
	if m, err := j.Last(ctx, "none"); err != nil || m != nil {
		t.Errorf("last of nothing: %v, %v", m, err)
	}
	if m, err := j.At(ctx, 14); err != nil || m.Key != "a.x" {
		t.Errorf("at 14: %v, %v", m, err)
	}
	for _, seq := range []uint64{1, 99} {
		if m, err := j.At(ctx, seq); err != nil || m != nil {
			t.Errorf("at %d: %v, %v", seq, m, err)
		}
	}
	if got := history(t, j, "a"); got != "7=3 9=4 11=5 13=6 15=7" {
		t.Errorf("history: %s", got)
	}
	if got := history(t, j, "none"); got != "" {
		t.Errorf("history of nothing: %s", got)
	}
	none := open(t, j.bus, "none")
	for name, read := range map[string]func() error{
		"last":    func() error { _, err := none.Last(ctx, "a"); return err },
		"at":      func() error { _, err := none.At(ctx, 1); return err },
		"history": func() error { _, err := none.History(ctx, "a"); return err },
		"keys":    func() error { _, err := none.Keys(ctx, 0, ">"); return err },
		"purge":   func() error { return none.Purge(ctx, []byte(`{}`)) },
	} {
		if err := read(); err == nil || !strings.Contains(err.Error(), "none") {
			t.Errorf("%s without a stream: %v", name, err)
		}
	}
}

func history(t *testing.T, j *Journal, key string) string {
	t.Helper()
	all, err := j.History(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return show(all)
}

func show(all []*Stored) string {
	var got []string
	for _, m := range all {
		got = append(got, fmt.Sprintf("%d=%s", m.Sequence, m.Data))
	}
	return strings.Join(got, " ")
}

// lastOf reads the last messages within some time.
func lastOf(t *testing.T, within time.Duration, j *Journal, after uint64, witness string, keys ...string) ([]*Stored, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return j.LastOf(ctx, after, witness, keys...)
}

func TestLastOf(t *testing.T) {
	t.Parallel()
	j := newBucket(t, bustest.New(t), "b")
	for i := range maxLast / 8 {
		var msgs []Message
		for k := range 8 {
			msgs = append(msgs, Message{Key: fmt.Sprintf("a.%04d", 8*i+k), Data: fmt.Append(nil, i)})
		}
		put(t, j, msgs...)
	}
	put(t, j, Message{Key: "w", Data: []byte("witness")})
	const last = maxLast + 1
	all, err := j.LastOf(t.Context(), last, "w", "a.*")
	if err != nil || len(all) != maxLast || all[0].Key != "a.0000" || all[maxLast-1].Key != "a.1023" {
		t.Fatalf("%d messages, %v", len(all), err)
	}
	for _, tt := range []struct {
		keys []string
		want string
	}{
		{[]string{"a.0000", "a.0001", "none", "a.0800"}, "1=0 2=0 801=100"},
		{[]string{"none", "nor.this"}, "1025=witness"},
		{nil, "1025=witness"},
	} {
		if got, err := lastOf(t, time.Minute, j, last, "w", tt.keys...); err != nil || show(got) != tt.want {
			t.Errorf("%q: %s, %v, want %s", tt.keys, show(got), err, tt.want)
		}
	}
	if _, err := lastOf(t, 200*time.Millisecond, j, last+1, "w", "a.0000"); err == nil {
		t.Error("of the future: no error")
	}
	if _, err := lastOf(t, 200*time.Millisecond, j, last+1, "w", "none"); err == nil {
		t.Error("nothing, of the future: no error")
	}
	put(t, j, Message{Key: "a.more"})
	if _, err := lastOf(t, time.Minute, j, last, "w", "a.*"); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
	keys, err := j.Keys(t.Context(), last+1, "a.*")
	if err != nil || len(keys) != maxLast+1 || !slices.IsSorted(keys) {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	if err := j.Purge(t.Context(), fmt.Appendf(nil, `{"filter":%q,"seq":%d}`, j.Subject("a.>"), last)); err != nil {
		t.Fatal(err)
	}
	if keys, err = j.Keys(t.Context(), 0, "*.>"); err != nil || len(keys) != 1 {
		t.Errorf("after the purge: %q, %v", keys, err)
	}
	if keys, err = j.Keys(t.Context(), 0, "none.*"); err != nil || len(keys) != 0 {
		t.Errorf("no keys: %q, %v", keys, err)
	}
}

// What is more than the server sends at once is read in parts.
func TestReadALot(t *testing.T) {
	t.Parallel()
	j := newBucket(t, bustest.New(t), "b")
	data := make([]byte, 900<<10)
	const messages = 3 * maxReadBytes / (900 << 10)
	for i := range messages {
		put(t, j, Message{Key: fmt.Sprintf("a.%02d", i), Data: data})
	}
	all, err := j.LastOf(t.Context(), messages, "a.00", "a.*")
	if err != nil || len(all) != messages {
		t.Fatalf("last of %d: %d, %v", messages, len(all), err)
	}
	for i, m := range all {
		if m.Sequence != uint64(i+1) || len(m.Data) != len(data) {
			t.Fatalf("message %d is %d with %d bytes", i, m.Sequence, len(m.Data))
		}
	}
	s, err := j.bus.JetStream().Stream(t.Context(), j.stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxMsgsPerSubject = 1000
	if _, err := j.bus.JetStream().UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for i := range 300 { // more than one answer has
		data := data
		if i%20 > 0 {
			data = nil
		}
		put(t, j, Message{Key: "h", Data: data})
	}
	if all, err = j.History(t.Context(), "h"); err != nil || len(all) != 300 || all[0].Sequence != messages+1 || all[299].Sequence != messages+300 {
		t.Errorf("history: %d messages, %v", len(all), err)
	}
}

// fake makes a journal whose requests of that kind are answered by what take is
// given, one after the other.
func fake(t *testing.T, api string) (j *Journal, take func(func(request []byte, reply func(data string, header ...string)))) {
	t.Helper()
	b := bustest.New(t, bustest.WithServer(func(cfg *natsd.Config) { cfg.NoJetStream, cfg.StoreDir = true, "" }))
	next := make(chan func([]byte, func(string, ...string)), 16)
	sub, err := b.Conn().Subscribe(api+"KV_fake", func(msg *nats.Msg) {
		(<-next)(msg.Data, func(data string, header ...string) {
			answer := &nats.Msg{Subject: msg.Reply, Data: []byte(data), Header: nats.Header{}}
			for i := 0; i < len(header); i += 2 {
				answer.Header.Set(header[i], header[i+1])
			}
			if err := b.Conn().PublishMsg(answer); err != nil {
				t.Error(err)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return open(t, b, "fake"), func(fn func([]byte, func(string, ...string))) { next <- fn }
}

// answered is an answer with messages "<key>:<sequence>", and its end.
func answered(t *testing.T, wantSeq uint64, upTo, left string, drop int, msgs ...string) func([]byte, func(string, ...string)) {
	return func(request []byte, reply func(string, ...string)) {
		var get directGet
		if err := json.Unmarshal(request, &get); err != nil || get.Seq != wantSeq {
			t.Errorf("request %s, %v, want from %d", request, err, wantSeq)
		}
		before := "0"
		for i, m := range msgs {
			key, seq, _ := strings.Cut(m, ":")
			if i != drop {
				reply(key, "Nats-Subject", "$KV.fake."+key, "Nats-Sequence", seq, "Nats-Time-Stamp", "2026-01-02T03:04:05Z", "Nats-Last-Sequence", before, "Nats-Num-Pending", "1")
			}
			before = seq
		}
		if drop != len(msgs) {
			reply("", "Status", "204", "Nats-UpTo-Sequence", upTo, "Nats-Num-Pending", left, "Nats-Last-Sequence", before)
		}
	}
}

const nothingLost = -1

// Replicas that lag, and parts of answers that are lost, lead to another try, and
// a page is never older than the one before.
func TestLastOfStaleReplicas(t *testing.T) {
	t.Parallel()
	j, take := fake(t, "$JS.API.DIRECT.GET.")
	status := func(code string) func([]byte, func(string, ...string)) {
		return func(_ []byte, reply func(string, ...string)) { reply("", "Status", code, "Description", "as planned") }
	}
	for name, tt := range map[string]struct {
		answers []func([]byte, func(string, ...string))
		want    string
	}{
		"behind, then not": {[]func([]byte, func(string, ...string)){
			answered(t, 0, "99", "0", nothingLost, "a.1:50"), answered(t, 0, "100", "0", nothingLost, "a.1:90"),
		}, "90=a.1"},
		"nothing, and behind": {[]func([]byte, func(string, ...string)){
			status("404"), answered(t, 0, "99", "0", nothingLost, "w:50"), answered(t, 0, "100", "0", nothingLost, "w:50", "a.1:100"),
		}, "50=w 100=a.1"},
		"not even the witness": {[]func([]byte, func(string, ...string)){
			status("404"), status("404"), answered(t, 0, "100", "0", nothingLost, "w:50"),
		}, "50=w"},
		"a message is lost": {[]func([]byte, func(string, ...string)){
			answered(t, 0, "100", "0", 1, "a.1:50", "a.2:51", "a.3:52"), answered(t, 0, "100", "0", nothingLost, "a.1:50", "a.2:51", "a.3:52"),
		}, "50=a.1 51=a.2 52=a.3"},
		"the first is lost": {[]func([]byte, func(string, ...string)){
			answered(t, 0, "100", "0", 0, "a.1:50", "a.2:51"), answered(t, 0, "100", "0", nothingLost, "a.1:50", "a.2:51"),
		}, "50=a.1 51=a.2"},
		"the last is lost": {[]func([]byte, func(string, ...string)){
			answered(t, 0, "100", "0", 1, "a.1:50", "a.2:51"), answered(t, 0, "100", "0", nothingLost, "a.1:50", "a.2:51"),
		}, "50=a.1 51=a.2"},
		"the server has trouble": {[]func([]byte, func(string, ...string)){
			status("408"), answered(t, 0, "100", "0", nothingLost, "a.1:50"),
		}, "50=a.1"},
		"the second page is older": {[]func([]byte, func(string, ...string)){
			answered(t, 0, "200", "1", nothingLost, "a.1:50", "a.2:60"),
			answered(t, 61, "150", "0", nothingLost, "a.3:70"), // does not know that a.4 moved to 180
			answered(t, 61, "201", "0", nothingLost, "a.3:70", "a.4:180"),
		}, "50=a.1 60=a.2 70=a.3 180=a.4"},
	} {
		for _, a := range tt.answers {
			take(a)
		}
		if got, err := j.LastOf(t.Context(), 100, "w", "a.*"); err != nil || show(got) != tt.want {
			t.Errorf("%s: %s, %v, want %s", name, show(got), err, tt.want)
		}
	}
}

// The end of the answer never comes: the read ends with its context.
func TestLastOfWithoutEnd(t *testing.T) {
	t.Parallel()
	j, take := fake(t, "$JS.API.DIRECT.GET.")
	take(answered(t, 0, "100", "0", 1, "a.1:50"))
	if got, err := lastOf(t, 200*time.Millisecond, j, 100, "w", "a.*"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s, %v", show(got), err)
	}
	take(answered(t, 0, "100", "0", 1, "a.1:50"))
	closed, err := Open(j.bus, "fake")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := closed.many(t.Context(), directGet{}); err == nil {
			t.Error("a read of a closed journal has an answer")
		}
	})
	closed.Close()
	wg.Wait()
}

// Keys come and go while they are read by pages: none that stays is passed over.
func TestKeysByPages(t *testing.T) {
	t.Parallel()
	j, take := fake(t, "$JS.API.STREAM.INFO.")
	stays := map[string]bool{}
	var all []string
	for i := range 10 * pageOverlap {
		key := fmt.Sprintf("k.%06d", i)
		all = append(all, key)
		stays[key] = true
	}
	const pageLength = 3 * pageOverlap
	page := func(gone, seq int) func([]byte, func(string, ...string)) {
		return func(request []byte, reply func(string, ...string)) {
			for _, key := range all[:gone] {
				delete(stays, key)
			}
			all = all[gone:]
			var get struct {
				Offset int    `json:"offset"`
				Filter string `json:"subjects_filter"`
			}
			if err := json.Unmarshal(request, &get); err != nil || get.Filter != "$KV.fake.k.*" {
				t.Errorf("request %s: %v", request, err)
			}
			subjects := map[string]int{}
			for _, key := range all[min(get.Offset, len(all)):min(get.Offset+pageLength, len(all))] {
				subjects["$KV.fake."+key] = 1
			}
			data, err := json.Marshal(map[string]any{"total": len(all), "state": map[string]any{"last_seq": seq, "subjects": subjects}})
			if err != nil {
				t.Error(err)
			}
			reply(string(data))
		}
	}
	for _, p := range []struct{ gone, seq int }{
		{0, 10}, {pageOverlap / 2, 10}, {0, 9}, {pageOverlap + 100, 10}, {0, 10}, {2 * pageOverlap, 11}, {0, 11}, {0, 11}, {0, 11}, {0, 11}, {0, 11}, {0, 11},
	} {
		take(page(p.gone, p.seq))
	}
	got, err := j.Keys(t.Context(), 10, "k.*")
	if err != nil || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Fatalf("%d keys, %v", len(got), err)
	}
	for _, key := range got {
		delete(stays, key)
	}
	if len(stays) > 0 {
		t.Errorf("%d keys are missing, such as %s", len(stays), slices.Min(slices.Collect(maps.Keys(stays))))
	}
}
