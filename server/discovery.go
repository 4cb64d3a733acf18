package server

import "github.com/nats-io/nats.go"

func (s *Service) subscribeDiscovery(control func(string, nats.MsgHandler) error) error { return nil }
