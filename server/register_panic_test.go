package server_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"rpc.do/bus/bustest"
	"rpc.do/server"
)

type (
	noMethods     struct{}
	onlyPromoted  struct{ mathClass }
	onlyReserved  struct{}
	variadic      struct{}
	takesChannel  struct{}
	takesFunc     struct{}
	takesHidden   struct{}
	takesReader   struct{}
	takesComplex  struct{}
	takesKey      struct{}
	lateContext   struct{}
	threeResults  struct{}
	secondNoError struct{}
	twoErrors     struct{}
	ownError      struct{}
	givesFunc     struct{}
	sameName      struct{}
	oddLetters    struct{}
	fine          struct{}
	fineToo       struct{}
)

type hidden struct {
	Deep []map[string]struct{ F func() }
}

type recursive struct {
	Next *recursive
	_    chan int
	Not  func() `json:"-"`
}

type myError struct{}

func (*myError) Error() string { return "" }

func (onlyReserved) Fetch()                                         {}
func (onlyReserved) Connect()                                       {}
func (onlyReserved) String() string                                 { return "" }
func (variadic) Sum(n ...int) int                                   { return len(n) }
func (takesChannel) Watch(c chan int)                               {}
func (takesFunc) Map(f func(int) int)                               {}
func (takesHidden) Deep(h hidden)                                   {}
func (takesReader) Read(r io.Reader)                                {}
func (takesComplex) Abs(c complex128) float64                       { return real(c) }
func (takesKey) Look(m map[bool]int)                                {}
func (lateContext) Do(n int, ctx context.Context)                   {}
func (threeResults) Do() (int, int, error)                          { return 0, 0, nil }
func (secondNoError) Do() (int, string)                             { return 0, "" }
func (twoErrors) Do() (error, error)                                { return nil, nil }
func (ownError) Do() *myError                                       { return nil }
func (givesFunc) Do() (func(), error)                               { return nil, nil }
func (sameName) ID()                                                {}
func (sameName) Id()                                                {}
func (oddLetters) Élan()                                            {}
func (fine) Do(ctx context.Context, r recursive) (recursive, error) { return r, nil }
func (fineToo) Do(m map[int]any) (io.Reader, error)                 { return nil, nil }

func TestRegisterPanicsAtWhatItCanNotServe(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for _, tt := range []struct {
		register func(*server.Service)
		says     []string
	}{
		{registration[noMethods](), []string{"noMethods", "no method to serve"}},
		{registration[onlyPromoted](), []string{"onlyPromoted", "no method to serve"}},
		{registration[onlyReserved](), []string{"onlyReserved", "no method to serve"}},
		{registration[io.Reader](), []string{"io.Reader", "no method to serve"}},
		{registration[int](), []string{"int", "no method to serve"}},
		{registration[variadic](), []string{"variadic.Sum is variadic", "allowed are func("}},
		{registration[takesChannel](), []string{"takesChannel.Watch takes a chan int", "allowed are func("}},
		{registration[takesFunc](), []string{"takesFunc.Map takes a func(int) int"}},
		{registration[takesHidden](), []string{"takesHidden.Deep takes a server_test.hidden", "F: func() has no form in JSON"}},
		{registration[takesReader](), []string{"takesReader.Read takes a io.Reader", "nothing says which"}},
		{registration[takesComplex](), []string{"takesComplex.Abs", "complex128"}},
		{registration[takesKey](), []string{"takesKey.Look", "bool can't be a key"}},
		{registration[lateContext](), []string{"lateContext.Do", "context.Context that is not its first param"}},
		{registration[threeResults](), []string{"threeResults.Do returns 3 results", "(R, error)"}},
		{registration[secondNoError](), []string{"secondNoError.Do returns a string where an error is wanted"}},
		{registration[twoErrors](), []string{"twoErrors.Do returns a error as its result"}},
		{registration[ownError](), []string{"ownError.Do returns a *server_test.myError", "as error"}},
		{registration[givesFunc](), []string{"givesFunc.Do returns a func() that can't be sent"}},
		{registration[sameName](), []string{"sameName: ID and Id would both be the method id"}},
		{registration[oddLetters](), []string{"oddLetters.Élan", "not allowed"}},
		{func(s *server.Service) { server.Register[fine](s, nil) }, []string{"newInstance is nil"}},
		{func(s *server.Service) {
			registration[fine]()(s)
			registration[fineToo]()(s)
		}, []string{"method do already"}},
	} {
		svc := server.New(b, "class", server.Config{})
		text := panicOf(func() { tt.register(svc) })
		contains(t, text, append(tt.says, "server: ")...)
	}
	if text := panicOf(func() { registration[fine]()(server.New(b, "class", server.Config{})) }); text != "" {
		t.Errorf("a method that can be served is refused: %s", text)
	}
	if text := panicOf(func() { registration[fineToo]()(server.New(b, "class", server.Config{})) }); text != "" {
		t.Errorf("a method that can be served is refused: %s", text)
	}
}

func registration[T any]() func(*server.Service) {
	return func(s *server.Service) { server.Register(s, func() *T { return new(T) }) }
}

// panicOf returns what fn panics with, "" when it does not.
func panicOf(fn func()) (text string) {
	defer func() {
		if cause := recover(); cause != nil {
			text = fmt.Sprint(cause)
		}
	}()
	fn()
	return ""
}
