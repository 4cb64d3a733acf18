package lease

import (
	"time"

	"golang.org/x/sys/unix"
)

// now is a clock that goes on while the machine sleeps, as this one does on
// Darwin. Go's own monotonic clock stops then.
func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return wall()
	}
	return time.Duration(ts.Nano())
}
