package natsd

import (
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
)

// Subscriptions returns what the connection with the given id (see
// nats.Conn.GetClientID) is subscribed to, as "<subject>" or "<subject> queue
// <queue>". It returns nothing for a connection that the server does not have.
func (s *Server) Subscriptions(clientID uint64) ([]string, error) {
	conns, err := s.NATS().Connz(&server.ConnzOptions{CID: clientID, SubscriptionsDetail: true})
	if err != nil {
		return nil, fmt.Errorf("natsd: connection %d: %w", clientID, err)
	}
	var subjects []string
	for _, conn := range conns.Conns {
		for _, sub := range conn.SubsDetail {
			if sub.Queue != "" {
				sub.Subject += " queue " + sub.Queue
			}
			subjects = append(subjects, sub.Subject)
		}
	}
	return subjects, nil
}

// EphemeralConsumers returns the consumers that have no durable name, as
// "<stream>/<consumer>". It returns nothing when JetStream is not running.
func (s *Server) EphemeralConsumers() ([]string, error) {
	ns := s.NATS()
	if !ns.Running() || !ns.JetStreamEnabled() {
		return nil, nil
	}
	info, err := ns.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Consumer: true, Config: true})
	if err != nil {
		return nil, fmt.Errorf("natsd: listing consumers: %w", err)
	}
	var names []string
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			for _, consumer := range stream.Consumer {
				if consumer.Config.Durable == "" {
					names = append(names, stream.Name+"/"+consumer.Name)
				}
			}
		}
	}
	return names, nil
}
