// Package events is three services that know nothing of each other: users
// registers users, mailer welcomes them by mail, and audit keeps a trail. What
// connects them is events.
//
//	users.register ── User.registered ──┬── mailer, send-welcome ── Email.sent ──┐
//	                                    └── audit, trail ───────────────────────┘
package events
