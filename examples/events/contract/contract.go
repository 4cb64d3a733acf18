// Package contract is what the services users, mailer and audit, and those who
// call them, agree on: methods, events and their data. It imports nothing but
// rpc.do.
package contract

import (
	"strings"
	"time"

	"rpc.do"
)

// The methods.
var (
	Register = rpc.NewMethod[User, User]("users.register",
		rpc.Description("Registers a user."))
	Trail = rpc.NewMethod[rpc.None, []Line]("audit.trail", rpc.Idempotent(),
		rpc.Description("Returns what has happened, in order."))
)

// The events.
var (
	// Registered says that a user is there. Its subject is the address.
	Registered = rpc.NewEvent[User]("User.registered")
	// Sent says that a mail was sent. Its subject is the address.
	Sent = rpc.NewEvent[Mail]("Email.sent")
)

// User is known by the address.
type User struct {
	Email string `json:"email"`
	Name  string `json:"name"`
}

// Validate wants a name, and something around an @. Whether there is a mailbox
// shows when a mail is sent there.
func (u User) Validate() error {
	if u.Name == "" || len(u.Name) > 100 {
		return rpc.InvalidArgument.Errorf("name: want 1 to 100 bytes, got %d", len(u.Name))
	}
	if box, host, ok := strings.Cut(u.Email, "@"); !ok || box == "" || host == "" || len(u.Email) > 200 || strings.ContainsAny(u.Email, " \t\r\n") {
		return rpc.InvalidArgument.Errorf("email: want an address such as ada@example.com, got %.210q", u.Email)
	}
	return nil
}

// Mail is one that was sent.
type Mail struct {
	To      string `json:"to"`
	Subject string `json:"subject"`
}

// Line is one event in the trail.
type Line struct {
	Sequence uint64 `json:"sequence"`
	Type     string `json:"type"`
	Subject  string `json:"subject"`
	ID       string `json:"id"`
	// Because is the id of the event that led to this one, empty for none.
	Because string    `json:"because,omitempty"`
	Source  string    `json:"source"`
	Time    time.Time `json:"time"`
}
