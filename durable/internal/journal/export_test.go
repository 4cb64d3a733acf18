package journal

import (
	"errors"
	"time"
)

// Drop takes the next message that the server sends, which write brings about,
// as if it had been lost on the way.
func (f *Follower) Drop(write func()) error {
	write()
	for {
		select {
		case msg := <-f.msgs:
			if msg.Header.Get("Status") == "" {
				return nil
			}
		case <-time.After(5 * time.Second):
			return errors.New("nothing came")
		}
	}
}
