//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
)

// yaml is one value of a YAML file: a text, a list of texts or fields.
type yaml struct {
	text   string
	list   []string
	fields map[string]*yaml
}

func (y *yaml) field(names ...string) *yaml {
	for _, name := range names {
		if y == nil {
			return nil
		}
		y = y.fields[name]
	}
	return y
}

// parseYAML reads the part of YAML that docker-compose.yml is written in, and
// refuses all else: block mappings with plain keys; plain scalars, lists of JSON
// strings in brackets, and {}; anchors on block mappings, and "<<: *name".
func parseYAML(text string) (*yaml, error) {
	p := &yamlParser{anchors: map[string]*yaml{}}
	for i, line := range strings.Split(text, "\n") {
		code := withoutComment(line)
		trimmed := strings.TrimLeft(code, " ")
		if trimmed == "" {
			continue
		}
		if n := len(p.lines); n > 0 && p.lines[n-1].open() { // a list goes on
			p.lines[n-1].text += " " + trimmed
			continue
		}
		p.lines = append(p.lines, yamlLine{i + 1, len(code) - len(trimmed), trimmed})
	}
	top, err := p.mapping(0)
	if err == nil && len(p.lines) > 0 {
		err = p.failf("is indented too little or too much")
	}
	return top, err
}

type yamlParser struct {
	lines   []yamlLine // those that are left
	anchors map[string]*yaml
}

type yamlLine struct {
	number, indent int
	text           string
}

func (l yamlLine) open() bool {
	return strings.Contains(l.text, ": [") && !strings.HasSuffix(l.text, "]")
}

// withoutComment cuts what follows a # that begins a line or follows a space,
// outside double quotes, and spaces at the end.
func withoutComment(line string) string {
	quoted := false
	for i, c := range line {
		switch {
		case c == '"' && (i == 0 || line[i-1] != '\\'):
			quoted = !quoted
		case c == '#' && !quoted && (i == 0 || line[i-1] == ' '):
			return strings.TrimRight(line[:i], " ")
		}
	}
	return strings.TrimRight(line, " ")
}

var (
	yamlEntry = regexp.MustCompile(`^([A-Za-z0-9_-]+|<<):(?: (.+))?$`)
	yamlPlain = regexp.MustCompile(`^[A-Za-z0-9./$][^"'\t]*$`)
)

func (p *yamlParser) failf(format string, args ...any) error {
	l := p.lines[0]
	return fmt.Errorf("line %d: %q %s", l.number, l.text, fmt.Sprintf(format, args...))
}

func (p *yamlParser) mapping(indent int) (*yaml, error) {
	y := &yaml{fields: map[string]*yaml{}}
	for len(p.lines) > 0 && p.lines[0].indent == indent {
		entry := yamlEntry.FindStringSubmatch(p.lines[0].text)
		if entry == nil {
			return nil, p.failf("is not a key and a value")
		}
		key, value := entry[1], entry[2]
		if name, ok := strings.CutPrefix(value, "*"); key == "<<" {
			anchor := p.anchors[name]
			if !ok || anchor == nil || len(y.fields) > 0 {
				return nil, p.failf("must merge a mapping with an anchor, first of all")
			}
			maps.Copy(y.fields, anchor.fields)
			p.lines = p.lines[1:]
			continue
		}
		v, err := p.value(indent, value)
		if err != nil {
			return nil, err
		}
		y.fields[key] = v
	}
	return y, nil
}

// value reads the value of the entry in the first line.
func (p *yamlParser) value(indent int, value string) (*yaml, error) {
	switch {
	case value == "" || value[0] == '&':
		if len(p.lines) < 2 || p.lines[1].indent <= indent {
			return nil, p.failf("has no value")
		}
		p.lines = p.lines[1:]
		y, err := p.mapping(p.lines[0].indent)
		if err == nil && value != "" {
			p.anchors[value[1:]] = y
		}
		return y, err
	case value == "{}":
		p.lines = p.lines[1:]
		return &yaml{fields: map[string]*yaml{}}, nil
	case value[0] == '[':
		y := new(yaml)
		if err := json.Unmarshal([]byte(value), &y.list); err != nil {
			return nil, p.failf("is not a list of strings: %v", err)
		}
		p.lines = p.lines[1:]
		return y, nil
	case !yamlPlain.MatchString(value) || strings.HasSuffix(value, ":"):
		return nil, p.failf("is more YAML than is read here")
	}
	p.lines = p.lines[1:]
	return &yaml{text: value}, nil
}

// interpolate puts variables into every text, as compose does: ${NAME}, and
// ${NAME:?message} for one that must be set.
func (y *yaml) interpolate(vars map[string]string) error {
	if y == nil {
		return nil
	}
	texts := []*string{&y.text}
	for i := range y.list {
		texts = append(texts, &y.list[i])
	}
	var err error
	for _, text := range texts {
		*text = variable.ReplaceAllStringFunc(*text, func(ref string) string {
			m := variable.FindStringSubmatch(ref)
			if m[2] != "" && vars[m[1]] == "" {
				err = fmt.Errorf("%s: %s", m[1], m[2][2:])
			}
			return vars[m[1]]
		})
	}
	for _, f := range y.fields {
		if ferr := f.interpolate(vars); err == nil {
			err = ferr
		}
	}
	return err
}

var variable = regexp.MustCompile(`\$\{([A-Z_]+)(:\?[^}]*)?\}`)

func readCompose(t testing.TB) *yaml {
	t.Helper()
	text, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	y, err := parseYAML(string(text))
	if err != nil {
		t.Fatalf("docker-compose.yml: %v", err)
	}
	return y
}

func TestParseYAML(t *testing.T) {
	t.Parallel()
	y, err := parseYAML(strings.Join([]string{
		"# comment", "x-base: &base", "  image: rpcdo # comment", "  env:", "    A: x#y", "services:", "  one:", "    <<: *base",
		`    command: ["a # b", # comment`, `              "c"]`, "    image: other", "  two: {}",
	}, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	one := y.field("services", "one")
	if one.field("image").text != "other" || one.field("env", "A").text != "x#y" || fmt.Sprintf("%q", one.field("command").list) != `["a # b" "c"]` {
		t.Errorf("read %+v", one)
	}
	if y.field("x-base", "image").text != "rpcdo" || y.field("services", "two") == nil || y.field("services", "three", "x") != nil {
		t.Errorf("read %+v", y)
	}
	for _, bad := range []string{
		"a", "a:", "a: 'b'", "a: |", "a: *b", "- a", "a:\n- b", "a:\n  - b", "a: b\n  c: d", "a:\n    b: c\n  d: e", "<<: *a", "a: [b]", "a: ['b']", "a: {b: c}", "\ta: b",
	} {
		if y, err := parseYAML(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, y)
		}
	}
}
