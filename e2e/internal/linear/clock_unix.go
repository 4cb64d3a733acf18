//go:build linux || darwin || freebsd || netbsd || openbsd

package linear

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the time in nanoseconds by a clock that all processes of this machine
// share and nobody sets: CLOCK_MONOTONIC. What Go's own monotonic clock reads
// can't be compared between processes. (On other systems it is the wall clock:
// a history from there is good only as long as nobody sets that.)
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Now().UnixNano() // not reached: the clock is always there
	}
	return ts.Nano()
}
