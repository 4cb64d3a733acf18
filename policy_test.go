package rpc_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What the code does not do, as STYLE.md has it, held by a look at every file
// that is not a test. The allow-lists below say why something is an exception;
// an entry that nothing needs any more fails too.

// mayPanic lists who panics, by "<folder>.<function>". Registering panics on
// programmer error, as http.ServeMux does; what runs later returns errors.
var mayPanic = map[string]string{
	".Timeout":           "defines a method: a constant argument",
	".newSpec":           "defines a method: a constant name",
	".NewEvent":          "defines an event: a constant name",
	".Method.Spec":       "a method that was never defined: without the check it is a nil dereference",
	".ObjectMethod.Spec": "as Method.Spec",
	".Error.WithDetail":  "a detail that JSON can't hold is a defect of the caller, on the way to reporting another error",
	"bus.cborDecoder":    "initialises a constant: the options do not change",

	"durable.newClass":              "builds a class: its name and config are the program's own",
	"durable.Migrate":               "registers a migration: its version is a constant",
	"durable.class.mustHaveHandler": "registers a method: its handler can't be nil",
	"examples/rate-limiter.Serve":   "registers: a limit of the program's own",

	"pipeline.positive":              "registers: a constant argument",
	"pipeline.Backoff":               "registers: a constant argument",
	"pipeline.Batch":                 "registers: a constant argument",
	"pipeline.Where":                 "registers: a constant argument",
	"pipeline.Is":                    "registers: a constant argument",
	"pipeline.compared":              "registers: a constant argument",
	"pipeline.handlerConfig.setKey":  "registers a handler: its options are the program's own",
	"pipeline.handlerConfig.looksAt": "registers a handler: its options are the program's own",
	"pipeline.register":              "registers a handler",

	"schedule.Attempts": "registers: a constant argument",
	"schedule.Add":      "registers a schedule: its definition is the program's own",
	"schedule.Handle":   "registers a handler: its name is the program's own",
	"schedule.handle":   "registers a handler: its function can't be nil",

	"server.New":                  "builds a service: its name and config are the program's own",
	"server.Concurrency":          "registers: a constant argument",
	"server.Queue":                "registers: a constant argument",
	"server.Handle":               "registers a method: its handler can't be nil",
	"server.register":             "registers a method",
	"server.Register":             "registers the methods of a type",
	"server.class.endpoints":      "registers the methods of a type",
	"server.declared":             "registers the methods of a type",
	"server.Service.Entrypoint":   "registers an entrypoint",
	"server.Service.mustRegister": "registers: after Run it is too late",
	"server.setDefault":           "builds a service: its config",
	"server.Config.withDefaults":  "builds a service: its config",

	"cmd/rpcdo/internal/cli.complete": "registers completion for a flag that it has just defined",
}

// constants lists package-level variables that are never assigned again, by
// "<folder>.<name>": tables that Go has no constants for.
var constants = map[string]string{
	".codes":               "table of codes",
	".reserved":            "set of names",
	"bus.cborDecoder":      "immutable decoding mode",
	"bus.notPlain":         "table of bytes",
	"bus.traceHeaders":     "list of names",
	"client.lostAnswer":    "a message whose address says what happened; nothing else of it is looked at",
	"client.deniedAnswer":  "a mark, compared by address",
	"client.noInboxAnswer": "a mark, compared by address",
	"client.unsentAnswer":  "as lostAnswer",
	"client/internal/isolate.cache": "what was found out about types, which do not change: a memo that grows " +
		"with the number of types in the program",
}

// source is a parsed file of the module.
type source struct {
	dir  string // below the module; "." is the root
	file *ast.File
	fset *token.FileSet
}

func (s source) at(n ast.Node) string {
	p := s.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// key names a declaration in the allow-lists.
func (s source) key(name string) string {
	if s.dir == "." {
		return "." + name
	}
	return s.dir + "." + name
}

// sources parses every file of the module that is not a test. As it reads
// them, a test that calls it is run again when one of them has changed.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return leaveOut(name)
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		s, err := parse(filepath.ToSlash(name), string(text))
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d files were found", len(all))
	}
	return all
}

// leaveOut skips folders that are no part of the module.
func leaveOut(dir string) error {
	base := filepath.Base(dir)
	if dir == "." {
		return nil
	}
	if base == "testdata" || base[0] == '.' || base[0] == '_' {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func parse(name, text string) (source, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	return source{dir: path.Dir(name), file: file, fset: fset}, err
}

// declName is what a top-level declaration is called: "f", "T.m" or a variable.
func declName(decl ast.Decl) string {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if t := receiver(d); t != "" {
			return t + "." + d.Name.Name
		}
		return d.Name.Name
	case *ast.GenDecl:
		if len(d.Specs) > 0 {
			if v, ok := d.Specs[0].(*ast.ValueSpec); ok {
				return v.Names[0].Name
			}
		}
	}
	return ""
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// findInits: what a package does when it is imported can't be turned off.
func findInits(s source) []string {
	var found []string
	for _, decl := range s.file.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
			found = append(found, s.at(d)+": func init: do it where it is needed, or when a value is made")
		}
	}
	return found
}

// findPanics reports panics outside of allowed, and notes in used which
// entries were needed.
func findPanics(s source, allowed map[string]string, used map[string]bool) []string {
	if under(s.dir, "e2e") {
		return nil // its services panic because a test wants it
	}
	var found []string
	for _, decl := range s.file.Decls {
		key := s.key(declName(decl))
		ast.Inspect(decl, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "panic" {
				if _, ok := allowed[key]; ok {
					used[key] = true
				} else {
					found = append(found, s.at(n)+": "+key+" panics: return an error, or, if it only registers, say so in mayPanic")
				}
			}
			return true
		})
	}
	return found
}

// findVariables reports package-level variables that something could change.
func findVariables(s source, allowed map[string]string, used map[string]bool) []string {
	var found []string
	for _, decl := range s.file.Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok || d.Tok != token.VAR {
			continue
		}
		for _, spec := range d.Specs {
			v := spec.(*ast.ValueSpec)
			for i, name := range v.Names {
				key := s.key(name.Name)
				switch {
				case name.Name == "_" || i < len(v.Values) && harmless(v.Values[i]):
				case allowed[key] != "":
					used[key] = true
				default:
					found = append(found, s.at(v)+": "+key+" is a package-level variable: give it an owner, or, if nothing changes it, say so in constants")
				}
			}
		}
	}
	return found
}

// harmless reports whether a variable with that value is used as a constant or
// as a pool, in which nothing has a meaning.
func harmless(value ast.Expr) bool {
	switch x := value.(type) {
	case *ast.CallExpr:
		f := x.Fun
		if index, ok := f.(*ast.IndexListExpr); ok {
			f = index.X
		} else if index, ok := f.(*ast.IndexExpr); ok {
			f = index.X
		}
		return slices.Contains([]string{
			"errors.New", "fmt.Errorf", "regexp.MustCompile", "reflect.TypeFor",
			"rpc.NewMethod", "rpc.NewObjectMethod", "rpc.NewEvent",
		}, selector(f))
	case *ast.CompositeLit:
		return selector(x.Type) == "sync.Pool"
	}
	return false
}

// selector returns "pkg.Name" for an expression of that form.
func selector(e ast.Expr) string {
	if sel, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := sel.X.(*ast.Ident); ok {
			return x.Name + "." + sel.Sel.Name
		}
	}
	return ""
}

// findPrinting reports what writes to the program's output: that is the
// program's. Logs go through the logger that a config holds.
func findPrinting(s source) []string {
	if underAny(s.dir, []string{"cmd", "e2e", "examples"}) {
		return nil
	}
	var found []string
	for _, imported := range s.file.Imports {
		if p, _ := strconv.Unquote(imported.Path.Value); p == "log" || p == "log/slog" {
			found = append(found, s.at(imported)+": imports "+p+": log through the zerolog logger of the bus")
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		f := selector(call.Fun)
		if id, ok := call.Fun.(*ast.Ident); ok {
			f = id.Name
		}
		switch f {
		case "fmt.Print", "fmt.Printf", "fmt.Println", "print", "println":
			found = append(found, s.at(n)+": "+f+": a library does not write to the program's output")
		}
		return true
	})
	return found
}

// findUncommented reports packages that do not say what they are.
func findUncommented(all []source) []string {
	said := map[string]bool{}
	for _, s := range all {
		doc := s.file.Doc.Text()
		said[s.dir] = said[s.dir] || s.file.Name.Name == "main" && doc != "" ||
			strings.HasPrefix(doc, "Package "+s.file.Name.Name+" ")
	}
	var found []string
	for dir, ok := range said {
		if !ok {
			found = append(found, dir+": no package comment that begins with \"Package <name>\" (a program: any)")
		}
	}
	slices.Sort(found)
	return found
}

// exported returns the exported identifiers of a file that have a comment and
// those that do not: functions, types, their methods, constants and variables.
// The comment of a group counts for all in it.
func exported(s source) (documented, bare []string) {
	note := func(n ast.Node, name string, comments ...*ast.CommentGroup) {
		for _, c := range comments {
			if c.Text() != "" {
				documented = append(documented, name)
				return
			}
		}
		bare = append(bare, s.at(n)+": "+name)
	}
	for _, decl := range s.file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if t := receiver(d); d.Name.IsExported() && (t == "" || ast.IsExported(t)) {
				note(d, declName(d), d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch x := spec.(type) {
				case *ast.TypeSpec:
					if x.Name.IsExported() {
						note(x, x.Name.Name, x.Doc, x.Comment, d.Doc)
					}
				case *ast.ValueSpec:
					for _, name := range x.Names {
						if name.IsExported() {
							note(x, name.Name, x.Doc, x.Comment, d.Doc)
						}
					}
				}
			}
		}
	}
	return documented, bare
}

func report(t *testing.T, found []string) {
	t.Helper()
	for _, f := range found {
		t.Error(f)
	}
}

// reportStale fails for entries of an allow-list that nothing needs.
func reportStale(t *testing.T, list string, allowed map[string]string, used map[string]bool) {
	t.Helper()
	for key := range allowed {
		if !used[key] {
			t.Errorf("%s has the entry %s, which nothing needs any more: take it out", list, key)
		}
	}
}

func TestNoInit(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		report(t, findInits(s))
	}
}

func TestPanicsOnlyWhenRegistering(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, s := range sources(t) {
		report(t, findPanics(s, mayPanic, used))
	}
	reportStale(t, "mayPanic", mayPanic, used)
}

func TestNoPackageLevelState(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, s := range sources(t) {
		report(t, findVariables(s, constants, used))
	}
	reportStale(t, "constants", constants, used)
}

func TestNoPrinting(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		report(t, findPrinting(s))
	}
}

func TestPackageComments(t *testing.T) {
	t.Parallel()
	report(t, findUncommented(sources(t)))
}

func TestExportsAreDocumented(t *testing.T) {
	t.Parallel()
	const want = 96 // percent
	var documented, bare []string
	for _, s := range sources(t) {
		d, b := exported(s)
		documented, bare = append(documented, d...), append(bare, b...)
	}
	if all := len(documented) + len(bare); len(documented)*100 < want*all {
		t.Errorf("%d of %d exported identifiers have a comment, want %d %%. Without one:\n%s",
			len(documented), all, want, strings.Join(bare, "\n"))
	}
}

// Each check can fail.
func TestPolicyChecks(t *testing.T) {
	t.Parallel()
	allowed := map[string]string{"bus.table": "reason", "bus.Register": "reason", "bus.T.Add": "reason"}
	panics := func(s source) []string { return findPanics(s, allowed, map[string]bool{}) }
	variables := func(s source) []string { return findVariables(s, allowed, map[string]bool{}) }
	comments := func(s source) []string { return findUncommented([]source{s}) }
	undocumented := func(s source) []string { _, bare := exported(s); return bare }

	for _, test := range []struct {
		what  string
		check func(source) []string
		text  string
		want  string // in the complaint; empty for none
	}{
		{"init", findInits, `package bus; func init() {}`, "bus/x.go:1: func init"},
		{"two inits", findInits, "package bus\nfunc init() {}\nfunc init() {}", "bus/x.go:3: func init"},
		{"a method init", findInits, `package bus; func (T) init() {}; func initialise() {}`, ""},

		{"panic", panics, `package bus; func Serve() { panic("x") }`, "bus.Serve panics"},
		{"panic in a method", panics, `package bus; func (t *T) Serve() { panic("x") }`, "bus.T.Serve panics"},
		{"panic in a generic method", panics, `package bus; func (t *T[K, V]) Serve() { panic("x") }`, "bus.T.Serve panics"},
		{"panic in a closure", panics, `package bus; func Serve() { go func() { defer func() { panic(1) }() }() }`, "bus.Serve panics"},
		{"panic in a variable", panics, `package bus; var x = func() int { panic(1) }()`, "bus.x panics"},
		{"allowed panics", panics, `package bus; func Register() { panic(1) }; func (t *T) Add() { panic(2) }`, ""},
		{"a method of that name", panics, `package bus; func (U) Register() { panic(1) }`, "bus.U.Register panics"},
		{"no panic", panics, `package bus; func Serve() { recover(); t.panic() }`, ""},

		{"counter", variables, `package bus; var n int`, "bus.n is a package-level variable"},
		{"map", variables, `package bus; var m = map[string]int{}`, "bus.m is"},
		{"mutex in a group", variables, "package bus\nvar (\n\terrA = errors.New(\"a\")\n\tmu sync.Mutex\n)", "bus/x.go:4: bus.mu is"},
		{"second of two", variables, `package bus; var errA, n = errors.New("a"), 2`, "bus.n is"},
		{"own call", variables, `package bus; var x = connect()`, "bus.x is"},
		{"harmless", variables, `package bus
			var errA, errB = errors.New("a"), fmt.Errorf("b: %w", errA)
			var re = regexp.MustCompile("a")
			var pool = sync.Pool{New: nil}
			var m = rpc.NewMethod[int, int]("a.b")
			var e = rpc.NewEvent[int]("a.b")
			var _ I = T{}
			var table = []int{1}
			const c = 1
			func f() { var local = 1; _ = local }`, ""},

		{"Println", findPrinting, `package bus; func f() { fmt.Println("x") }`, "fmt.Println"},
		{"builtin", findPrinting, `package bus; func f() { println("x") }`, "println"},
		{"log", findPrinting, "package bus\nimport \"log\"", "imports log"},
		{"slog", findPrinting, "package bus\nimport \"log/slog\"", "imports log/slog"},
		{"Fprintf", findPrinting, `package bus; func f() { fmt.Fprintf(w, "x"); fmt.Sprint(1); t.println() }`, ""},

		{"no comment", comments, `package bus`, "bus: no package comment"},
		{"a comment far away", comments, "// Package bus is x.\n\npackage bus", "bus: no package comment"},
		{"another's comment", comments, "// Package car is x.\npackage bus", "bus: no package comment"},
		{"a comment", comments, "// Package bus is x.\npackage bus", ""},
		{"a program", comments, "// Rpcdo is x.\npackage main", ""},
		{"a program without", comments, "package main", "bus: no package comment"},

		{"function", undocumented, "package bus\nfunc F() {}", "bus/x.go:2: F"},
		{"method", undocumented, "package bus\nfunc (*T) M() {}", "T.M"},
		{"type", undocumented, "package bus\ntype T int", "T"},
		{"constant in a group", undocumented, "package bus\nconst (\n\ta = 1\n\tB = 2\n)", "bus/x.go:4: B"},
		{"documented", undocumented, `package bus
			// F is x.
			func F() {}
			// These are y.
			const (
				A = 1
				B = 2
			)
			var (
				// C is z.
				C = 1
				D = 2 // said here
			)
			func (hidden) M() {}
			func hidden2() {}`, ""},
	} {
		s, err := parse("bus/x.go", test.text)
		if err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		found := strings.Join(test.check(s), "; ")
		if test.want == "" && found != "" || !strings.Contains(found, test.want) {
			t.Errorf("%s: %q, want %q", test.what, found, test.want)
		}
	}

	program, err := parse("cmd/rpcdo/x.go", `package main; import "log"; func f() { fmt.Println("x") }`)
	if err != nil || len(findPrinting(program)) != 0 {
		t.Errorf("a program may print, but: %v, %q", err, findPrinting(program))
	}
}
