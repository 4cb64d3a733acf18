package pipelineworker

import (
	"encoding/json"

	"rpc.do"
)

// defaultPage is how many dead letters and schedules a page has when it is not
// said.
const defaultPage = 100

// room is what the items of an answer may have in bytes: the largest message,
// less what is around them.
func (w *worker) room() int { return int(w.bus.MaxPayload()) - 1024 }

// fitting returns how many of the items, from the first, there is room for.
func fitting[T any](items []T, room int) (int, error) {
	for i := range items {
		text, err := json.Marshal(&items[i])
		if err != nil {
			return 0, rpc.DataLoss.Errorf("what is stored can't be written as JSON: %w", err)
		}
		if room -= len(text) + len(","); room < 0 {
			return i, nil
		}
	}
	return len(items), nil
}
