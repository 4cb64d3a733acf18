package pipeline

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus/bustest"
)

func patterns(t testing.TB, texts ...string) []Pattern {
	t.Helper()
	all := make([]Pattern, len(texts))
	for i, text := range texts {
		p, err := ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = p
	}
	return all
}

// The whole language: what each form matches, what it does not.
func TestPattern(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, canonical, filter string
		yes, no                    []string
	}{
		{"User.registered", "User.registered", "$.User.registered",
			[]string{"User.registered"},
			[]string{"User.registered.Product", "User", "User.deleted", "Order.registered", "user.registered", "User.registered2", ""}},
		{"$.User.registered", "User.registered", "$.User.registered",
			[]string{"User.registered"}, []string{"$.User.registered", "User.deleted"}},
		{"User.purchased.Product", "User.purchased.Product", "$.User.purchased.Product",
			[]string{"User.purchased.Product"}, []string{"User.purchased", "User.purchased.Product.x", "User.purchased.Book"}},
		{"User.*", "User.*", "$.User.*",
			[]string{"User.registered", "User.deleted"}, []string{"User", "User.purchased.Product", "Order.placed"}},
		{"*.created", "*.created", "$.*.created",
			[]string{"User.created", "Order.created"}, []string{"created", "User.created.Product", "User.x.created", "User.deleted"}},
		{"*.*", "*.*", "$.*.*",
			[]string{"User.created"}, []string{"User", "User.purchased.Product"}},
		{"*.purchased.*", "*.purchased.*", "$.*.purchased.*",
			[]string{"User.purchased.Product"}, []string{"User.purchased", "User.sold.Product", "User.purchased.Product.x"}},
		{"User.>", "User.>", "$.User.>",
			[]string{"User.registered", "User.purchased.Product", "User.a.b.c.d.e"}, []string{"User", "Users.registered", "Order.placed"}},
		{"$.User.>", "User.>", "$.User.>", []string{"User.registered"}, []string{"User"}},
		{"*.>", "*.>", "$.*.>", []string{"User.registered", "a.b.c.d.e.f"}, []string{"User"}},
		{"*.created.>", "*.created.>", "$.*.created.>", []string{"User.created.Product", "a.created.c.d"}, []string{"User.created"}},
		{"$.>", "$.>", "$.>", []string{"User.registered", "a.b.c.d.e.f", "plain"}, []string{""}},
		{"a.b.c.d.e.f", "a.b.c.d.e.f", "$.a.b.c.d.e.f", []string{"a.b.c.d.e.f"}, []string{"a.b.c.d.e"}},
		{"a.b.c.d.e.>", "a.b.c.d.e.>", "$.a.b.c.d.e.>", []string{"a.b.c.d.e.f"}, []string{"a.b.c.d.e"}},
		{"user_2.sign-up", "user_2.sign-up", "$.user_2.sign-up", []string{"user_2.sign-up"}, []string{"user_2.signup"}},
	} {
		p, err := ParsePattern(test.pattern)
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
			continue
		}
		if p.String() != test.canonical {
			t.Errorf("%s: written as %s, want %s", test.pattern, p, test.canonical)
		}
		if again, err := ParsePattern(p.String()); err != nil || again != p {
			t.Errorf("%s: read again it is %v, %v", test.pattern, again, err)
		}
		if got := filters([]Pattern{p}); !slices.Equal(got, []string{test.filter}) {
			t.Errorf("%s: filters %q, want %q", test.pattern, got, test.filter)
		}
		for _, event := range test.yes {
			if !p.Match(event) {
				t.Errorf("%s does not match %q", test.pattern, event)
			}
		}
		for _, event := range test.no {
			if p.Match(event) {
				t.Errorf("%s matches %q", test.pattern, event)
			}
		}
	}
	if (Pattern{}).Match("User.registered") || len(filters([]Pattern{{}})) > 0 {
		t.Error("the zero Pattern matches something")
	}
}

// What is refused, why, and what to write instead.
func TestPatternRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern string
		want    []string
	}{
		{"", []string{"empty", "User.registered"}},
		{"$.", []string{"token between dots is empty"}},
		{"$", []string{"$.>"}},
		{">", []string{"write $.>"}},
		{"*", []string{"one token", "*.*", "$.>"}},
		{"$.*", []string{"one token"}},
		{"User", []string{"one token", "User.*", "$.User.>"}},
		{"$.User", []string{"one token", "$.User.>"}},
		{"User registered", []string{"space", "User.registered"}},
		{" User.registered", []string{"space"}},
		{"User.registered\n", []string{"space"}},
		{"User.\u00a0x", []string{"space"}},
		{"User..registered", []string{"token between dots is empty"}},
		{".User.registered", []string{"token between dots is empty"}},
		{"User.registered.", []string{"token between dots is empty"}},
		{"User.>.x", []string{"last token", "*"}},
		{">.created", []string{"last token"}},
		{"User.reg*", []string{"wildcard is a whole token"}},
		{"*s.created", []string{"wildcard is a whole token"}},
		{"User.>x", []string{"wildcard is a whole token"}},
		{"User.**", []string{"wildcard is a whole token"}},
		{"User._registered", []string{"begin with _"}},
		{"_INBOX.>", []string{"begin with _"}},
		{"$.$.User", []string{"begin with $"}},
		{"$JS.>", []string{"begin with $"}},
		{"$RPC.dead.*", []string{"begin with $"}},
		{"User.größer", []string{`'ö'`, "A-Z"}},
		{"User/registered", []string{`'/'`}},
		{"User.a\xff", []string{"not allowed"}},
		{"User.\x00", []string{"not allowed"}},
		{"a.b.c.d.e.f.g", []string{"7 tokens", "2 to 6"}},
		{strings.Repeat("*.", 39) + "*", []string{"40 tokens"}},
		{"a.b.c.d.e.f.>", []string{"7 tokens"}},
		{"User." + strings.Repeat("x", rpc.MaxEventName), []string{"261 bytes", "256"}},
		{"$.User." + strings.Repeat("x", rpc.MaxEventName), []string{"261 bytes", "256"}},
		{strings.Repeat("x", 1<<20), []string{"1048576 bytes"}},
	} {
		p, err := ParsePattern(test.pattern)
		if rpc.CodeOf(err) != rpc.InvalidArgument || p != (Pattern{}) {
			t.Errorf("%.80q: %v, %v, want invalid_argument", test.pattern, p, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%.80q: %q does not say %q", test.pattern, err, want)
			}
		}
		if len(err.Error()) > 400 {
			t.Errorf("%.80q: the error has %d bytes", test.pattern, len(err.Error()))
		}
	}
	longest := "User." + strings.Repeat("x", rpc.MaxEventName-len("User."))
	patterns(t, longest, "$."+longest)
}

func TestFilters(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ patterns, want []string }{
		{[]string{"User.registered", "Order.placed"}, []string{"$.Order.placed", "$.User.registered"}},
		{[]string{"User.registered", "$.User.registered"}, []string{"$.User.registered"}},
		{[]string{"User.registered", "User.*"}, []string{"$.User.*"}},
		{[]string{"User.*", "User.registered", "User.registered.x"}, []string{"$.User.*", "$.User.registered.x"}},
		{[]string{"User.*", "*.created"}, []string{"$.*.*"}},
		{[]string{"User.>", "*.created"}, []string{"$.*.>"}},
		{[]string{"User.>", "*.created.x", "Order.placed"}, []string{"$.*.>"}},
		{[]string{"Order.placed", "User.*", "*.created"}, []string{"$.*.*"}},
		{[]string{"a.*.c", "a.b.*", "a.b.c.d"}, []string{"$.a.*.*", "$.a.b.c.d"}},
		{[]string{"User.registered", "$.>"}, []string{"$.>"}},
	} {
		for range 4 { // whatever their order
			rand.Shuffle(len(test.patterns), func(i, j int) {
				test.patterns[i], test.patterns[j] = test.patterns[j], test.patterns[i]
			})
			if got := filters(patterns(t, test.patterns...)); !slices.Equal(got, test.want) {
				t.Errorf("%q: %q, want %q", test.patterns, got, test.want)
			}
		}
	}
}

// natsMatch is how the server says whether a filter takes in a subject.
func natsMatch(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range f {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(f) == len(s)
}

// randomText is a pattern, or an event without wildcards, of a small alphabet, so
// that many overlap.
func randomText(r *rand.Rand, tokens []string) string {
	words := make([]string, 2+r.IntN(4))
	for i := range words {
		words[i] = tokens[r.IntN(len(tokens))]
	}
	if len(tokens) > 3 && r.IntN(4) == 0 {
		words[len(words)-1] = ">"
	}
	return strings.Join(words, ".")
}

// checkFilters holds what filters promises for some patterns, against an event.
func checkFilters(t *testing.T, all []Pattern, event string) {
	t.Helper()
	got := filters(all)
	matched := slices.ContainsFunc(all, func(p Pattern) bool { return p.Match(event) })
	byNATS := slices.ContainsFunc(all, func(p Pattern) bool { return natsMatch(p.text, event) })
	if matched != byNATS {
		t.Errorf("%v and %q: Match says %v, the rules of NATS %v", all, event, matched, byNATS)
	}
	if matched && !slices.ContainsFunc(got, func(f string) bool { return natsMatch(f, "$."+event) }) {
		t.Errorf("%v match %q, the filters %q do not", all, event, got)
	}
	if !slices.IsSorted(got) {
		t.Errorf("%v: filters %q are not sorted", all, got)
	}
	for i, a := range got {
		for _, b := range got[i+1:] {
			if overlap(strings.Split(a, "."), strings.Split(b, ".")) {
				t.Errorf("%v: filters %s and %s overlap", all, a, b)
			}
		}
	}
}

func TestFiltersProperty(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		texts := make([]string, 1+r.IntN(5))
		for i := range texts {
			texts[i] = randomText(r, []string{"a", "b", "c", "*"})
		}
		all := patterns(t, texts...)
		for range 5 {
			checkFilters(t, all, randomText(r, []string{"a", "b", "c"}))
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("User.*", "*.created", "User.created")
	f.Add("User.>", "$.>", "a.b.c.d.e.f")
	f.Add("a.*.c", "a.b.>", "a.b.c")
	f.Fuzz(func(t *testing.T, one, two, event string) {
		var all []Pattern
		for _, text := range []string{one, two} {
			p, err := ParsePattern(text)
			if err != nil {
				if rpc.CodeOf(err) != rpc.InvalidArgument {
					t.Errorf("%q: %v", text, err)
				}
				continue
			}
			if again, err := ParsePattern(p.String()); err != nil || again != p {
				t.Errorf("%q: read again it is %v, %v", text, again, err)
			}
			all = append(all, p)
		}
		if rpc.ValidateEvent(event) == nil {
			checkFilters(t, all, event)
		}
	})
}

// A type that can be sent is a pattern that matches it.
func FuzzEventIsPattern(f *testing.F) {
	f.Add("User.registered")
	f.Add("a.b.c.d.e.f.g")
	f.Add("_a.b")
	f.Fuzz(func(t *testing.T, name string) {
		p, err := ParsePattern(name)
		switch {
		case rpc.ValidateEvent(name) == nil && (err != nil || !p.Match(name)):
			t.Errorf("%q is the name of an event, as a pattern: %v", name, err)
		case rpc.ValidateEvent(name) != nil && err == nil && !strings.ContainsAny(name, "*>$"):
			t.Errorf("%q is a pattern without wildcards, and no name of an event", name)
		}
	})
}

// The server takes the filters, and counts right what they take in. It would not
// if one covered another, or two overlapped in part.
func TestServerTakesFilters(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bustest.InProcess())
	events, err := b.EnsureEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	create := func(filters ...string) (jetstream.Consumer, error) {
		return events.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{
			Durable: "handler", AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: filters,
		})
	}
	if _, err := create("$.a.*", "$.a.b"); err == nil {
		t.Error("the server takes a filter that another covers: there is no need to widen them")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		texts := make([]string, 1+r.IntN(8))
		for i := range texts {
			texts[i] = randomText(r, []string{"a", "b", "c", "d", "*"})
		}
		if got := filters(patterns(t, texts...)); !taken(create(got...)) {
			t.Errorf("%q: the server does not take %q", texts, got)
		}
	}

	handler, err := create(filters(patterns(t, "a.*", "*.b"))...)
	if err != nil {
		t.Fatal(err)
	}
	const sent = 10
	for range sent {
		if _, err := b.JetStream().Publish(t.Context(), "$.a.b", nil); err != nil {
			t.Fatal(err)
		}
	}
	// It counts a moment after it has acknowledged.
	limit := time.After(20 * time.Second)
	for {
		info, err := handler.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.NumPending == sent {
			return
		}
		select {
		case <-limit:
			t.Fatalf("%d are pending of %d", info.NumPending, sent)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func taken(_ jetstream.Consumer, err error) bool { return err == nil }
