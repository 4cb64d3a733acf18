package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"cal math.add", `rpcdo has no command "cal": did you mean call? (see rpcdo --help)`},
		{"--nope", "unknown flag: --nope (see rpcdo --help)"},
		{"services", "services needs a command: ls, info, stats"},
		{"services lst", `services has no command "lst"`},
		{"services info", "want the name of one service"},
		{"services info a.b", `service name "a.b": it must be one token`},
		{"services stats a b", "want the name of one service"},
		{"bench", "bench needs a command: call"},
		{"version now", `unknown command "now" for "rpcdo version"`},
		{"dev --nats-port 70000", "--nats-port 70000: want 1 to 65535"},
		{"dev --nats-port x", "invalid argument"},
		{"dev --log-level loud", `--log-level "loud": want trace`},
		{"dev --log-format xml", `--log-format "xml": want console or json`},
		{"serve --wait -1s", "--wait -1s is negative"},
		{"serve --server ftp://x", "--server: unknown scheme"},
		{"serve --creds /no/such/file", "--creds: open /no/such/file"},
		{"call", "which method?"},
		{"call math", "want <service>.<method>"},
		{"call math._x", "names that begin with _ are the system's"},
		{"call math.add {} {}", "put the JSON in quotes"},
		{"call math.add {} --timeout 0s", "--timeout 0s: want at least 1ms"},
		{"call math.add {} --timeout soon", "invalid argument"},
		{"call math.add {} -H novalue", `--header "novalue": want name=value`},
		{"call math.add {} -H Rpc-Id=1", "reserved"},
		{"call math.add {} --object " + strings.Repeat("x", 257), "257 bytes are too long"},
		{"bus --sync default", `--sync "default": want always or interval`},
		{"bus --port -1", "--port -1"},
		{"bus --host 0.0.0.0", "give --user and --password"},
		{"bus --user me", "--user and --password"},
		{"bus --user me --password x --auth-token y", "give one of them"},
		{"bus --max-payload 0", "--max-payload 0"},
		{"bus --routes 127.0.0.1:1", "needs --cluster-name"},
		{"bus --cluster-name c", "needs --name"},
		{"bus --cluster-name c --name n", "needs --routes"},
		{"bus --cluster-name c --name n --routes 127.0.0.1:1 --cluster-port 0", "--cluster-port 0"},
		{"bus --cluster-name c --name n --routes 127.0.0.1:1 --cluster-user u", "--cluster-user and --cluster-password"},
		{"bus --cluster-name c --name n --routes 127.0.0.1:1 --cluster-host 0.0.0.0", "anybody could join"},
		{"bus --name a/b", "without slashes"},
		{"bench call --concurrency 0", "--concurrency 0"},
		{"bench call --transport udp", `--transport "udp"`},
		{"bench call --transport inprocess --server 127.0.0.1:1", "does not go with --server"},
		{"bench call --rounds 0", "--rounds 0"},
		{"bench call --duration 0s", "--duration 0s"},
		{"bench call --size 0", "--size 0"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			args := strings.Fields(c.args)
			o := rpcdo(t, Env{}, args...)
			o.want(t, exitUsage, nil, texts("rpcdo: ", c.want, "--help)"))
			o.wantLine(t)

			o = rpcdo(t, Env{}, append(args, "--json")...)
			p := fromJSON[problem](t, o.err)
			if o.status != exitUsage || p.Code != "invalid_argument" || !strings.Contains(p.Message, c.want[:min(len(c.want), 10)]) || p.Details == nil {
				t.Errorf("with --json: status %d, %+v", o.status, p)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	rpcdo(t, Env{}).want(t, exitDone, texts("rpcdo runs a bus", "Examples:", "NATS_URL"), nil)

	a := &app{env: Env{}.withDefaults()}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		if cmd.Short == "" || cmd.Long == "" && cmd.Name() != "version" || cmd.Example == "" {
			t.Errorf("%s: the help lacks a description or examples", cmd.CommandPath())
		}
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		rpcdo(t, Env{}, args...).want(t, exitDone, texts("Usage:\n  "+cmd.CommandPath(), "Examples:", "--json"), nil)
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 81 {
				t.Errorf("%s: a line of the help is longer than 80: %q", cmd.CommandPath(), line)
			}
		}
	}
	walk(a.root())
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		rpcdo(t, Env{}, "completion", shell).want(t, exitDone, texts("rpcdo"), nil)
	}
	rpcdo(t, Env{}, "__complete", "bus", "--sync", "").want(t, exitDone, texts("always\n", "interval\n"), texts("Completion ended"))
}

func TestVersion(t *testing.T) {
	t.Parallel()
	rpcdo(t, Env{}, "version").want(t, exitDone, texts("rpcdo ", "go1."), nil)
	v := fromJSON[build](t, rpcdo(t, Env{}, "version", "--json").out)
	if v.Version == "" || v.Go == "" {
		t.Errorf("got %+v", v)
	}
	rpcdo(t, Env{}, "--version").want(t, exitDone, texts("rpcdo version"), nil)
}
