package rpc_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module     = "rpc.do"
	natsServer = "github.com/nats-io/nats-server"
)

// pkg is a package of the module as `go list` tells it; test files do not
// count. Paths of the module are relative to it: "." is the root package.
type pkg struct {
	Path    string `json:"ImportPath"`
	Imports []string
	Deps    []string
}

// layer says what the packages at and below some paths may import of the
// module. All may import the standard library, packages of their own below
// their own path, and (but for contracts) other modules.
type layer struct {
	name     string
	packages []string // the first layer that has a package's path counts
	except   []string // below packages, but of another layer
	may      []string // "x" is the one package, "x/..." it and all below it
	contract bool     // imports no other module
	why      string
}

// layers is ARCHITECTURE §2, from the bottom to the top.
var layers = []layer{
	{
		name: "the contract", packages: []string{"."}, contract: true,
		why: "a contract package must cost its users nothing, so the root package has the standard library only",
	},
	{
		name: "a platform contract", packages: []string{"client/ai", "client/oauth", "client/patent"},
		may: []string{"."}, contract: true,
		why: "a program that calls a platform service must not link what serves it, so these import only the root package",
	},
	{
		name: "the embedded server", packages: []string{"bus/natsd"}, may: []string{".", "bus"},
		why: "it is below everything that runs on it",
	},
	{
		name: "test helpers", packages: []string{"bus/bustest"}, may: []string{".", "bus", "bus/natsd"},
		why: "the tests of all layers use them, so they stand on L0 alone",
	},
	{
		name: "L0 (bus)", packages: []string{"bus"}, except: []string{"bus/natsd", "bus/bustest"}, may: []string{"."},
		why: "the connection knows neither who calls nor who serves, and must not link the embedded server",
	},
	{
		name: "L1 (client)", packages: []string{"client"}, may: []string{".", "bus"},
		why: "client and server are siblings: what only calls must not link what serves",
	},
	{
		name: "L3 (edge and workers)", packages: []string{"server/gateway", "server/workers"},
		may: []string{".", "bus", "client/...", "server", "durable", "pipeline", "schedule"},
		why: "they stand on L2 and below, and not on each other",
	},
	{
		name: "L1 (server)", packages: []string{"server"}, except: []string{"server/gateway", "server/workers"},
		may: []string{".", "bus"},
		why: "client and server are siblings: what only serves must not link what calls",
	},
	{
		name: "test helpers of objects", packages: []string{"durable/internal/ownership/linktest"},
		may: []string{".", "bus", "bus/natsd", "bus/bustest"},
		why: "they stand between a bus and its server, and only tests import them",
	},
	{
		name: "L2 (schedules)", packages: []string{"schedule"}, may: []string{".", "bus", "client", "server", "pipeline"},
		why: "the ticks of schedules are events, so schedules stand on events, and not on objects",
	},
	{
		name: "L2", packages: []string{"durable", "pipeline"}, except: []string{"durable/internal/ownership/linktest"}, may: []string{".", "bus", "client", "server"},
		why: "objects and events stand on server, client and bus, and not on each other",
	},
	{
		name: "L4", packages: []string{"cmd", "e2e", "examples", "docs"},
		may: []string{".", "bus/...", "client/...", "server/...", "durable/...", "pipeline/...", "schedule/..."},
		why: "nothing imports what wires everything together",
	},
}

// light must not contain the embedded server in any way.
var light = []string{"bus", "client", "server", "durable", "pipeline", "schedule"}

func under(path, root string) bool {
	return path == root || root != "." && strings.HasPrefix(path, root+"/")
}

func underAny(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return under(path, root) })
}

// home returns the layer of a package and the path there that it is below.
func home(path string) (l *layer, root string) {
	for i := range layers {
		for _, root := range layers[i].packages {
			if under(path, root) && !underAny(path, layers[i].except) {
				return &layers[i], root
			}
		}
	}
	return nil, ""
}

func (l *layer) allows(path string) bool {
	for _, may := range l.may {
		if all, ok := strings.CutSuffix(may, "/..."); ok && under(path, all) || path == may {
			return true
		}
	}
	return false
}

// own returns how deep a layer shares its packages: programs and examples are
// each on their own.
func own(root, path string) string {
	if root != "cmd" && root != "examples" && root != "server/workers" {
		return root
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, root+"/"), "/")
	return root + "/" + first
}

func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// relative returns the path of a package of the module below it.
func relative(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

// wrongImports returns what is against the rules in one package.
func wrongImports(p pkg) []string {
	l, root := home(p.Path)
	if l == nil {
		return []string{fmt.Sprintf("%s has no place in ARCHITECTURE §2: give it one there and in this test", p.Path)}
	}
	var wrong []string
	for _, imported := range p.Imports {
		inside, ours := relative(imported)
		switch {
		case standard(imported):
		case ours && (under(inside, own(root, p.Path)) && homeIs(inside, l) || l.allows(inside)):
		case ours || l.contract:
			wrong = append(wrong, fmt.Sprintf("%s imports %s, which is not allowed in %s: %s", p.Path, imported, l.name, l.why))
		}
		if strings.HasPrefix(imported, natsServer) && p.Path != "bus/natsd" {
			wrong = append(wrong, fmt.Sprintf("%s imports %s: only bus/natsd does, so that it stays in one place", p.Path, imported))
		}
	}
	if !slices.Contains(light, p.Path) {
		return wrong
	}
	for _, dep := range p.Deps {
		if strings.HasPrefix(dep, natsServer) {
			return append(wrong, fmt.Sprintf("%s contains %s through what it imports: it adds 11 MB to every binary and must stay out of L0 to L2; `go list -deps ./%s` and `go mod why %s` tell how it came in",
				p.Path, dep, p.Path, dep))
		}
	}
	return wrong
}

func homeIs(path string, l *layer) bool {
	h, _ := home(path)
	return h == l
}

// list asks `go list` about the packages of the module.
func list(t *testing.T) []pkg {
	t.Helper()
	sources(t) // a cached result of this test ends when one of them changes
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatalf("go list: %v", err)
		}
		path, ok := relative(p.Path)
		if !ok {
			t.Fatalf("go list ./... told about %s", p.Path)
		}
		p.Path = path
		all = append(all, p)
	}
	return all
}

func TestImports(t *testing.T) {
	t.Parallel()
	all := list(t)
	for _, must := range []string{".", "bus", "bus/natsd", "client", "server"} {
		if !slices.ContainsFunc(all, func(p pkg) bool { return p.Path == must }) {
			t.Errorf("go list does not know %s", must)
		}
	}
	for _, p := range all {
		for _, wrong := range wrongImports(p) {
			t.Error(wrong)
		}
	}
}

// The rules can fail: each wrong import is found, each right one is not.
func TestImportRules(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		path, imports string
		want          string // in the complaint; empty for none
	}{
		{".", "context", ""},
		{".", "github.com/rs/zerolog", "standard library only"},
		{".", "rpc.do/bus", "standard library only"},
		{"bus", "rpc.do", ""},
		{"bus", "github.com/nats-io/nats.go", ""},
		{"bus", "rpc.do/bus/internal/x", ""},
		{"bus", "rpc.do/server", "L0"},
		{"bus", "rpc.do/client", "L0"},
		{"bus", "rpc.do/bus/natsd", "L0"},
		{"bus", "github.com/nats-io/nats-server/v2/server", "only bus/natsd"},
		{"bus/internal/x", "rpc.do/server", "L0"},
		{"bus/natsd", "github.com/nats-io/nats-server/v2/server", ""},
		{"bus/natsd", "rpc.do/server", "below everything"},
		{"bus/bustest", "rpc.do/bus/natsd", ""},
		{"bus/bustest", "github.com/nats-io/nats-server/v2/server", "only bus/natsd"},
		{"client", "rpc.do/bus", ""},
		{"client", "rpc.do/client/internal/isolate", ""},
		{"client", "rpc.do/server", "siblings"},
		{"client", "rpc.do/client/ai", "siblings"},
		{"client", "rpc.do/durable", "siblings"},
		{"client", "rpc.do/bus/natsd", "siblings"},
		{"client/internal/isolate", "rpc.do/server", "siblings"},
		{"client/ai", "rpc.do", ""},
		{"client/ai", "rpc.do/client", "only the root package"},
		{"client/ai", "rpc.do/bus", "only the root package"},
		{"client/oauth", "github.com/rs/zerolog", "only the root package"},
		{"client/patent", "rpc.do/client/ai", "only the root package"},
		{"server", "rpc.do/bus", ""},
		{"server", "rpc.do/client", "siblings"},
		{"server", "rpc.do/server/gateway", "siblings"},
		{"server", "rpc.do/bus/bustest", "siblings"},
		{"durable", "rpc.do/server", ""},
		{"durable", "rpc.do/client", ""},
		{"durable", "rpc.do/pipeline", "not on each other"},
		{"pipeline", "rpc.do/bus/natsd", "not on each other"},
		{"pipeline", "rpc.do/schedule", "not on each other"},
		{"schedule", "rpc.do/pipeline", ""},
		{"schedule", "rpc.do/durable", "not on objects"},
		{"schedule", "rpc.do/cmd/rpcdo/x", "not on objects"},
		{"server/gateway", "rpc.do/client/ai", ""},
		{"server/gateway", "rpc.do/durable", ""},
		{"server/gateway", "rpc.do/server/workers/ai", "not on each other"},
		{"server/workers/ai", "rpc.do/client/ai", ""},
		{"server/workers/ai", "rpc.do/server/workers/ai/models", ""},
		{"server/workers/ai", "rpc.do/server/workers/oauth", "not on each other"},
		{"server/workers/ai", "rpc.do/examples/basic-rpc", "not on each other"},
		{"cmd/rpcdo", "rpc.do/bus/natsd", ""},
		{"cmd/rpcdo", "rpc.do/cmd/rpcdo/demo", ""},
		{"cmd/rpcdo", "rpc.do/server/workers/ai", ""},
		{"cmd/rpcdo", "rpc.do/examples/basic-rpc", "nothing imports"},
		{"cmd/rpcdo", "github.com/nats-io/nats-server/v2/server", "only bus/natsd"},
		{"examples/basic-rpc/service", "rpc.do/examples/basic-rpc/contract", ""},
		{"examples/basic-rpc", "rpc.do/examples/other", "nothing imports"},
		{"e2e", "rpc.do/cmd/rpcdo/demo", "nothing imports"},
		{"util", "strings", "no place"},
		{"servers", "strings", "no place"},
	} {
		wrong := wrongImports(pkg{Path: test.path, Imports: []string{test.imports}})
		if test.want == "" && len(wrong) > 0 {
			t.Errorf("%s may import %s, but: %s", test.path, test.imports, wrong)
		}
		if test.want != "" && (len(wrong) == 0 || !strings.Contains(strings.Join(wrong, "; "), test.want)) {
			t.Errorf("%s imports %s: %q, want a complaint with %q", test.path, test.imports, wrong, test.want)
		}
	}
}

func TestImportRulesThroughOthers(t *testing.T) {
	t.Parallel()
	deps := []string{"context", "github.com/nats-io/nats-server/v2/conf"}
	for _, path := range light {
		if wrong := wrongImports(pkg{Path: path, Deps: deps}); len(wrong) != 1 || !strings.Contains(wrong[0], "11 MB") {
			t.Errorf("%s contains nats-server: %q", path, wrong)
		}
	}
	if wrong := wrongImports(pkg{Path: "cmd/rpcdo", Deps: deps}); len(wrong) != 0 {
		t.Errorf("cmd/rpcdo may contain it, but: %q", wrong)
	}
}
