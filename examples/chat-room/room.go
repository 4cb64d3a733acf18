// Package chatroom is a chat room: a durable object that keeps the latest
// messages in its keyed storage and emits each one as an event, for those who
// listen.
//
//	chatroom.Serve(svc)
//
//	message, err := chatroom.Post.Call(ctx, c, "lobby", chatroom.Draft{Author: "ada", Text: "hello"})
//	messages, err := chatroom.Read.Call(ctx, c, "lobby", chatroom.Range{After: 0})
package chatroom

import (
	"fmt"
	"math"
	"time"

	"rpc.do"
	"rpc.do/durable"
	"rpc.do/server"
)

// The methods of a room, and the event that tells of each message.
var (
	Post = rpc.NewObjectMethod[Draft, Message]("room.post", rpc.Description("Posts a message."))
	Read = rpc.NewObjectMethod[Range, []Message]("room.read", rpc.Description("Returns messages, the oldest first."))

	Posted = rpc.NewEvent[Message]("Room.posted")
)

// Draft is a message before it is posted.
type Draft struct {
	Author string `json:"author"`
	Text   string `json:"text"`
}

// MaxText bounds a message, in bytes.
const MaxText = 4000

// Validate checks the draft.
func (d Draft) Validate() error {
	switch {
	case d.Author == "" || len(d.Author) > 100:
		return rpc.InvalidArgument.Errorf("author: want 1 to 100 bytes, got %d", len(d.Author))
	case d.Text == "" || len(d.Text) > MaxText:
		return rpc.InvalidArgument.Errorf("text: want 1 to %d bytes, got %d", MaxText, len(d.Text))
	}
	return nil
}

// Message is a message of a room.
type Message struct {
	Room   string    `json:"room"`
	Number int64     `json:"number"` // 1 is the room's first
	Author string    `json:"author"`
	Text   string    `json:"text"`
	Time   time.Time `json:"time"`
}

// Range says which messages to read: those after a number, at most Limit.
type Range struct {
	After int64 `json:"after"`
	// Limit defaults to what the room keeps.
	Limit int `json:"limit,omitempty"`
}

// Validate checks the range.
func (r Range) Validate() error {
	switch {
	case r.After < 0 || r.After == math.MaxInt64:
		return rpc.InvalidArgument.Errorf("after: want the number of a message, or 0, got %d", r.After)
	case r.Limit < 0:
		return rpc.InvalidArgument.Errorf("limit: want 1 or more, or 0 for all, got %d", r.Limit)
	}
	return nil
}

// Kept is how many messages a room keeps.
const Kept = 100

// Serve makes svc serve the class room.
func Serve(svc *server.Service) {
	rooms := durable.Serve[room](svc, "room", durable.Config{})
	durable.Handle(rooms, Post, (*room).post)
	durable.View(rooms, Read, room.read)
}

// room is the state of one room. The messages are in its storage, so that a post
// does not write all of them again.
type room struct {
	Last int64 `json:"last"` // number of the latest message
}

func (r *room) post(ctx durable.Context, d Draft) (Message, error) {
	r.Last++
	m := Message{Room: ctx.ID(), Number: r.Last, Author: d.Author, Text: d.Text, Time: time.Now().UTC()}
	if err := ctx.Storage().Put(key(m.Number), m); err != nil {
		return Message{}, err
	}
	if old := m.Number - Kept; old > 0 {
		if err := ctx.Storage().Delete(key(old)); err != nil {
			return Message{}, err
		}
	}
	return m, durable.Emit(ctx, Posted, m)
}

func (r room) read(ctx durable.ReadContext, p Range) ([]Message, error) {
	entries, err := ctx.Storage().List(durable.ListOptions{Start: key(p.After + 1), Limit: p.Limit})
	if err != nil {
		return nil, err
	}
	messages := make([]Message, len(entries))
	for i, e := range entries {
		if err := e.Decode(&messages[i]); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

// key makes keys sort as their numbers do.
func key(number int64) string { return fmt.Sprintf("%019d", number) }
