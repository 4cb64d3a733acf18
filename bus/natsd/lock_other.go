//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package natsd

import "os"

// lockFile does nothing: there is no flock here.
func lockFile(*os.File) error { return nil }
