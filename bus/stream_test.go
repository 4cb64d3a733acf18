package bus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/bus/natsd"
)

func ExampleBus_EnsureStream() {
	ctx := context.Background()
	srv, err := natsd.Start(ctx, natsd.Config{Port: natsd.FreePort})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Shutdown()
	b, err := bus.Connect(ctx, bus.Config{URLs: []string{srv.URL()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	orders := jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}
	for _, direct := range []bool{false, true} { // the second version has direct gets
		version := 1
		if orders.AllowDirect = direct; direct {
			version = 2
		}
		stream, err := b.EnsureStream(ctx, orders, version)
		if err != nil {
			fmt.Println(err)
			return
		}
		cfg := stream.CachedInfo().Config
		fmt.Println(cfg.Metadata["rpc.do/version"], cfg.AllowDirect)
	}
	_, err = b.EnsureStream(ctx, orders, 1)
	fmt.Println(err)
	// Output:
	// 1 false
	// 2 true
	// bus: stream ORDERS: a newer program has made it, in version 2, and this one knows version 1: update this one
}

// says checks that err says all that is wanted.
func says(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error that says %q", want)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// featured is the config of a stream that needs all that can be needed.
func featured() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               "S",
		Subjects:           []string{"s.>"},
		AllowDirect:        true,
		AllowRollup:        true,
		AllowAtomicPublish: true,
		AllowMsgTTL:        true,
		AllowMsgSchedules:  true,
		Metadata:           map[string]string{"team": "red"},
	}
}

// features returns which of them a config has.
func features(c *jetstream.StreamConfig) []bool {
	return []bool{c.AllowDirect, c.AllowRollup, c.AllowAtomicPublish, c.AllowMsgTTL, c.AllowMsgSchedules}
}

func all(on []bool) bool { return !slices.Contains(on, false) }

func create(t *testing.T, b *bus.Bus, cfg jetstream.StreamConfig) {
	t.Helper()
	if _, err := b.JetStream().CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// ensure returns the stream's config.
func ensure(t *testing.T, b *bus.Bus, want jetstream.StreamConfig, version int) jetstream.StreamConfig {
	t.Helper()
	stream, err := b.EnsureStream(t.Context(), want, version)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	if now := info(t, b, want.Name).Config; !reflect.DeepEqual(cfg, now) {
		t.Errorf("returned %+v, it is %+v", cfg, now)
	}
	return cfg
}

func TestEnsureStreamMakes(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	want := featured()
	cfg := ensure(t, b, want, 3)
	if !all(features(&cfg)) || cfg.Replicas != 1 || !slices.Equal(cfg.Subjects, want.Subjects) ||
		cfg.Metadata["rpc.do/version"] != "3" || cfg.Metadata["team"] != "red" {
		t.Errorf("%+v", cfg)
	}
	if !maps.Equal(want.Metadata, map[string]string{"team": "red"}) {
		t.Errorf("the caller's metadata is now %v", want.Metadata)
	}
	if _, err := b.JetStream().Publish(t.Context(), "s.a", nil); err != nil {
		t.Error(err)
	}
}

// What an operator has changed stays, whatever version asks.
func TestEnsureStreamLeavesOperatorsChanges(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	ensure(t, b, featured(), 1)
	edit(t, b, "S", func(cfg *jetstream.StreamConfig) {
		cfg.Description, cfg.Metadata["owner"], cfg.Metadata["team"] = "edited", "alice", "blue"
		cfg.MaxAge, cfg.MaxMsgs, cfg.MaxBytes, cfg.MaxMsgsPerSubject, cfg.MaxMsgSize = time.Hour, 10, 1<<20, 2, 1<<10
		cfg.MaxConsumers, cfg.Duplicates, cfg.Compression = 7, time.Minute, jetstream.S2Compression
		cfg.Subjects = append(cfg.Subjects, "more")
		cfg.Placement = &jetstream.Placement{Tags: []string{"ssd"}}
		cfg.ConsumerLimits.MaxAckPending = 5
		cfg.RePublish = &jetstream.RePublish{Source: "s.x", Destination: "copy"}
		cfg.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "s.y", Destination: "s.z"}
		cfg.AllowBatchPublish, cfg.DenyDelete = true, true
	})
	before := info(t, b, "S").Config
	want := featured()
	want.MaxAge, want.Description, want.MaxMsgsPerSubject = time.Minute, "wanted", 9
	if after := ensure(t, b, want, 1); !reflect.DeepEqual(before, after) {
		t.Errorf("the same version made %+v of %+v", after, before)
	}
	want.Subjects = append(want.Subjects, "later")
	after := ensure(t, b, want, 2)
	before.Subjects = append(before.Subjects, "later")
	before.Metadata["rpc.do/version"] = "2"
	if !reflect.DeepEqual(before, after) {
		t.Errorf("a newer version made %+v of %+v", after, before)
	}
}

// Each thing that is needed is turned on, in a stream of the same version, of
// an older one, and of none.
func TestEnsureStreamTurnsOn(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for stamp, version := range map[string]int{"1": 1, "2": 7, "": 1} {
		for i := range features(new(jetstream.StreamConfig)) {
			want := featured()
			want.Name = fmt.Sprintf("S%s%d%d", stamp, version, i)
			want.Subjects = []string{want.Name}
			have := want
			have.Metadata = map[string]string{"team": "blue"}
			if stamp != "" {
				have.Metadata["rpc.do/version"] = stamp
			}
			*[]*bool{&have.AllowDirect, &have.AllowRollup, &have.AllowAtomicPublish, &have.AllowMsgTTL, &have.AllowMsgSchedules}[i] = false
			create(t, b, have)
			cfg := ensure(t, b, want, version)
			if !all(features(&cfg)) || cfg.Metadata["rpc.do/version"] != fmt.Sprint(version) || cfg.Metadata["team"] != "blue" {
				t.Errorf("%s: %v %v", want.Name, features(&cfg), cfg.Metadata)
			}
		}
	}
}

// What is not asked for is not turned on.
func TestEnsureStreamTurnsOnNothingElse(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	create(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if cfg := ensure(t, b, jetstream.StreamConfig{Name: "S"}, 1); slices.Contains(features(&cfg), true) || len(cfg.Subjects) != 1 {
		t.Errorf("%+v", cfg)
	}
}

func TestEnsureStreamAddsSubjects(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ have, want, then string }{
		{"a", "a", "a"},
		{"a", "b", "a b"},
		{"a b", "b", "a b"},
		{"a.>", "a.b a.* a.b.>", "a.>"},
		{"a.*", "a.b", "a.*"},
		{"a.*", "a.b.c", "a.* a.b.c"},
		{"a.*", "a.>", "a.>"},
		{"a.b c a.d.e", "a.>", "c a.>"},
		{"a.b.c", "a.*.c", "a.*.c"},
		{"a.*.c", "a.b.*", ""}, // overlap: refused
		{"a.>", "a", "a.> a"},
		{"a.b", "a.b.c", "a.b a.b.c"},
		{"a.*", "a.* b.*", "a.* b.*"},
	} {
		t.Run(tt.have+" and "+tt.want, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			create(t, b, jetstream.StreamConfig{Name: "S", Subjects: strings.Fields(tt.have)})
			want := jetstream.StreamConfig{Name: "S", Subjects: strings.Fields(tt.want)}
			if tt.then == "" {
				_, err := b.EnsureStream(t.Context(), want, 1)
				says(t, err, "stream S lacks subject "+tt.want, "overlaps", "nats stream edit S")
				return
			}
			if cfg := ensure(t, b, want, 1); !slices.Equal(cfg.Subjects, strings.Fields(tt.then)) {
				t.Errorf("got %q, want %s", cfg.Subjects, tt.then)
			}
		})
	}
}

// A stream that won't do is told from one that will, and is not touched.
func TestEnsureStreamRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		have    func(*jetstream.StreamConfig)
		version int
		says    []string
	}{
		"newer": {
			func(c *jetstream.StreamConfig) { c.Metadata["rpc.do/version"], c.AllowDirect = "3", false }, 2,
			[]string{"newer program", "version 3", "version 2", "update"},
		},
		"no number": {
			func(c *jetstream.StreamConfig) { c.Metadata["rpc.do/version"] = "x" }, 1, []string{`"x"`, "rpc.do/version"},
		},
		"retention": {
			func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, 1, []string{"retention", "WorkQueue", "Limits"},
		},
		"version": {func(*jetstream.StreamConfig) {}, 0, []string{"version 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			have := featured()
			tt.have(&have)
			create(t, b, have)
			before := info(t, b, "S").Config
			_, err := b.EnsureStream(t.Context(), featured(), tt.version)
			says(t, err, append(tt.says, "stream S")...)
			if after := info(t, b, "S").Config; !reflect.DeepEqual(before, after) {
				t.Errorf("made %+v of %+v", after, before)
			}
		})
	}
}

func TestEnsureStreamSealed(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	create(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	edit(t, b, "S", func(cfg *jetstream.StreamConfig) { cfg.Sealed = true })
	_, err := b.EnsureStream(t.Context(), featured(), 1)
	says(t, err, "stream S", "sealed")
}

// The server refuses one thing: the others are turned on, and the stream is not
// said to be of this version.
func TestEnsureStreamCannotTurnOn(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		have  jetstream.StreamConfig
		lacks string
		cause string
	}{
		"schedules": {jetstream.StreamConfig{Discard: jetstream.DiscardNew}, "allow_msg_schedules", "discard new"},
		"rollups":   {jetstream.StreamConfig{DenyPurge: true}, "allow_rollup_hdrs, allow_msg_schedules", "purge"},
		"atomic":    {jetstream.StreamConfig{PersistMode: jetstream.AsyncPersistMode}, "allow_atomic", "atomic"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.New(t)
			have := tt.have
			have.Name, have.Subjects = "S", []string{"s.a"}
			create(t, b, have)
			_, err := b.EnsureStream(t.Context(), featured(), 1)
			says(t, err, "stream S lacks "+tt.lacks+" and", tt.cause, `"nats stream edit S"`)
			if _, ok := errors.AsType[*jetstream.APIError](err); !ok {
				t.Errorf("does not wrap the server's error: %v", err)
			}
			cfg := info(t, b, "S").Config
			off := strings.Count(tt.lacks, "allow_")
			for _, on := range features(&cfg) {
				if !on {
					off--
				}
			}
			if _, stamped := cfg.Metadata["rpc.do/version"]; off != 0 || stamped || !slices.Equal(cfg.Subjects, []string{"s.>"}) {
				t.Errorf("%+v", cfg)
			}
		})
	}
}

func TestEnsureStreamOverlap(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	create(t, b, jetstream.StreamConfig{Name: "other", Subjects: []string{"s.*"}})
	_, err := b.EnsureStream(t.Context(), featured(), 1)
	says(t, err, "stream S", "another stream", "nats stream ls")
}

func TestEnsureStreamName(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for _, name := range []string{"", "a.b", "a b"} {
		_, err := b.EnsureStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"s"}}, 1)
		says(t, err, "bus: stream "+name)
	}
}

// Many processes make the same stream at once, some of them in another way.
func TestEnsureStreamConcurrently(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	var wg sync.WaitGroup
	for i := range 12 {
		b := bustest.Connect(t, s)
		want := featured()
		switch {
		case i%3 == 1:
			want.MaxMsgs = 100
		case i%3 == 2:
			want.AllowMsgSchedules = false
			want.Subjects = []string{"s.a"}
		}
		wg.Go(func() {
			stream, err := b.EnsureStream(t.Context(), want, 1)
			if err != nil {
				t.Error(err)
				return
			}
			if cfg := stream.CachedInfo().Config; cfg.Metadata["rpc.do/version"] != "1" {
				t.Errorf("%+v", cfg)
			}
		})
	}
	wg.Wait()
	cfg := info(t, bustest.Connect(t, s), "S").Config
	if !all(features(&cfg)) || !slices.Equal(cfg.Subjects, []string{"s.>"}) {
		t.Errorf("%+v", cfg)
	}
}

// Of programs of several versions the newest has its way, at its next start at
// the latest.
func TestEnsureStreamVersionsConcurrently(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	create(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	var wg sync.WaitGroup
	for i := range 9 {
		b := bustest.Connect(t, s)
		version := 1 + i%3
		wg.Go(func() {
			if _, err := b.EnsureStream(t.Context(), featured(), version); err != nil {
				if version == 3 || !strings.Contains(err.Error(), "newer program") {
					t.Errorf("version %d: %v", version, err)
				}
			}
		})
	}
	wg.Wait()
	if cfg := ensure(t, b, featured(), 3); !all(features(&cfg)) || cfg.Metadata["rpc.do/version"] != "3" {
		t.Errorf("%+v", cfg)
	}
}

// An update of another process that undoes this one's is seen.
func TestEnsureStreamUndone(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	create(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	// It looks, updates, and is held before it looks again.
	h := newHolder(s, "STREAM.INFO.S ", 1)
	undone := h.connect(t)
	done := make(chan error, 1)
	go func() {
		_, err := undone.EnsureStream(t.Context(), featured(), 1)
		done <- err
	}()
	h.wait(t, done)
	if cfg := info(t, b, "S").Config; !cfg.AllowAtomicPublish {
		t.Errorf("held too early: %+v", cfg)
	}
	edit(t, b, "S", func(cfg *jetstream.StreamConfig) { cfg.AllowDirect, cfg.AllowAtomicPublish = false, false })
	h.letGo()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if cfg := info(t, b, "S").Config; !all(features(&cfg)) {
		t.Errorf("%+v", cfg)
	}
}

// A request that gets no answer is made again.
func TestEnsureStreamUnanswered(t *testing.T) {
	t.Parallel()
	for _, request := range []string{"INFO", "CREATE"} {
		t.Run(request, func(t *testing.T) {
			t.Parallel()
			h := newHolder(bustest.Server(t), "STREAM."+request+".S ", 0)
			close(h.drop)
			b := h.connect(t)
			// Else the first request is written together with its inbox.
			if _, err := b.JetStream().AccountInfo(t.Context()); err != nil {
				t.Fatal(err)
			}
			if cfg := ensure(t, b, featured(), 1); !all(features(&cfg)) {
				t.Errorf("%+v", cfg)
			}
			h.wait(t, nil)
		})
	}
}

// start runs a server with options that bustest has none for.
func start(t *testing.T, opts *server.Options) (url string) {
	t.Helper()
	opts.Host, opts.Port, opts.NoSigs, opts.NoLog, opts.StoreDir = "127.0.0.1", -1, true, true, t.TempDir()
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("not ready")
	}
	return s.ClientURL()
}

func connect(t *testing.T, cfg bus.Config) *bus.Bus {
	t.Helper()
	b, err := bus.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestEnsureStreamWithoutJetStream(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.WithServer(func(c *natsd.Config) { c.NoJetStream, c.StoreDir = true, "" }))
	_, err := b.EnsureStream(t.Context(), featured(), 1)
	says(t, err, "stream S", "JetStream is not enabled", "rpcdo dev")
	if !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("%v", err)
	}

	account := server.NewAccount("A")
	url := start(t, &server.Options{JetStream: true, Accounts: []*server.Account{account},
		Users: []*server.User{{Username: "alice", Password: "x", Account: account}}})
	b = connect(t, bus.Config{URLs: []string{url}, User: "alice", Password: "x"})
	_, err = b.EnsureStream(t.Context(), featured(), 1)
	says(t, err, "stream S", "not enabled for the account")
	if !errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		t.Errorf("%v", err)
	}
}

// What is not permitted is said at once: the server does not answer it.
func TestEnsureStreamNotPermitted(t *testing.T) {
	t.Parallel()
	for _, denied := range []string{"INFO", "CREATE", "UPDATE"} {
		t.Run(denied, func(t *testing.T) {
			t.Parallel()
			url := start(t, &server.Options{JetStream: true, Users: []*server.User{
				{Username: "root", Password: "x"},
				{Username: "alice", Password: "x", Permissions: &server.Permissions{
					Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM." + denied + ".>"}},
				}},
			}})
			if denied == "UPDATE" {
				create(t, connect(t, bus.Config{URLs: []string{url}, User: "root", Password: "x"}),
					jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			}
			b := connect(t, bus.Config{URLs: []string{url}, User: "alice", Password: "x"})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := b.EnsureStream(ctx, featured(), 1)
			says(t, err, "stream S", "not permit", "$JS.API.STREAM."+denied+".S")
		})
	}
}

func TestEnsureStreamReplicas(t *testing.T) {
	t.Parallel()
	three := bustest.WithConfig(func(c *bus.Config) { c.Replicas = 3 })
	_, err := bustest.New(t, three).EnsureStream(t.Context(), featured(), 1)
	says(t, err, "stream S", "Replicas 3 wants a cluster of 3", "Config.Replicas to 1", "non-clustered")

	b := bustest.Connect(t, bustest.Cluster(t, 2)[0], three)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = b.EnsureStream(ctx, featured(), 1)
	says(t, err, "stream S", "Replicas 3 wants a cluster of 3", "Config.Replicas to 1", "no suitable peers")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	want := featured()
	want.Replicas = 1
	if cfg := ensure(t, b, want, 1); cfg.Replicas != 1 {
		t.Errorf("%+v", cfg)
	}
}

func TestEnsureStreamInCluster(t *testing.T) {
	t.Parallel()
	members := bustest.Cluster(t, 3)
	var wg sync.WaitGroup
	for i := range 9 {
		b := bustest.Connect(t, members[i%3], bustest.WithConfig(func(c *bus.Config) { c.Replicas = 3 }))
		want := featured()
		if i%2 == 1 {
			want.Subjects = []string{"s.>", "t"}
		}
		wg.Go(func() {
			stream, err := b.EnsureStream(t.Context(), want, 1)
			if err != nil {
				t.Error(err)
				return
			}
			if cfg := stream.CachedInfo().Config; cfg.Replicas != 3 {
				t.Errorf("%+v", cfg)
			}
			if _, err := b.JetStream().Publish(t.Context(), "s.a", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A cluster without a leader is waited for.
func TestEnsureStreamWithoutLeader(t *testing.T) {
	t.Parallel()
	members := bustest.Cluster(t, 3)
	b := bustest.Connect(t, members[0], bustest.WithConfig(func(c *bus.Config) { c.Replicas = 3 }))
	for _, m := range members[1:] {
		m.Shutdown()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := b.EnsureStream(ctx, featured(), 1)
	says(t, err, "stream S")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}

	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := b.EnsureStream(ctx, featured(), 1)
		done <- err
	}()
	for _, m := range members[1:] {
		if err := m.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestEnsureStreamWithinContext(t *testing.T) {
	t.Parallel()
	s := bustest.Server(t)
	b := bustest.Connect(t, s)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	cancel(why)
	_, err := b.EnsureStream(ctx, featured(), 1)
	says(t, err, "stream S")
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}

	lost := make(chan struct{}, 2)
	b.OnDisconnect(func() { lost <- struct{}{} })
	s.Shutdown()
	<-lost
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	_, err = b.EnsureStream(short, featured(), 1)
	says(t, err, "not connected to "+s.URL())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}

	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.EnsureStream(t.Context(), featured(), 1); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("closed: got %v", err)
	}
}

// An update writes back what nats.go has read of a config: a setting that only
// the server knows would be reset.
func TestStreamConfigIsKnown(t *testing.T) {
	t.Parallel()
	known := jsonNames(reflect.TypeFor[jetstream.StreamConfig]())
	for _, name := range jsonNames(reflect.TypeFor[server.StreamConfig]()) {
		if !slices.Contains(known, name) {
			t.Errorf("nats.go does not know the setting %q of a stream", name)
		}
	}
	known = jsonNames(reflect.TypeFor[jetstream.StreamSource]())
	for _, name := range jsonNames(reflect.TypeFor[server.StreamSource]()) {
		if !slices.Contains(known, name) {
			t.Errorf("nats.go does not know the setting %q of a source", name)
		}
	}
}

func jsonNames(t reflect.Type) []string {
	var names []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}
