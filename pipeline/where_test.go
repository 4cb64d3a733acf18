package pipeline_test

import (
	"fmt"
	"testing"

	"rpc.do/pipeline"
	"rpc.do/server"
)

func TestWhere(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if _, err := l.b.EnsureEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	data := []string{
		`{"n":0,"to":{"country":"DE","zip":12345}}`,
		`{"n":1,"to":{"country":"AT","zip":1010.0}}`,
		`{"n":2,"to":{"country":null}}`,
		`{"n":3,"to":"nowhere"}`,
		`{"n":4}`,
		`{"n":5,"to":{"country":true,"zip":1e2}}`,
		`{"n":6,"to":{"country":["DE"],"zip":90000000000000000001}}`,
	}
	tests := []struct {
		path       string
		conditions []pipeline.Condition
		want       []int
	}{
		{"to", nil, []int{0, 1, 2, 3, 5, 6}},
		{"to.country", nil, []int{0, 1, 2, 5, 6}},
		{"to.country", []pipeline.Condition{pipeline.Is("DE")}, []int{0}},
		{"to.country", []pipeline.Condition{pipeline.Is("DE", nil, true)}, []int{0, 2, 5}},
		{"to.country", []pipeline.Condition{pipeline.Not(pipeline.Is("DE"))}, []int{1, 2, 3, 4, 5, 6}},
		{"to.country", []pipeline.Condition{pipeline.Exists(), pipeline.Not(pipeline.Is("DE"))}, []int{1, 2, 5, 6}},
		{"to.country", []pipeline.Condition{pipeline.HasPrefix("A", "X")}, []int{1}},
		{"to.zip", []pipeline.Condition{pipeline.Is(1010, 100)}, []int{1, 5}},
		{"to.zip", []pipeline.Condition{pipeline.AtLeast(1010)}, []int{0, 1, 6}},
		{"to.zip", []pipeline.Condition{pipeline.AtLeast(100), pipeline.AtMost(1010)}, []int{1, 5}},
		{"to.zip", []pipeline.Condition{pipeline.Is(uint64(9000000000000000000))}, nil},
		{"n.n", nil, nil},
	}
	logs := make([]*log, len(tests))
	l.serve("shop", func(svc *server.Service) {
		for i, test := range tests {
			logs[i] = newLog()
			pipeline.On(svc, placed, fmt.Sprint("handler-", i), logs[i].handle, pipeline.Where(test.path, test.conditions...))
		}
	})
	for _, d := range data {
		l.plain("$.Order.placed", []byte(d), nil)
	}
	for i, test := range tests {
		l.until("all are looked at", func() bool {
			h, err := l.p.Handler(t.Context(), "shop", fmt.Sprint("handler-", i))
			if err != nil {
				t.Fatal(err)
			}
			return h.Pending == 0 && h.Running == 0
		})
		if got := logs[i].all(); fmt.Sprint(sorted(got)) != fmt.Sprint(test.want) {
			t.Errorf("Where(%s, %v): %v, want %v", test.path, test.conditions, got, test.want)
		}
	}
}

func TestWherePanics(t *testing.T) {
	t.Parallel()
	for name, fn := range map[string]func(){
		"empty field": func() { pipeline.Where("to..zip") },
		"a list":      func() { pipeline.Is([]int{1}) },
		"a function":  func() { pipeline.Is(func() {}) },
	} {
		if !panics(fn) {
			t.Errorf("%s: no panic", name)
		}
	}
}

func panics(fn func()) (did bool) {
	defer func() { did = recover() != nil }()
	fn()
	return false
}
