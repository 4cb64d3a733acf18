package events

import (
	"context"
	"strings"
	"sync"

	"rpc.do"
	"rpc.do/examples/events/contract"
)

// FakeSender stands for a service that sends mails. What it does depends on the
// address: to busy@… it sends at the third try, to slow@… it sends at once but the
// first answer is lost, and it finds no mailbox at exmaple.com.
type FakeSender struct {
	mu   sync.Mutex
	sent map[string]contract.Mail // by key
	busy map[string]int           // tries, by key
	log  []contract.Mail
}

// NewFakeSender returns a sender that has sent nothing.
func NewFakeSender() *FakeSender {
	return &FakeSender{sent: map[string]contract.Mail{}, busy: map[string]int{}}
}

// Send sends a mail, or says that it has with that key.
func (s *FakeSender) Send(_ context.Context, key string, m contract.Mail) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.sent[key]; ok {
		return nil
	}
	box, host, _ := strings.Cut(m.To, "@")
	if host == "exmaple.com" {
		return rpc.InvalidArgument.Errorf("no mailbox %s", m.To) // a final code: trying again changes nothing
	}
	if box == "busy" && s.busy[key] < 2 {
		s.busy[key]++
		return rpc.Unavailable.Errorf("too many mails at the moment")
	}
	s.sent[key] = m
	s.log = append(s.log, m)
	if box == "slow" {
		return rpc.DeadlineExceeded.Errorf("no answer")
	}
	return nil
}

// Sent returns the mails that were sent, in order.
func (s *FakeSender) Sent() []contract.Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]contract.Mail(nil), s.log...)
}
