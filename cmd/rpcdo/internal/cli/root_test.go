package cli

import (
	"os"
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
		{"version now", `version takes no arguments, got "now"`},
		{"dev extra", `dev takes no arguments, got "extra"`},
		{"dev --demo false", `got "false": a switch is set with an equals sign, as in --json=false`},
		{"bus extra", `bus takes no arguments, got "extra"`},
		{"serve extra", `serve takes no arguments, got "extra"`},
		{"services ls extra", `services ls takes no arguments, got "extra"`},
		{"bench call extra", `bench call takes no arguments, got "extra"`},
		{"completion zsh extra", `completion zsh takes no arguments, got "extra"`},
		{"completion", "completion needs a command: bash, zsh, fish, powershell"},
		{"completion ksh", `completion has no command "ksh"`},
		{"help nope", `rpcdo has no command "nope"`},
		{"help services nope", `services has no command "nope"`},
		{"dev --port 5", "unknown flag: --port: did you mean --nats-port?"},
		{"call math.add --port 5", "unknown flag: --port: did you mean --server?"},
		{"serve --url x", "did you mean --server?"},
		{"serve --token x", "it is taken from NATS_TOKEN"},
		{"serve --password x", "it is taken from NATS_PASSWORD"},
		{"bus --token x", "did you mean --auth-token?"},
		{"call math.add -5", "put -- before it"},
		{"call math.add -x", "unknown shorthand flag"},
		{"dev --nats-port 70000", "--nats-port 70000: want 1 to 65535"},
		{"dev --nats-port x", `--nats-port "x": want a whole number`},
		{"dev --nats-port 99999999999999999999", `: the number is too large`},
		{"dev --nats-port -1", "--nats-port -1: want 1 to 65535"},
		{"dev --demo=maybe", `--demo "maybe": want true or false`},
		{"dev --log-level loud", `--log-level "loud": want trace`},
		{"dev --log-format xml", `--log-format "xml": want console or json`},
		{"serve --wait -1s", "--wait -1s is negative"},
		{"serve --server ftp://x", "--server: unknown scheme"},
		{"serve --creds /no/such/file", "--creds /no/such/file can't be read: no such file"},
		{"serve --creds .", "--creds . can't be read: is a directory"},
		{"serve --wait 5", `--wait "5": want a time with its unit, such as 5s or 500ms`},
		{"serve --server ht!tp://%%", "--server: not a URL"},
		{"serve --server a:1,,b:2", "--server, server 2: it is empty"},
		{"serve --server a:1,b:70000", "--server: port 70000: want 1 to 65535"},
		{"serve --server nats://me:p,q@a:1", "not a URL: want nats://host:port; a password in it has %2C for a comma"},
		{"serve --server a:1,ws://b:2", "--server: ws:// and wss:// do not mix"},

		{"call", "which method?"},
		{"call math", "want <service>.<method>"},
		{"call math._x", "names that begin with _ are the system's"},
		{"call math.add {} {}", "put the JSON in quotes"},
		{"call math.add {} --timeout 0s", "--timeout 0s: want at least 1ms"},
		{"call math.add {} --timeout soon", `--timeout "soon": want a time with its unit, such as 5s or 500ms`},
		{"call math.add {} --timeout 5", `--timeout "5": want a time with its unit, such as 5s or 500ms`},
		{"call math.add {} --timeout -5s", "--timeout -5s: want at least 1ms"},
		{"call .add", `service name "": it is empty`},
		{"call math.", `method name "": it is empty`},
		{"call m\xffth.add", `service name "m\xffth"`},
		{"call math.add {} -H \xff", `--header "\xff": want name=value`},
		{"call math.add {} -H a=\xff", "not valid UTF-8"},
		{"call math.add {} -H a:b", `--header "a: …": want name=value, such as -H tenant=acme, with an equals sign`},
		{"call math.add {} -H a", `--header "a": want name=value, such as -H tenant=acme`},
		{"call math.add {} -H =a", "--header: the name is missing: want name=value"},
		{"call math.add {} --object \xff", "not valid UTF-8"},

		{"call math.add {} -H novalue", `--header "novalue": want name=value`},
		{"call math.add {} -H Rpc-Id=1", "reserved"},
		{"call math.add {} --object " + strings.Repeat("x", 257), "257 bytes are too long"},
		{"bus --sync default", `--sync "default": want always or interval`},
		{"bus --port -1", "--port -1"},
		{"bus --host 0.0.0.0", "give --user and --password"},
		{"bus --user me", "--user and --password"},
		{"bus --user me --password x --auth-token y", "give one of them"},
		{"bus --max-payload 0", "--max-payload 0: want 1 to 67108864 bytes"},
		{"bus --max-payload 67108865", "--max-payload 67108865: want 1 to"},
		{"bus --max-payload 99999999999", ": the number is too large"},
		{"bus --port 70000", "--port 70000: want 1 to 65535"},
		{"bus --name \x01", "without slashes"},
		{"bus --cluster-name \x01 --name n", "without spaces"},
		{"bus --port 0 --cluster-name c --name n --routes nats://me:secret@x --store " + os.DevNull, "--routes[0]: want host:port"},
		{"bus --tls-ca x", "--tls-cert and --tls-key"},
		{"bus --tls-cert x", "--tls-cert and --tls-key go together"},
		{"bus --routes 127.0.0.1:1", "needs --cluster-name"},
		{"bus --cluster-name c", "needs --name"},
		{"bus --cluster-name c --name n", "needs --routes"},
		{"bus --cluster-name c --name n --routes 127.0.0.1:1 --cluster-port 0", "--cluster-port 0"},
		{"bus --cluster-name c --name n --routes 127.0.0.1:1 --cluster-user u", "--cluster-user and --cluster-password"},
		{"bus --cluster-name c --name n --routes 127.0.0.1:1 --cluster-host 0.0.0.0", "anybody could join"},
		{"bus --name a/b", "without slashes"},
		{"bench call --concurrency 0", "--concurrency 0"},
		{"bench call --concurrency 4097", "--concurrency 4097: want 1 to 4096"},
		{"bench call --concurrency 1,x", "want whole numbers separated by commas, such as 1,64"},
		{"bench call --duration -1s", "--duration -1s: want more than 0"},
		{"bench call --creds x", "--creds, --nkey, --user and --tls-… are for the bus that --server names"},
		{"bench call --tls-ca x", "are for the bus that --server names"},
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

// A header may hold a secret; a message about it does not.
func TestUsageErrorsDoNotQuoteHeaders(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"Authorization: Bearer hunter2==", "Authorization:hunter2", "Authori zation=hunter2", "=hunter2", "a=hunter2\n"} {
		o := rpcdo(t, Env{}, "call", "math.add", "-H", header)
		o.want(t, exitUsage, nil, texts("--header"))
		o.wantLine(t)
		if strings.Contains(o.err, "hunter2") {
			t.Errorf("the value is shown: %s", o.err)
		}
	}
}

func TestEmptyWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{""}, `rpcdo has no command "" (see`},
		{[]string{"services", ""}, `services has no command ""`},
		{[]string{"services", "info", ""}, `service name "": it is empty`},
		{[]string{"services", "stats", ""}, `service name "": it is empty`},
		{[]string{"call", ""}, `name "": want <service>.<method>`},
		{[]string{"call", "math.add", ""}, "params: empty"},
		{[]string{"call", "math.add", "--timeout"}, "flag needs an argument: --timeout"},
		{[]string{"bench", "call", "--concurrency", ""}, "want whole numbers"},
	} {
		o := rpcdo(t, Env{}, c.args...)
		o.want(t, exitUsage, nil, texts(c.want))
		o.wantLine(t)
	}
}

func TestHelpCommand(t *testing.T) {
	t.Parallel()
	rpcdo(t, Env{}, "help").want(t, exitDone, texts("rpcdo runs a bus"), nil)
	same := rpcdo(t, Env{}, "services", "ls", "--help")
	if got := rpcdo(t, Env{}, "help", "services", "ls"); got != same {
		t.Errorf("help services ls: %+v, want %+v", got, same)
	}
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
