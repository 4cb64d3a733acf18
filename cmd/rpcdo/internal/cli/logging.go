package cli

import (
	"io"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

// logging is the flags of commands that log.
type logging struct {
	level  string
	format string
}

func (l *logging) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.level, "log-level", "warn", "what to log: trace, debug, info, warn, error or off")
	cmd.Flags().StringVar(&l.format, "log-format", "", "how to log: console or json (default console; json with --json)")
	complete(cmd, "log-level", "trace", "debug", "info", "warn", "error", "off")
	complete(cmd, "log-format", "console", "json")
}

// logger returns the logger that the flags ask for. It writes to stderr.
func (l *logging) logger(a *app) (*zerolog.Logger, error) {
	var level zerolog.Level
	switch l.level {
	case "trace", "debug", "info", "warn", "error":
		parsed, err := zerolog.ParseLevel(l.level)
		if err != nil {
			return nil, usagef("--log-level %q: %w", l.level, err)
		}
		level = parsed
	case "off":
		level = zerolog.Disabled
	default:
		return nil, usagef("--log-level %q: want trace, debug, info, warn, error or off", l.level)
	}
	var out io.Writer = a.env.Err
	format := l.format
	if format == "" && !a.json {
		format = "console"
	}
	switch format {
	case "json", "":
	case "console":
		out = zerolog.ConsoleWriter{Out: a.env.Err, NoColor: !a.env.ErrTerminal, TimeFormat: time.TimeOnly}
	default:
		return nil, usagef("--log-format %q: want console or json", l.format)
	}
	log := zerolog.New(zerolog.SyncWriter(out)).Level(level).With().Timestamp().Logger()
	return &log, nil
}

// complete has shells complete a flag with fixed words.
func complete(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is not registered, or twice
	}
}
