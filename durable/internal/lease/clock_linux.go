package lease

import (
	"time"

	"golang.org/x/sys/unix"
)

// now is the time since boot, which goes on while the machine sleeps. Go's own
// monotonic clock stops then.
func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return wall()
	}
	return time.Duration(ts.Nano())
}
