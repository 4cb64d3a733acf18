// Package read reads the stream EVENTS in its order, through consumers that end
// with the reading and leave nothing behind.
//
//	s := read.NewScan(b, 1, read.Open, info, read.Config{Filters: []string{"$.User.*"}, Batch: 500})
//	defer s.Close()
//	for {
//		m, err := s.Next(ctx) // read.ErrNoMore at the end
//	}
//
// What it returns are messages; what they mean is for the packages that use it.
package read
