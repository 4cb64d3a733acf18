// Package faultproxy stands between NATS clients and a server, on this machine,
// and does to their connections what networks do: it cuts, holds up and
// swallows. As it understands the protocol far enough to see single messages,
// it can also lose or delay those with certain subjects. It changes no byte of
// what it passes on.
//
//	p, err := faultproxy.Start(faultproxy.Config{Target: server.Address(), Seed: seed})
//	// … clients connect to p.URL()
//	replies, err := p.Add(faultproxy.Rule{
//		From: faultproxy.Server, Subject: "_INBOX.", Action: faultproxy.Drop, Chance: 0.1,
//	})
//	// … the clients work
//	replies.Remove()
//	fmt.Println(replies.Hits(), "replies were lost")
//
// One proxy does the same to all its clients: give each member of a test a
// proxy of its own.
//
// # What it is not
//
// A message that is dropped is missing from an otherwise sound stream, which no
// network does; it stands for what NATS itself loses, such as what a server had
// not sent when it was killed. Messages are never reordered, since NATS keeps
// the order of a connection: a message that is delayed holds up all behind it.
//
// It knows plain connections only. With TLS, or web sockets, bytes pass, and
// the faults that concern whole connections work, but no rule finds a message.
//
// A NATS server tells its clients of the other servers of its cluster, and of
// other addresses of its own if it is set to advertise them (connect_urls in
// INFO). A client that hears of them connects to them directly when it has lost
// its connection, past the proxy. So use a server that is alone and advertises
// nothing, as natsd's are by default, or clients with
// nats.IgnoreDiscoveredServers.
//
// # Determinism
//
// What is left to chance is drawn for each rule and connection, in the order of
// the messages that the rule matches there. Rules are numbered as they are
// added, connections as they are accepted, from 1. So with the same seed the
// same messages of a connection are hit if its clients send the same ones in
// the same order, whatever happens on other connections.
package faultproxy
