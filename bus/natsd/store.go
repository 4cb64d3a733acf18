package natsd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// errLocked is what lockFile returns when another has the lock.
var errLocked = errors.New("locked")

// store is the directory of a server, while the server has it.
type store struct {
	dir       string
	temporary bool
	lock      *os.File
}

// openStore makes the directory if need be and takes it, so that no second
// server writes into the same files. An empty dir makes a temporary one.
func openStore(dir string) (*store, error) {
	s := &store{dir: dir, temporary: dir == ""}
	if s.temporary {
		tmp, err := os.MkdirTemp("", "natsd-")
		if err != nil {
			return nil, fmt.Errorf("natsd: temporary store directory: %w", err)
		}
		s.dir = tmp
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, s.failed(err)
	}
	lock, err := os.OpenFile(filepath.Join(s.dir, "natsd.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, s.failed(err)
	}
	if err := lockFile(lock); err != nil {
		lock.Close()
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("natsd: store directory %s: another server is using it: stop that one or choose another directory", s.dir)
		}
		return nil, s.failed(err)
	}
	s.lock = lock
	return s, nil
}

func (s *store) failed(err error) error {
	return fmt.Errorf("natsd: store directory %s can't be used: make it writable or choose another: %w", s.dir, err)
}

// close gives the directory up.
func (s *store) close() error {
	err := s.lock.Close() // releases the lock
	if s.temporary {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}
