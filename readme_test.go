package rpc_test

import (
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The documents are held to the code: their Go compiles, their commands and
// flags exist, their links lead somewhere.

// block is a piece of a document that is code.
type block struct {
	doc  string
	line int    // of its first line
	lang string // as after the fence; "`" for code within a line
	text string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.doc, b.line) }

// TestDocumentedGo compiles the Go of the documents as a user's module would,
// and runs the tests in it. A block that begins with a comment like
// "// orders/orders.go" is that file; any other is declarations or statements.
func TestDocumentedGo(t *testing.T) {
	t.Parallel()
	sources(t) // so that the test is run again when one has changed
	for _, doc := range []string{"README.md", "docs/getting-started.md", "docs/service-objects.md", "docs/events.md", "docs/schedules.md"} {
		t.Run(doc, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			userModule(t, dir)
			writeFile(t, filepath.Join(dir, "pieces", "surroundings.go"), surroundings)
			n := 0
			for _, b := range codeBlocks(t, doc) {
				if b.lang != "go" {
					continue
				}
				n++
				if formatted, err := format.Source([]byte(b.text)); err != nil {
					t.Errorf("%v: %v", b, err)
					continue
				} else if string(formatted) != b.text {
					t.Errorf("%v: not formatted; gofmt makes it\n%s", b, formatted)
				}
				name, text := goFile(t, b, n)
				writeFile(t, filepath.Join(dir, name), text)
			}
			if n == 0 {
				t.Fatal("no Go in it")
			}
			for _, args := range [][]string{{"vet", "./..."}, {"test", "./..."}} {
				cmd := exec.CommandContext(t.Context(), "go", args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
				}
			}
		})
	}
}

// userModule makes dir a module that requires this one. It takes over what this
// one requires, so that nothing has to be looked up.
func userModule(t *testing.T, dir string) {
	t.Helper()
	root := absolute(t, ".")
	own, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(own), "module rpc.do\n")
	if !ok {
		t.Fatal("go.mod does not begin as expected")
	}
	writeFile(t, filepath.Join(dir, "go.mod"), "module example.com/shop\n"+rest+
		"\nrequire rpc.do v0.0.0\n\nreplace rpc.do => "+root+"\n")
	sums, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "go.sum"), string(sums))
}

// goFile makes a file of a block; n tells the pieces apart. The compiler names
// lines by the document's.
func goFile(t *testing.T, b block, n int) (name, text string) {
	t.Helper()
	position := fmt.Sprintf("//line %s:%d\n", absolute(t, b.doc), b.line)
	first, _, _ := strings.Cut(b.text, "\n")
	if name, ok := strings.CutPrefix(first, "// "); ok && strings.HasSuffix(name, ".go") {
		return filepath.FromSlash(name), position + b.text
	}
	head := "package pieces\n\n"
	body := position + b.text
	file, err := parser.ParseFile(token.NewFileSet(), "", head+body, parser.SkipObjectResolution)
	if err != nil { // no declarations: statements
		body = "func _() {\n" + body + "}\n"
		if file, err = parser.ParseFile(token.NewFileSet(), "", head+body, parser.SkipObjectResolution); err != nil {
			t.Fatalf("%v: neither declarations nor statements: %v", b, err)
		}
		body = strings.TrimSuffix(body, "}\n") + useAll(file) + "}\n"
	}
	for _, path := range importsOf(file) {
		head += fmt.Sprintf("import %q\n", path)
	}
	return filepath.Join("pieces", fmt.Sprintf("piece%d.go", n)), head + body
}

// surroundings is what all pieces take for granted. They are one package: later
// ones can use what earlier ones declare.
const surroundings = `package pieces

import (
	"context"

	"rpc.do/bus"
	"rpc.do/client"
	"rpc.do/server"
)

var (
	ctx context.Context
	b   *bus.Bus
	svc *server.Service
	c   *client.Client
)
`

// importsOf returns the import paths of the packages that a piece mentions.
func importsOf(file *ast.File) []string {
	packages := map[string]string{
		"rpc": "rpc.do", "bus": "rpc.do/bus", "server": "rpc.do/server", "client": "rpc.do/client",
		"durable": "rpc.do/durable", "durabletest": "rpc.do/durable/durabletest", "pipeline": "rpc.do/pipeline", "schedule": "rpc.do/schedule", "json": "encoding/json",
		"orders": "example.com/shop/orders", "nats": "github.com/nats-io/nats.go", "zerolog": "github.com/rs/zerolog",
		"errgroup": "golang.org/x/sync/errgroup", "tls": "crypto/tls", "x509": "crypto/x509",
	}
	for _, standard := range []string{"context", "errors", "fmt", "log", "strings", "time"} {
		packages[standard] = standard
	}
	var paths []string
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && packages[x.Name] != "" {
				paths = append(paths, packages[x.Name])
			}
		}
		return true
	})
	slices.Sort(paths)
	return slices.Compact(paths)
}

// useAll uses the variables that the statements of a piece end with.
func useAll(file *ast.File) string {
	var b strings.Builder
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != "_" {
			continue
		}
		for _, stmt := range f.Body.List {
			assign, ok := stmt.(*ast.AssignStmt)
			if !ok || assign.Tok != token.DEFINE {
				continue
			}
			for _, left := range assign.Lhs {
				if id, ok := left.(*ast.Ident); ok && id.Name != "_" {
					fmt.Fprintf(&b, "_ = %s\n", id.Name)
				}
			}
		}
	}
	return b.String()
}

// TestDocumentedCommands looks up every rpcdo command line of the documents,
// flags included, in the program's own help.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	sources(t) // as above
	program := filepath.Join(t.TempDir(), "rpcdo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/rpcdo").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	helps := map[string]string{}
	help := func(words ...string) string {
		key := strings.Join(slices.Concat([]string{"rpcdo"}, words), " ")
		if _, ok := helps[key]; !ok {
			out, err := exec.CommandContext(t.Context(), program, slices.Concat(words, []string{"--help"})...).CombinedOutput()
			if err != nil || !regexp.MustCompile(`(?m)^  `+regexp.QuoteMeta(key)+`( |$)`).Match(out) {
				out = nil // the help of another command, or none
			}
			helps[key] = string(out)
		}
		return helps[key]
	}
	n := 0
	for _, doc := range documents(t) {
		for _, b := range codeBlocks(t, doc) {
			if b.lang == "go" {
				continue
			}
			for i, line := range strings.Split(b.text, "\n") {
				words, flags, ok := commandLine(line)
				if !ok {
					continue
				}
				n++
				at := fmt.Sprintf("%s:%d", b.doc, b.line+i)
				text := help()
				for depth := 1; depth <= len(words) && strings.Contains(text, "ommands:\n"); depth++ {
					if text = help(words[:depth]...); text == "" {
						t.Errorf("%s: there is no command rpcdo %s", at, strings.Join(words[:depth], " "))
					}
				}
				for _, flag := range flags {
					if text != "" && !regexp.MustCompile(`(?m)^ .*(^| |,)`+regexp.QuoteMeta(flag)+`[ ,]`).MatchString(text) {
						t.Errorf("%s: rpcdo %s has no flag %s", at, strings.Join(words, " "), flag)
					}
				}
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d command lines were found", n)
	}
}

// commandLine finds a command line of rpcdo and takes it apart: the words that
// may be commands, and the names of its flags.
func commandLine(line string) (words, flags []string, ok bool) {
	fields := strings.Fields(line)
	i := slices.IndexFunc(fields, func(f string) bool { return f == "rpcdo" || f == "./cmd/rpcdo" })
	if i < 0 {
		return nil, nil, false
	}
	word := regexp.MustCompile(`^[a-z]+$`)
	flag := regexp.MustCompile(`^(--[a-z][a-z-]*|-[a-zA-Z])(=.*)?$`)
	commands := true
	for _, f := range fields[i+1:] {
		switch {
		case f == "|" || f == "&" || f == "&&" || f == "#":
			return words, flags, true
		case flag.MatchString(f):
			commands = false
			flags = append(flags, flag.FindStringSubmatch(f)[1])
		case commands && word.MatchString(f):
			words = append(words, f)
		default:
			commands = false
		}
	}
	return words, flags, true
}

// TestDocumentLinks follows the relative links of the documents, to headings
// too.
func TestDocumentLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, doc := range documents(t) {
		for i, line := range strings.Split(prose(t, doc), "\n") {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				target, heading, _ := strings.Cut(m[1], "#")
				if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
					continue
				}
				file := doc
				if target != "" {
					file = filepath.Join(filepath.Dir(doc), filepath.FromSlash(target))
				}
				if _, err := os.Stat(file); err != nil {
					t.Errorf("%s:%d: the link to %s leads nowhere: %v", doc, i+1, m[1], err)
				} else if heading != "" && !slices.Contains(headings(t, file), heading) {
					t.Errorf("%s:%d: %s has no heading #%s", doc, i+1, file, heading)
				}
			}
		}
	}
}

// headings returns what links call the headings of a document.
func headings(t *testing.T, doc string) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(prose(t, doc)) {
		title := strings.TrimLeft(line, "#")
		if title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		title = strings.ToLower(strings.TrimSpace(title))
		title = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(title, "")
		all = append(all, strings.ReplaceAll(title, " ", "-"))
	}
	return all
}

// documents returns the Markdown files of the repository.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (entry.Name()[0] == '.' || entry.Name() == "testdata"):
			return fs.SkipDir
		case strings.HasSuffix(name, ".md"):
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(all, "README.md") {
		t.Fatalf("no README.md among %q", all)
	}
	return all
}

// codeBlocks returns the code of a document, that within lines too.
func codeBlocks(t *testing.T, doc string) []block {
	t.Helper()
	var all []block
	var open *block
	for i, line := range readLines(t, doc) {
		fence, ok := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case ok && open == nil:
			open = &block{doc: doc, line: i + 2, lang: fence}
		case ok:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		default:
			for _, m := range withinLine().FindAllStringSubmatch(line, -1) {
				all = append(all, block{doc: doc, line: i + 1, lang: "`", text: m[1]})
			}
		}
	}
	if open != nil {
		t.Errorf("%v: the block does not end", open)
	}
	return all
}

// withinLine finds code within a line.
func withinLine() *regexp.Regexp { return regexp.MustCompile("`([^`]+)`") }

// prose returns a document without its code, line by line.
func prose(t *testing.T, doc string) string {
	t.Helper()
	lines, inside := readLines(t, doc), false
	for i, line := range lines {
		fence := strings.HasPrefix(strings.TrimSpace(line), "```")
		if inside || fence {
			lines[i] = ""
		} else if !strings.HasPrefix(line, "#") {
			lines[i] = withinLine().ReplaceAllString(line, "")
		}
		inside = inside != fence
	}
	return strings.Join(lines, "\n")
}

func readLines(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	abs, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
