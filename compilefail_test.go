package rpc_test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The packages in testdata/compilefail each make one mistake with types, but
// for the package control, which makes none. The compiler has to find it.
func TestWrongTypesDoNotCompile(t *testing.T) {
	t.Parallel()
	sources(t) // a cached result of this test ends when one of them changes
	for _, test := range []struct {
		name string
		line string   // the source line that is complained about
		want []string // what the complaint says, in any order
	}{
		{name: "control"},
		{
			name: "handleparams",
			line: "server.Handle(svc, add, func",
			want: []string{"server.Handle", "p other) (result, error)", "func(context.Context, params) (result, error)"},
		},
		{
			name: "handleresult",
			line: "server.Handle(svc, add, func",
			want: []string{"server.Handle", "p params) (other, error)", "func(context.Context, params) (result, error)"},
		},
		{
			name: "callparams",
			line: `add.Call(ctx, c, other{`,
			want: []string{"cannot use other{", "as params value in argument to add.Call"},
		},
		{
			name: "callresult",
			line: "return add.Call(",
			want: []string{"cannot use add.Call(", "type result", "as other value in return statement"},
		},
		{
			name: "objectkey",
			line: "push.Call(ctx, c, params{",
			want: []string{"not enough arguments in call to push.Call", "rpc.Caller, params)", "rpc.Caller, string, params"},
		},
		{
			name: "objecthandle",
			line: "server.Handle(svc, push, func",
			want: []string{"server.Handle", "rpc.ObjectMethod[params, result]", "rpc.Method[params, result]"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := "testdata/compilefail/" + test.name
			output, failed := goBuild(t, "./"+dir)
			if failed != (test.want != nil) {
				t.Fatalf("go build failed: %t, want the opposite\n%s", failed, output)
			}
			if !failed {
				return
			}
			places := regexp.MustCompile(`(?m)^\S+\.go:(\d+):\d+:`).FindAllStringSubmatch(output, -1)
			if len(places) != 1 {
				t.Fatalf("%d complaints, want 1:\n%s", len(places), output)
			}
			line := sourceLine(t, dir+"/"+test.name+".go", places[0][1])
			if !strings.Contains(line, test.line) {
				t.Errorf("the complaint is about the line %q, want %q", line, test.line)
			}
			for _, want := range test.want {
				if !strings.Contains(output, want) {
					t.Errorf("the complaint does not say %q:\n%s", want, output)
				}
			}
		})
	}
}

// goBuild compiles a package and throws the result away. It reports whether
// the compiler refused it; that it could not run at all ends the test.
func goBuild(t *testing.T, pkg string) (output string, failed bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "build", pkg).CombinedOutput()
	if err == nil {
		return string(out), false
	}
	if _, exited := errors.AsType[*exec.ExitError](err); !exited {
		t.Fatalf("go build %s: %v", pkg, err)
	}
	return string(out), true
}

func sourceLine(t *testing.T, file, number string) string {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(number)
	lines := strings.Split(string(source), "\n")
	if err != nil || n < 1 || n > len(lines) {
		t.Fatalf("%s has no line %s", file, number)
	}
	return lines[n-1]
}
