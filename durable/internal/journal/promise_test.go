package journal

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// heard is a Writer that keeps what it is told.
type heard []string

func (h *heard) Written(first uint64, err error) { *h = append(*h, fmt.Sprint(first, " ", err)) }

func (h *heard) want(t *testing.T, what ...string) {
	t.Helper()
	if fmt.Sprint(*h) != fmt.Sprint(heard(what)) {
		t.Errorf("heard %q, want %q", *h, what)
	}
}

// A promise that was kept serves the next write. An answer that comes once more
// is not taken for the next one's.
func TestPromiseServesAgain(t *testing.T) {
	t.Parallel()
	a := acks{inbox: "in.", waiting: map[uint64]*write{}}
	a.promises.open()
	answer := func(p *promise, text string) { a.receive(&nats.Msg{Subject: p.reply, Data: []byte(text)}) }
	send := func(h *heard) *promise {
		p, _ := a.promise(time.Second, h)
		return p
	}
	const stored = `{"stream":"KV_OBJECTS_a","seq":%d}`
	var one, two, three, four heard
	p := send(&one)
	answer(p, fmt.Sprintf(stored, 7))
	answer(p, fmt.Sprintf(stored, 7)) // while nobody waits
	one.want(t, "7 <nil>")
	again := send(&two)
	if again != p {
		t.Errorf("the promise %s was not used again: %s", p.reply, again.reply)
	}
	answer(again, fmt.Sprintf(stored, 7))
	answer(again, fmt.Sprintf(stored, 6))
	two.want(t)
	answer(again, `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 9"}}`)
	two.want(t, "0 refused: somebody else has written (last sequence 9)")
	other := send(&three)
	if other == p {
		t.Error("a promise was used again whose write was refused")
	}
	a.takeBack(other.reply).Written(0, errors.New("not sent"))
	answer(other, fmt.Sprintf(stored, 8))
	three.want(t, "0 not sent")
	if last := send(&four); last == p || last == other {
		t.Error("a promise was used again whose write was not sent")
	}
}
