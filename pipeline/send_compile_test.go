package pipeline_test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Data that are not those of the event do not compile: the compiler complains
// about every line that says so, and about no other.
func TestWrongDataDoNotCompile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sendcontrol", "send"} {
		dir := "testdata/compilefail/" + name
		source, err := os.ReadFile(dir + "/" + name + ".go")
		if err != nil {
			t.Fatal(err)
		}
		wants := map[int]string{}
		for i, line := range strings.Split(string(source), "\n") {
			if _, want, ok := strings.Cut(line, "// want: "); ok {
				wants[i+1] = want
			}
		}
		output, err := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-e", "./"+dir).CombinedOutput()
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			t.Fatal(err)
		}
		if (err == nil) != (len(wants) == 0) {
			t.Fatalf("%s: %v, want %d complaints\n%s", name, err, len(wants), output)
		}
		for _, complaint := range regexp.MustCompile(`(?m)^\S+\.go:(\d+):\d+: (.*)$`).FindAllStringSubmatch(string(output), -1) {
			n, err := strconv.Atoi(complaint[1])
			want, ok := wants[n]
			if err != nil || !ok || !strings.Contains(complaint[2], want) {
				t.Errorf("%s, line %s: %s; want %q", name, complaint[1], complaint[2], want)
			}
			delete(wants, n)
		}
		for n, want := range wants {
			t.Errorf("%s, line %d: compiles, want %q", name, n, want)
		}
	}
}
