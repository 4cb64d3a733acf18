package server_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/server"
)

var (
	todoAdd   = rpc.NewMethod[noteParams, noteResult]("todo.add")
	todoPlace = rpc.NewMethod[noteParams, noteResult]("todo.v2.place")
	todoFail  = rpc.NewMethod[failParams, noteResult]("todo.fail")
)

// trace collects what interceptors see.
type trace struct {
	mu    sync.Mutex
	steps []string
}

func (tr *trace) add(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.steps = append(tr.steps, fmt.Sprintf(format, args...))
}

func (tr *trace) take() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	steps := tr.steps
	tr.steps = nil
	return steps
}

// interceptor notes when it is passed, on the way in and out.
func (tr *trace) interceptor(name string) rpc.Interceptor {
	return rpc.Interceptor{Name: name, Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error {
			tr.add("%s sees %s", name, call.Name())
			err := next(ctx, call)
			tr.add("%s leaves", name)
			return err
		}
	}}
}

func unary(name string, wrap func(ctx context.Context, call *rpc.Call, next rpc.UnaryFunc) error) rpc.Interceptor {
	return rpc.Interceptor{Name: name, Unary: func(next rpc.UnaryFunc) rpc.UnaryFunc {
		return func(ctx context.Context, call *rpc.Call) error { return wrap(ctx, call, next) }
	}}
}

// eachCaller runs test with a caller from outside and one that takes the
// shortcut, of a service that build registers methods with.
func eachCaller(t *testing.T, cfg server.Config, build func(svc *server.Service), test func(t *testing.T, c *client.Client)) {
	t.Helper()
	srv := bustest.Server(t)
	b := bustest.Connect(t, srv)
	svc := server.New(b, "todo", cfg)
	build(svc)
	start(t, svc)
	for _, w := range []struct {
		name string
		from *bus.Bus
	}{{"wire", bustest.Connect(t, srv)}, {"shortcut", b}} {
		t.Run(w.name, func(t *testing.T) {
			test(t, client.New(w.from, client.Config{MaxAttempts: 1}))
		})
	}
}

func TestInterceptorOrder(t *testing.T) {
	t.Parallel()
	tr := new(trace)
	cfg := server.Config{Interceptors: []rpc.Interceptor{tr.interceptor("first"), {Name: "nothing"}, tr.interceptor("second")}}
	eachCaller(t, cfg, func(svc *server.Service) {
		server.Handle(svc, todoAdd, echo)
		admin := svc.Entrypoint("Admin", tr.interceptor("third"), tr.interceptor("fourth"))
		server.Handle(admin, todoAdd, echo)
	}, func(t *testing.T, c *client.Client) {
		if _, err := todoAdd.Call(t.Context(), c, noteParams{}); err != nil {
			t.Fatal(err)
		}
		if got, want := tr.take(), []string{
			"first sees todo.add", "second sees todo.add", "second leaves", "first leaves",
		}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if _, err := todoAdd.Call(t.Context(), c.Service("todo").Entrypoint("Admin"), noteParams{}); err != nil {
			t.Fatal(err)
		}
		if got, want := tr.take(), []string{
			"first sees todo.Admin.add", "second sees todo.Admin.add", "third sees todo.Admin.add", "fourth sees todo.Admin.add",
			"fourth leaves", "third leaves", "second leaves", "first leaves",
		}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestInterceptorChangesTheCall(t *testing.T) {
	t.Parallel()
	var seen rpc.Call
	cfg := server.Config{Interceptors: []rpc.Interceptor{
		unary("look", func(ctx context.Context, call *rpc.Call, next rpc.UnaryFunc) error {
			seen = *call
			return next(context.WithValue(ctx, userKey{}, call.Header.Get("X-User")), call)
		}),
		unary("change", func(ctx context.Context, call *rpc.Call, next rpc.UnaryFunc) error {
			call.Params.(*noteParams).Text += ", please"
			err := next(ctx, call)
			call.Result.(*noteResult).Len *= 100
			return err
		}),
	}}
	eachCaller(t, cfg, func(svc *server.Service) {
		server.Handle(svc, todoAdd, func(ctx context.Context, p noteParams) (noteResult, error) {
			p.Text = fmt.Sprintf("%v: %s", ctx.Value(userKey{}), p.Text)
			return noteResult{p, 1}, nil
		})
	}, func(t *testing.T, c *client.Client) {
		sent := noteParams{Text: "tea"}
		got, err := todoAdd.Call(t.Context(), c, sent, rpc.WithHeader("X-User", "alice"), rpc.WithID("id-1"))
		if err != nil || got.Note.Text != "alice: tea, please" || got.Len != 100 {
			t.Errorf("got %+v, %v", got, err)
		}
		if sent.Text != "tea" {
			t.Errorf("the caller's params became %q", sent.Text)
		}
		if seen.Service != "todo" || seen.Method != "add" || seen.ID != "id-1" || seen.Caller != "test" || seen.Attempt != 1 || seen.OneWay {
			t.Errorf("the interceptor saw %+v", seen)
		}
	})
}

type userKey struct{}

func TestInterceptorAnswersInPlace(t *testing.T) {
	t.Parallel()
	ran := make(chan struct{}, 1)
	times := 1
	cfg := server.Config{Interceptors: []rpc.Interceptor{
		unary("guard", func(ctx context.Context, call *rpc.Call, next rpc.UnaryFunc) error {
			switch p := call.Params.(*noteParams); p.Text {
			case "cached":
				*call.Result.(*noteResult) = noteResult{Len: 42}
				return nil
			case "forbidden":
				return rpc.PermissionDenied.Errorf("not for %s", call.Caller).WithDetail(shortage{"x", 1})
			case "broken":
				return errors.New(secret)
			case "thrown":
				panic(secret)
			case "limited":
				return rpc.ResourceExhausted.Errorf("too often").NotExecuted()
			case "again":
				for range 2 {
					if err := next(ctx, call); err != nil {
						return err
					}
				}
			}
			return next(ctx, call)
		}),
	}}
	eachCaller(t, cfg, func(svc *server.Service) {
		server.Handle(svc, todoAdd, func(_ context.Context, p noteParams) (noteResult, error) {
			if p.Text == "again" {
				times++
				return noteResult{Len: times}, nil
			}
			ran <- struct{}{}
			return noteResult{}, nil
		})
	}, func(t *testing.T, c *client.Client) {
		call := func(text string) (noteResult, error) { return todoAdd.Call(t.Context(), c, noteParams{Text: text}) }
		if got, err := call("cached"); err != nil || got.Len != 42 {
			t.Errorf("cached: %+v, %v", got, err)
		}
		_, err := call("forbidden")
		e := requireCode(t, err, rpc.PermissionDenied)
		if e.Message != "not for test" || len(e.Details) != 1 {
			t.Errorf("forbidden: %+v", e)
		}
		for _, text := range []string{"broken", "thrown"} {
			_, err = call(text)
			if e := requireCode(t, err, rpc.Internal); strings.Contains(e.Message, secret) {
				t.Errorf("%s: %v", text, e)
			}
		}
		_, err = call("limited")
		if e := requireCode(t, err, rpc.ResourceExhausted); !e.Retryable {
			t.Errorf("limited: %v is not retryable", e)
		}
		select {
		case <-ran:
			t.Error("the handler ran")
		default:
		}
		times = 0
		if got, err := call("again"); err != nil || got.Len != 3 {
			t.Errorf("again: %+v, %v", got, err)
		}
	})
}

func TestInterceptorMapsErrors(t *testing.T) {
	t.Parallel()
	errMissing := errors.New("no rows")
	cfg := server.Config{Interceptors: []rpc.Interceptor{
		unary("map", func(ctx context.Context, call *rpc.Call, next rpc.UnaryFunc) error {
			err := next(ctx, call)
			if errors.Is(err, errMissing) {
				return rpc.NotFound.Errorf("%s: nothing there: %w", call.Method, err)
			}
			return err
		}),
	}}
	eachCaller(t, cfg, func(svc *server.Service) {
		server.Handle(svc, todoAdd, func(context.Context, noteParams) (noteResult, error) {
			return noteResult{}, fmt.Errorf("query: %w", errMissing)
		})
	}, func(t *testing.T, c *client.Client) {
		_, err := todoAdd.Call(t.Context(), c, noteParams{})
		if e := requireCode(t, err, rpc.NotFound); e.Message != "add: nothing there: query: no rows" {
			t.Errorf("got %q", e.Message)
		}
	})
}

// One role's methods can't be reached through another's entrypoint.
func TestEntrypoints(t *testing.T) {
	t.Parallel()
	admins := unary("admins", func(ctx context.Context, call *rpc.Call, next rpc.UnaryFunc) error {
		if call.Header.Get("Authorization") != "Bearer admin" {
			return rpc.PermissionDenied.Errorf("admins only")
		}
		return next(ctx, call)
	})
	reply := func(text string) func(context.Context, noteParams) (noteResult, error) {
		return func(context.Context, noteParams) (noteResult, error) {
			return noteResult{Note: noteParams{Text: text}}, nil
		}
	}
	remove := rpc.NewMethod[noteParams, noteResult]("todo.remove")
	list := rpc.NewMethod[noteParams, noteResult]("todo.list")
	eachCaller(t, server.Config{}, func(svc *server.Service) {
		admin, guest := svc.Entrypoint("Admin", admins), svc.Entrypoint("Guest")
		server.Handle(svc, todoAdd, reply("add of all"))
		server.Handle(admin, todoAdd, reply("add of admins"))
		server.Handle(admin, remove, reply("remove of admins"))
		server.Handle(guest, list, reply("list of guests"))
		server.Handle(svc, todoPlace, reply("the second version"))
		server.Handle(admin, todoPlace, reply("the admins' second version"))
	}, func(t *testing.T, c *client.Client) {
		admin, guest := c.Service("todo").Entrypoint("Admin"), c.Service("todo").Entrypoint("Guest")
		token := rpc.WithHeader("Authorization", "Bearer admin")
		for _, x := range []struct {
			via    rpc.Caller
			method rpc.Method[noteParams, noteResult]
			opts   []rpc.CallOption
			want   string
			code   rpc.Code
		}{
			{via: c, method: todoAdd, want: "add of all"},
			{via: c, method: todoPlace, want: "the second version"},
			{via: admin, method: todoAdd, opts: []rpc.CallOption{token}, want: "add of admins"},
			{via: admin, method: remove, opts: []rpc.CallOption{token}, want: "remove of admins"},
			{via: admin, method: todoPlace, opts: []rpc.CallOption{token}, want: "the admins' second version"},
			{via: guest, method: list, want: "list of guests"},

			{via: admin, method: todoAdd, code: rpc.PermissionDenied},
			{via: admin, method: remove, code: rpc.PermissionDenied},
			{via: c, method: remove, opts: []rpc.CallOption{token}, code: rpc.Unimplemented},
			{via: guest, method: remove, opts: []rpc.CallOption{token}, code: rpc.Unimplemented},
			{via: guest, method: todoAdd, code: rpc.Unimplemented},
			{via: admin, method: list, opts: []rpc.CallOption{token}, code: rpc.Unimplemented},
			{via: c, method: list, code: rpc.Unimplemented},
			{via: c, method: rpc.NewMethod[noteParams, noteResult]("todo.Admin.remove"), code: rpc.PermissionDenied},
			{via: guest, method: rpc.NewMethod[noteParams, noteResult]("todo.Admin.remove"), opts: []rpc.CallOption{token}, code: rpc.Unimplemented},
			{via: c, method: rpc.NewMethod[noteParams, noteResult]("todo.admin.remove"), opts: []rpc.CallOption{token}, code: rpc.Unimplemented},
			{via: c, method: rpc.NewMethod[noteParams, noteResult]("todo.Admin"), code: rpc.Unimplemented},
			{via: c, method: rpc.NewMethod[noteParams, noteResult]("todo.v2"), code: rpc.Unimplemented},
			{via: c, method: rpc.NewMethod[noteParams, noteResult]("todo.place"), code: rpc.Unimplemented},
		} {
			got, err := x.method.Call(t.Context(), x.via, noteParams{}, x.opts...)
			if rpc.CodeOf(err) != x.code || got.Note.Text != x.want {
				t.Errorf("%s via %T with %d options: %q, %v; want %q, %v", x.method.Spec().Name(), x.via, len(x.opts), got.Note.Text, err, x.want, x.code)
			}
		}
	})
}

// Mistakes of the program panic when they are made.
func TestRegistrationPanics(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for _, c := range []struct {
		name  string
		does  func(svc *server.Service)
		parts []string
	}{
		{"a method twice", func(svc *server.Service) {
			server.Handle(svc, todoAdd, echo)
			server.Handle(svc, todoAdd, echo)
		}, []string{"todo", "add", "already"}},
		{"no handler", func(svc *server.Service) { server.Handle(svc, todoAdd, nil) }, []string{"todo.add", "nil"}},
		{"a method twice in an entrypoint", func(svc *server.Service) {
			e := svc.Entrypoint("Admin")
			server.Handle(e, todoAdd, echo)
			server.Handle(e, todoAdd, echo)
		}, []string{"Admin.add", "already"}},
		{"an entrypoint twice", func(svc *server.Service) {
			svc.Entrypoint("Admin")
			svc.Entrypoint("Admin")
		}, []string{"entrypoint", "Admin", "already"}},
		{"a malformed entrypoint", func(svc *server.Service) { svc.Entrypoint("Ad.min") }, []string{"entrypoint", "Ad.min"}},
		{"an empty entrypoint", func(svc *server.Service) { svc.Entrypoint("") }, []string{"entrypoint", "empty"}},
		{"an entrypoint of the system's", func(svc *server.Service) { svc.Entrypoint("_Admin") }, []string{"entrypoint", "_Admin"}},
		{"an entrypoint named as a method's first token", func(svc *server.Service) {
			server.Handle(svc, todoPlace, echo)
			svc.Entrypoint("v2")
		}, []string{"v2.place", "entrypoint"}},
		{"an entrypoint named as a method", func(svc *server.Service) {
			server.Handle(svc, todoAdd, echo)
			svc.Entrypoint("add")
		}, []string{"add", "entrypoint"}},
		{"a method that begins with an entrypoint's name", func(svc *server.Service) {
			svc.Entrypoint("v2")
			server.Handle(svc, todoPlace, echo)
		}, []string{"v2.place", "entrypoint"}},
		{"a name that gets too long in an entrypoint", func(svc *server.Service) {
			server.Handle(svc.Entrypoint(strings.Repeat("E", 60)), rpc.NewMethod[int, int]("todo."+strings.Repeat("m", 150)), nil)
		}, []string{"too long"}},
		{"a reserved method", func(svc *server.Service) { server.Handle(svc, rpc.NewMethod[int, int]("todo.fetch"), nil) }, []string{"fetch", "reserved"}},
		{"a method of the system's", func(svc *server.Service) { server.Handle(svc, rpc.NewMethod[int, int]("todo._m"), nil) }, []string{"_m"}},
		{"a malformed method", func(svc *server.Service) { server.Handle(svc, rpc.NewMethod[int, int]("todo.a b"), nil) }, []string{"a b"}},
		{"a queue without a concurrency", func(svc *server.Service) { server.Handle(svc, todoAdd, echo, server.Queue(3)) }, []string{"Queue", "Concurrency"}},
		{"no concurrency", func(svc *server.Service) { server.Handle(svc, todoAdd, echo, server.Concurrency(0)) }, []string{"concurrency"}},
		{"a negative queue", func(svc *server.Service) {
			server.Handle(svc, todoAdd, echo, server.Concurrency(1), server.Queue(-1))
		}, []string{"queue", "negative"}},
		{"a malformed service", func(*server.Service) { server.New(b, "to.do", server.Config{}) }, []string{"to.do"}},
		{"a service of the system's", func(*server.Service) { server.New(b, "_todo", server.Config{}) }, []string{"_todo"}},
		{"a version that is none", func(*server.Service) { server.New(b, "todo", server.Config{Version: "v1"}) }, []string{"v1", "SemVer"}},
		{"a negative bound", func(*server.Service) { server.New(b, "todo", server.Config{Queue: -1}) }, []string{"Queue", "negative"}},
	} {
		svc := server.New(b, "todo", server.Config{})
		text := panicOf(func() { c.does(svc) })
		if text == "" {
			t.Errorf("%s: no panic", c.name)
			continue
		}
		t.Run(c.name, func(t *testing.T) { contains(t, text, c.parts...) })
	}
}

func TestRegistrationAfterRun(t *testing.T) {
	t.Parallel()
	svc := server.New(bustest.New(t), "todo", server.Config{})
	guest := svc.Entrypoint("Guest")
	server.Handle(svc, todoAdd, echo)
	start(t, svc)
	for name, does := range map[string]func(){
		"method":               func() { server.Handle(svc, todoFail, fail) },
		"entrypoint":           func() { svc.Entrypoint("Admin") },
		"method of entrypoint": func() { server.Handle(guest, todoFail, fail) },
	} {
		if text := panicOf(does); !strings.Contains(text, "after Run") {
			t.Errorf("%s: the panic says %q", name, text)
		}
	}
}
