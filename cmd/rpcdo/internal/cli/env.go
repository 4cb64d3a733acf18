package cli

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/mattn/go-isatty"
)

// Env is what a command sees of the world around it.
type Env struct {
	In  io.Reader
	Out io.Writer // results
	Err io.Writer // errors and logs

	// OutTerminal and ErrTerminal say that a person looks at Out and Err,
	// InTerminal that one can answer questions.
	OutTerminal bool
	ErrTerminal bool
	InTerminal  bool

	// Getenv reads an environment variable. Defaults to one that has none.
	Getenv func(string) string

	// Program is how the user runs this program, for commands to paste.
	// Defaults to "rpcdo".
	Program string
}

// System returns the environment of this process.
func System() Env {
	return Env{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		OutTerminal: isatty.IsTerminal(os.Stdout.Fd()),
		ErrTerminal: isatty.IsTerminal(os.Stderr.Fd()),
		InTerminal:  isatty.IsTerminal(os.Stdin.Fd()),
		Getenv:      os.Getenv,
		Program:     program(),
	}
}

func (e Env) withDefaults() Env {
	if e.In == nil {
		e.In = strings.NewReader("")
	}
	if e.Out == nil {
		e.Out = io.Discard
	}
	if e.Err == nil {
		e.Err = io.Discard
	}
	if e.Getenv == nil {
		e.Getenv = func(string) string { return "" }
	}
	if e.Program == "" {
		e.Program = "rpcdo"
	}
	return e
}

// program returns the words that run this very program from a shell: its name
// when the shell would find it, "go run" when that is what ran it, else its
// path.
func program() string {
	const name = "rpcdo"
	self, err := os.Executable()
	if err != nil {
		return name
	}
	if found, err := exec.LookPath(name); err == nil && sameFile(found, self) {
		return name
	}
	// go run leaves the program in a directory that is gone when it ends.
	if strings.Contains(filepath.ToSlash(self), "/go-build") {
		return "go run rpc.do/cmd/rpcdo"
	}
	return shellQuote(self)
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// shellQuote writes one word for a POSIX shell.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%=,", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
