//go:build !linux && !darwin

package lease

import "time"

func now() time.Duration { return wall() }
