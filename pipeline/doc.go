// Package pipeline sends events and has them handled.
//
//	var Registered = rpc.NewEvent[User]("User.registered") // in the contract, for both sides
//
//	p := pipeline.New(b, pipeline.Config{})
//	receipt, err := pipeline.Send(ctx, p, users.Registered, user) // stored when err is nil
//
//	svc := server.New(b, "mailer", server.Config{})
//	pipeline.On(svc, users.Registered, "send-welcome", sendWelcome) // func(ctx context.Context, e pipeline.Event[User]) error
//	err := svc.Run(ctx)
//
// An event is a CloudEvent in the stream EVENTS, on the subject
// $.User.registered. A handler has a name, and gets every event that matches at
// least once, on one of all instances of its service, whenever they run. When
// it fails it is tried again, with growing pauses; what exhausts its attempts is
// kept as a dead letter, with payload and error, until somebody retries or
// discards it.
//
// The package makes no calls and keeps no state for handlers; what a handler
// does elsewhere is its own affair, and Event.ID the key to do it once.
package pipeline
