package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"rpc.do"
	"rpc.do/bus/natsd"
)

// defaultStore is where stores are that nobody named, below the current
// directory: each project has its own.
const defaultStore = ".rpcdo"

// storeDir returns the absolute path of dir, or of the default store with that
// name. The default ones are kept out of version control.
func storeDir(dir, name string) (string, error) {
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", failf(rpc.FailedPrecondition, "--store %s: %w", dir, err)
		}
		return abs, nil
	}
	home, err := filepath.Abs(defaultStore)
	if err == nil {
		err = os.MkdirAll(home, 0o700)
	}
	if err == nil {
		err = ignoreInGit(home)
	}
	if err != nil {
		return "", failf(rpc.FailedPrecondition, "the store %s can't be used: name a directory that can be written to with --store: %w", defaultStore, err)
	}
	return filepath.Join(home, name), nil
}

func ignoreInGit(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, ".gitignore"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString("*\n")
	return errors.Join(err, f.Close())
}

// portFlag checks a port and turns 0 into natsd's word for a free one.
func portFlag(flag string, port int) (int, error) {
	switch {
	case port < 0 || port > 65535:
		return 0, usagef("%s %d: want 1 to 65535, or 0 for a free port", flag, port)
	case port == 0:
		return natsd.FreePort, nil
	default:
		return port, nil
	}
}
