package schedule

import "rpc.do"

// A record is one message, so what it holds is bounded by what a message may have
// on the bus. A quarter of that is for the definition's payload, nine sixteenths
// for all but the events that are pending, and the rest for these: one with the
// largest payload always fits.

// largestPayload is how many bytes a payload may have.
func largestPayload(message int64) int { return int(min(maxPayload, message/4)) }

// largestRecord is how many bytes a record may have, its pending events apart.
func largestRecord(message int64) int { return int(message / 16 * 9) }

// runSize is about how many bytes one more run takes.
const runSize = 350

// bytes is about how many a tick takes that waits.
func (w *waiting) bytes() int { return 100 + len(w.ID) + len(w.Payload) }

// fits reports whether the record has room for so many bytes more.
func (s *step) fits(n int) bool {
	if s.size == 0 {
		pending := s.Pending
		s.Pending = nil
		data, _ := encode(s.record) // what can't be encoded can't be saved either
		s.Pending, s.size = pending, len(data)
	}
	return s.size+n <= s.room
}

// crowded reports whether the step has as many events as it may: what else is
// due is left to the next, which follows at once.
func (s *step) crowded() bool {
	n := 0
	for i := range s.Pending {
		n += len(s.Pending[i].Data)
	}
	return len(s.Pending) >= maxPending || n >= s.room/8
}

// checkPayload says whether a payload is too large for the bus.
func (e *engine) checkPayload(name string, payload []byte) error {
	if most := largestPayload(e.bus.MaxPayload()); len(payload) > most {
		return rpc.InvalidArgument.Errorf("schedule %.80q: the payload has %d bytes, at most %d are allowed", name, len(payload), most)
	}
	return nil
}
