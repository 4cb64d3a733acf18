package cli

import (
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"rpc.do"
	"rpc.do/bus/bustest"
	"rpc.do/server"
)

func TestServices(t *testing.T) {
	t.Parallel()
	url := bustest.Server(t).URL()
	for range 2 {
		start(t, Env{}, "serve", "--server", url).waitFor(t, "ready")
	}
	env := with("NATS_URL", url)
	rpcdo(t, env, "call", "math.add", `{"a":1}`).want(t, exitDone, texts("1"), nil)
	rpcdo(t, env, "call", "math.divide", `{"a":1}`).want(t, exitFailed, nil, texts("zero"))

	t.Run("ls", func(t *testing.T) {
		t.Parallel()
		o := rpcdo(t, env, "services", "ls")
		o.want(t, exitDone, texts("SERVICE  VERSION  INSTANCES  METHODS", "\nmath     1.0.0    2          2        Arithmetic"), nil)
		list := fromJSON[[]listed](t, rpcdo(t, env, "services", "ls", "--json").out)
		if len(list) != 4 || list[0].Name != "counter" || list[2].Name != "math" || list[2].Instances != 2 || strings.Join(list[2].Methods, " ") != "math.add math.divide" {
			t.Errorf("got %+v", list)
		}
	})
	t.Run("info", func(t *testing.T) {
		t.Parallel()
		o := rpcdo(t, env, "services", "info", "math")
		o.want(t, exitDone, texts("math 1.0.0", "instances    2: ", "math.divide  Divides a by b; b must not be 0. (idempotent)\n"), nil)
		info := fromJSON[[]deployed](t, rpcdo(t, env, "services", "info", "math", "--json").out)
		if len(info) != 1 || len(info[0].Instances) != 2 || len(info[0].Methods) != 2 {
			t.Fatalf("got %+v", info)
		}
		add := info[0].Methods[0]
		if add.Name != "math.add" || !add.Idempotent || !strings.Contains(string(add.Params), `"number"`) || !strings.Contains(string(add.Result), `"sum"`) {
			t.Errorf("got %+v", add)
		}
	})
	t.Run("stats", func(t *testing.T) {
		t.Parallel()
		rpcdo(t, env, "services", "stats").want(t, exitDone, texts("METHOD", "greeter.hello      1.0.0    2          0      0", "division by zero"), nil)
		loads := fromJSON[[]load](t, rpcdo(t, env, "services", "stats", "math", "--json").out)
		if len(loads) != 2 || loads[0].Method != "math.add" || loads[0].Calls != 1 || loads[0].Errors != 0 || loads[0].MeanUs <= 0 ||
			loads[0].P99us == nil || *loads[0].P99us <= 0 || loads[1].Errors != 1 || loads[1].Instances != 2 {
			t.Errorf("got %+v", loads)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		t.Parallel()
		for _, verb := range []string{"info", "stats"} {
			o := rpcdo(t, env, "services", verb, "nope")
			o.want(t, exitFailed, nil, texts(`no service "nope" answered`, "rpcdo services ls"))
			o.wantLine(t)
			if p := fromJSON[problem](t, rpcdo(t, env, "services", verb, "nope", "--json").err); p.Code != "not_found" {
				t.Errorf("code %s", p.Code)
			}
		}
	})
}

func TestServicesStatsShowWhatWasShed(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	env := with("NATS_URL", b.Conn().ConnectedUrl())
	called, release := make(chan struct{}), make(chan struct{})
	svc := server.New(b, "narrow", server.Config{})
	server.Handle(svc, rpc.NewMethod[rpc.None, rpc.None]("narrow.pass"), func(_ context.Context, n rpc.None) (rpc.None, error) {
		called <- struct{}{}
		<-release
		return n, nil
	}, server.Concurrency(1), server.Queue(0))
	serve(t, svc)
	first := start(t, env, "call", "narrow.pass")
	<-called
	// The client tries again on its own: more than one call is shed.
	rpcdo(t, env, "call", "narrow.pass", "--timeout", "2s").want(t, exitFailed, nil, texts("resource_exhausted: narrow.pass is overloaded", "try again after"))
	loads := fromJSON[[]load](t, rpcdo(t, env, "services", "stats", "narrow", "--json").out)
	if len(loads) != 1 || loads[0].Shed == nil || *loads[0].Shed != callAttempts || loads[0].Calls != callAttempts ||
		loads[0].Errors != callAttempts || *loads[0].InFlight != 1 || loads[0].MeanUs != 0 {
		t.Errorf("got %+v", loads)
	}
	rpcdo(t, env, "services", "stats").want(t, exitDone, texts("  ERRORS  SHED  RUNNING", "0.0.0    1          4      4       4     1        -"), nil)
	close(release)
	<-first.done
	if first.status != exitDone {
		t.Errorf("the first call: status %d: %s", first.status, &first.err)
	}
	loads = fromJSON[[]load](t, rpcdo(t, env, "services", "stats", "narrow", "--json").out)
	if len(loads) != 1 || loads[0].Calls != callAttempts+1 || *loads[0].Shed != callAttempts || loads[0].MeanUs < 1 {
		t.Errorf("got %+v", loads)
	}
}

func TestServicesWhenNoneRun(t *testing.T) {
	t.Parallel()
	url := bustest.Server(t).URL()
	for _, verb := range []string{"ls", "stats"} {
		rpcdo(t, Env{}, "services", verb, "--server", url).want(t, exitDone, nil, texts("no services answered"))
		rpcdo(t, Env{}, "services", verb, "--server", url, "--json").want(t, exitDone, texts("[]\n"), nil)
	}
}

// Other programs answer too: some with another library, some with nonsense.
func TestServicesOfOthers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	env := with("NATS_URL", b.Conn().ConnectedUrl())
	svc, err := micro.AddService(b.Conn(), micro.Config{
		Name: "foreign", Version: "0.1.0", Description: "from \x1b[31melsewhere\nwith a line end", Metadata: map[string]string{"team": "x"},
		Endpoint: &micro.EndpointConfig{Subject: "foreign.do", Handler: micro.HandlerFunc(func(r micro.Request) { _ = r.Respond(nil) })},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Stop() })
	sub, err := b.Conn().Subscribe("$SRV.>", func(m *nats.Msg) {
		_ = m.Respond([]byte("nonsense"))
		_ = m.Respond([]byte(`{"name":7}`))
		_ = m.Respond([]byte(`{"name":"null","endpoints":[null]}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := b.Conn().Flush(); err != nil {
		t.Fatal(err)
	}

	o := rpcdo(t, env, "services", "ls")
	o.want(t, exitDone, texts("foreign  0.1.0    1          1        from  [31melsewhere with a line end\n"), texts("2 answers could not be read"))
	if strings.Contains(o.out, "\x1b") {
		t.Errorf("an escape sequence got through: %q", o.out)
	}
	rpcdo(t, env, "services", "info", "foreign").want(t, exitDone, texts("team", "foreign.do"), texts("2 answers"))
	rpcdo(t, env, "services", "stats").want(t, exitDone, texts("foreign.do  0.1.0    1          0      0       -     -        -"), texts("2 answers"))
}

func TestMergeKeepsVersionsApart(t *testing.T) {
	t.Parallel()
	info := func(version, id string, subjects ...string) micro.Info {
		i := micro.Info{ServiceIdentity: micro.ServiceIdentity{Name: "a", Version: version, ID: id}}
		for _, s := range subjects {
			i.Endpoints = append(i.Endpoints, micro.EndpointInfo{Subject: s})
		}
		return i
	}
	got := mergeInfos([]micro.Info{
		info("2.0.0", "z", "rpc.a.y", "rpc.a.x"), info("1.0.0", "q", "rpc.a.x"), info("2.0.0", "b", "rpc.a.x", "rpc.a.y"), info("2.0.0", "b"),
	})
	if len(got) != 2 || got[0].Version != "1.0.0" || strings.Join(got[1].Instances, "") != "bz" || len(got[1].Methods) != 2 || got[1].Methods[0].Name != "a.x" {
		t.Errorf("got %+v", got)
	}
}
