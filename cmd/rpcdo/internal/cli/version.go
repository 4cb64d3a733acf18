package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build says what this program was built from.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	NATS    string `json:"nats_server,omitempty"`
}

// version reads what the Go tool wrote into the program.
func version() build {
	v := build{Version: "(devel)", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			v.Commit = setting.Value
		}
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/nats-io/nats-server/v2" {
			v.NATS = dep.Version
		}
	}
	return v
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which version this is",
		Long:    "Says which version this is, and of which parts.",
		Example: "  rpcdo version\n  rpcdo version --json",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			v := version()
			if a.json {
				return a.printJSON(v)
			}
			text := "rpcdo " + v.Version
			if v.Commit != "" {
				text += " commit " + v.Commit[:min(len(v.Commit), 12)]
			}
			if v.NATS != "" {
				text += " nats-server " + v.NATS
			}
			_, err := fmt.Fprintln(a.env.Out, text, v.Go)
			return err
		},
	}
}
