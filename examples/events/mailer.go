package events

import (
	"context"

	"rpc.do/bus"
	"rpc.do/examples/events/contract"
	"rpc.do/pipeline"
	"rpc.do/server"
)

// Sender sends mails. It sends one with the same key once, as services for mail
// do that take an idempotency key.
type Sender interface {
	Send(ctx context.Context, key string, m contract.Mail) error
}

// NewMailer returns the service mailer, which welcomes who is registered. Opts
// change how its handler works.
func NewMailer(b *bus.Bus, sender Sender, opts ...pipeline.HandlerOption) *server.Service {
	m := &mailer{sender, pipeline.New(b, pipeline.Config{Source: "/mailer"})}
	svc := server.New(b, "mailer", server.Config{Version: "1.0.0", Description: "Sends mails."})
	pipeline.On(svc, contract.Registered, "send-welcome", m.welcome, opts...)
	return svc
}

type mailer struct {
	sender Sender
	events *pipeline.Pipeline
}

// welcome may run more than once for one event: when it has failed, and when an
// instance dies in the middle of it. Both of its effects have a key that is the
// same each time: there is one mail, and, within two minutes, one event.
func (m *mailer) welcome(ctx context.Context, e pipeline.Event[contract.User]) error {
	mail := contract.Mail{To: e.Data.Email, Subject: "Welcome, " + e.Data.Name}
	if err := m.sender.Send(ctx, e.ID, mail); err != nil {
		return err // its code decides whether it is tried again
	}
	// The context says which event this is due to.
	_, err := pipeline.Send(ctx, m.events, contract.Sent, mail, pipeline.WithSubject(mail.To), pipeline.WithDedupe(e.ID))
	return err
}
