package durable_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable"
)

// When a failed turn makes the owner read the object anew while an earlier
// commit is on its way, that commit is either seen or refused: no view answers
// what it had replaced.
func TestReadAnewWhileACommitIsOnItsWay(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hold := l.barrier()
	var sick atomic.Bool
	l.initialised(hold.atCommit(durable.Config{}), func(*page, durable.Context) error {
		if sick.Swap(false) {
			return errors.New("sick")
		}
		return nil
	}, turns{"add": add, "fail": func(*page, durable.Context, string) (string, error) {
		return "", rpc.InvalidArgument.Errorf("no")
	}}, views{"read": read})
	l.want("1", "alice", "add", "1")
	hold.shut.Store(true)
	adding := l.begin("alice", "add", "10")
	l.reached("commit", hold.arrived)
	sick.Store(true)
	failing := l.begin("alice", "fail", "")
	l.until("OnInit has failed after the turn", func() bool { return !sick.Load() })
	before, err := l.call("alice", "read", "") // by a new activation
	if err != nil {
		t.Fatal(err)
	}
	hold.release()
	l.end(adding)
	l.end(failing)
	after, err := l.call("alice", "read", "")
	if err != nil || after != "11" {
		t.Errorf("after an add to 11 that was answered the view says %s, %v (before it: %s)", after, err, before)
	}
}

// An identity of the caller's own belongs to one method.
func TestIdentityOfAnotherMethod(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(durable.Config{}, turns{"add": add, "put": add}, views{"read": read})
	request := func(method string) *nats.Msg {
		msg := nats.NewMsg(bus.ObjectSubject("page", "alice", method))
		msg.Data = []byte(`"1"`)
		msg.Header.Set(bus.HeaderID, "order-17")
		answer, err := l.bus.Conn().RequestMsg(msg, 5e9)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	for range 2 {
		if answer := request("add"); string(answer.Data) != `"1"` {
			t.Errorf("add: %s %v", answer.Data, answer.Header)
		}
	}
	if answer := request("put"); answer.Header.Get(bus.HeaderCode) != "invalid_argument" {
		t.Errorf("the identity with another method: %s %v", answer.Data, answer.Header)
	}
	l.want("1", "alice", "read", "")
}
