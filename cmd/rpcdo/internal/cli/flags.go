package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// noArguments refuses arguments: the command has flags only.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	name := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
	if args[0] == "true" || args[0] == "false" {
		return fmt.Errorf("%s takes no arguments, got %q: a switch is set with an equals sign, as in --json=%[2]s", name, args[0])
	}
	return fmt.Errorf("%s takes no arguments, got %.80q", name, args[0])
}

// flagError says what is wrong with a flag in terms of the command line.
func flagError(cmd *cobra.Command, err error) error {
	if invalid, ok := errors.AsType[interface {
		error
		GetValue() string
	}](err); ok {
		return invalidValue(cmd, err, invalid.GetValue())
	}
	if unknown, ok := errors.AsType[interface {
		error
		GetSpecifiedName() string
		GetSpecifiedShortnames() string
	}](err); ok && strings.HasPrefix(err.Error(), "unknown ") {
		return unknownFlag(cmd, err, unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames())
	}
	return err
}

// invalidValue says what a flag wants in place of the value it was given.
func invalidValue(cmd *cobra.Command, err error, value string) error {
	name := flagNameIn(err.Error())
	flag := cmd.Flags().Lookup(name)
	if flag == nil {
		return err
	}
	want := ""
	switch kind := flag.Value.Type(); {
	case kind == "duration":
		want = "want a time with its unit, such as 5s or 500ms"
	case errors.Is(err, strconv.ErrRange):
		want = "the number is too large"
	case kind == "int", kind == "int32", kind == "int64":
		want = "want a whole number"
	case kind == "uint64":
		want = "want a whole number, 0 or more"
	case kind == "intSlice":
		want = "want whole numbers separated by commas, such as 1,64"
	case kind == "bool":
		want = "want true or false"
	default:
		return err
	}
	return fmt.Errorf("--%s %.80q: %s", name, value, want)
}

// flagNameIn returns the name of the flag that the flag parser complains of, as
// in: invalid argument "5" for "-t, --timeout" flag: …
func flagNameIn(text string) string {
	_, rest, _ := strings.Cut(text, `" for "`) // quotes in the value are escaped
	names, _, _ := strings.Cut(rest, `" flag: `)
	_, name, _ := strings.Cut(names, "--")
	return name
}

// unknownFlag says which flag was meant, when that can be told.
func unknownFlag(cmd *cobra.Command, err error, name, letters string) error {
	if letters != "" {
		if letters[0] >= '0' && letters[0] <= '9' {
			return fmt.Errorf("%w: if that is a negative number, put -- before it", err)
		}
		return err
	}
	if variable, ok := map[string]string{"password": "NATS_PASSWORD", "token": "NATS_TOKEN"}[name]; ok && cmd.Flags().Lookup("nkey") != nil {
		return fmt.Errorf("%w: it is taken from %s, since other users can see command lines", err, variable)
	}
	meant := map[string]string{
		"nats-port": "port", "url": "server", "nats": "server", "nats-url": "server", "credentials": "creds",
		"headers": "header", "tlscert": "tls-cert", "tlskey": "tls-key", "tlsca": "tls-ca", "token": "auth-token",
		"store-dir": "store", "dir": "store", "callers": "concurrency", "oneway": "no-reply", "one-way": "no-reply",
	}[name]
	if name == "port" {
		meant = "nats-port"
		if cmd.Flags().Lookup(meant) == nil {
			meant = "server"
		}
	}
	if meant == "" || cmd.Flags().Lookup(meant) == nil {
		return err
	}
	return fmt.Errorf("%w: did you mean --%s?", err, meant)
}
