package journal

import (
	"time"

	"github.com/nats-io/nats.go"
)

// Drop takes the next message that the server sends, which write brings about,
// as if it had been lost on the way.
func (f *Follower) Drop(write func()) error {
	write()
	for {
		msg, err := f.sub.NextMsg(5 * time.Second)
		if err != nil || !isStatus(msg) {
			return err
		}
	}
}

func isStatus(msg *nats.Msg) bool { return msg.Header.Get("Status") != "" }
