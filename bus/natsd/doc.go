// Package natsd runs a NATS server with JetStream inside the program: for
// development, for tests, and for deployments small enough not to want a
// second process.
//
// It is secure and durable unless told otherwise: it listens on this machine
// only, refuses to listen elsewhere without credentials, and alone it answers
// a publish to JetStream when the data are on disk.
//
// A failure never ends the process, it is an error of [Start]. Signals are the
// program's own. Monitoring over HTTP, leaf nodes, gateways, MQTT and accounts
// are not offered: who needs them runs nats-server.
//
//	srv, err := natsd.Start(ctx, natsd.Config{StoreDir: "/var/lib/orders"})
//	if err != nil {
//		return err
//	}
//	defer srv.Shutdown()
//	b, err := bus.Connect(ctx, bus.Config{InProcess: srv})
package natsd
