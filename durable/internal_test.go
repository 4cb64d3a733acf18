package durable

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
	"rpc.do/durable/internal/lease"
	"rpc.do/server"
)

// AtEachStep is cfg with a function that is called at the steps of a turn.
func AtEachStep(cfg Config, fn func(point string)) Config {
	cfg.faults = fn
	return cfg
}

// The bounds are those that the documents tell.
func TestDefaults(t *testing.T) {
	t.Parallel()
	c := Config{}.withDefaults()
	for name, is := range map[string]bool{
		"idle":         c.Idle == time.Minute,
		"turn timeout": c.TurnTimeout == 30*time.Second,
		"mailbox":      c.Mailbox == 1000,
		"calls":        c.Calls == 65536,
		"history":      c.History == 5,
		"lease":        c.Lease == 5*time.Second && c.ClockMargin == 500*time.Millisecond,
		"alarms":       c.alarms.backoff == 2*time.Second && maxAlarmAttempts == 1+6,
		"known calls":  knownFor == 2*time.Minute && maxKnown == 16384 && maxResults == 1<<20,
		"fence":        !c.unfenced,
	} {
		if !is {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// What is known of calls is bounded in number, in bytes and in time, and says
// from when on it is complete.
func TestKnownCallsBounds(t *testing.T) {
	t.Parallel()
	now := lease.Now()
	for name, test := range map[string]struct {
		add, kept int
		result    int // bytes
		age       time.Duration
	}{
		"few":        {add: 100, kept: 100},
		"many":       {add: maxKnown + 100, kept: maxKnown},
		"large":      {add: 3000, kept: maxResults / 1000, result: 1000},
		"very large": {add: 3, kept: 1, result: 2 * maxResults},
		"old":        {add: 100, kept: 1, age: knownFor + time.Second},
	} {
		for _, indexed := range []bool{false, true} {
			k := knownCalls{since: now - lease.Instant(time.Hour)}
			if indexed {
				k.find("")
			}
			result := json.RawMessage(strings.Repeat("x", test.result))
			for i := range test.add {
				at := now + lease.Instant(i)
				if i < test.add-1 {
					at -= lease.Instant(test.age)
				}
				k.add(knownCall{id: fmt.Sprint(i), result: result, at: at})
			}
			if len(k.calls) != test.kept || k.bytes != test.kept*test.result {
				t.Errorf("%s: %d calls with %d bytes are kept, want %d with %d", name, len(k.calls), k.bytes, test.kept, test.kept*test.result)
			}
			first := test.add - test.kept
			if _, ok := k.find(fmt.Sprint(first)); !ok {
				t.Errorf("%s: the oldest call that is kept is not found", name)
			}
			if first == 0 {
				continue
			}
			if _, ok := k.find(fmt.Sprint(first - 1)); ok {
				t.Errorf("%s: a call that is not kept is found", name)
			}
			if want := now + lease.Instant(first) - lease.Instant(test.age); k.since != want {
				t.Errorf("%s: complete since %d, want %d", name, k.since-now, want-now)
			}
			if indexed && len(k.index) != test.kept {
				t.Errorf("%s: the index has %d entries", name, len(k.index))
			}
		}
	}
}

// The calls behave as a map that forgets the oldest.
func TestKnownCallsProperty(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		var k knownCalls
		model, order := map[string]int{}, []string{}
		for i := range 3000 {
			id := fmt.Sprint(i)
			size := rnd.IntN(4000)
			k.add(knownCall{id: id, result: make(json.RawMessage, size), at: lease.Now()})
			model[id], order = size, append(order, id)
			sum := 0
			for n := range maps.Values(model) {
				sum += n
			}
			for sum > maxResults {
				sum -= model[order[0]]
				delete(model, order[0])
				order = order[1:]
			}
			if rnd.IntN(100) > 0 {
				continue
			}
			ask := fmt.Sprint(rnd.IntN(i + 10))
			size, want := model[ask]
			if call, ok := k.find(ask); ok != want || ok && (len(call.result) != size || call.id != ask) {
				t.Fatalf("find %s: %v with %d bytes, want %v with %d", ask, ok, len(call.result), want, size)
			}
		}
	}
}

// Whatever the calls of a commit are, they fit into the room that a message has
// beside the state.
func TestCallsFitIntoTheHeader(t *testing.T) {
	t.Parallel()
	letters := []rune(`ab<>&"\` + "é€😀\u2027")
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		g := new(commit)
		for !g.full() {
			var id strings.Builder
			alphabet := letters[rnd.IntN(len(letters)):]
			for id.Len() < 250 {
				id.WriteRune(alphabet[rnd.IntN(len(alphabet))])
			}
			if err := bus.ValidateID(id.String()); err != nil {
				t.Fatal(err)
			}
			one, err := json.Marshal(callRecord{ID: id.String()})
			if err != nil || len(one) > encodedSize(id.String()) {
				t.Fatalf("%s: %d bytes, more than %d; %v", one, len(one), encodedSize(id.String()), err)
			}
			result, err := json.Marshal(strings.Repeat("<", rnd.IntN(200)))
			if err != nil {
				t.Fatal(err)
			}
			g.record(callRecord{ID: id.String(), Result: result})
			g.turns++
		}
		r := record{commit: (&object{}).commitID(1 << 60), epoch: 1 << 60, schema: 1 << 30, storage: true, calls: g.calls}
		size := len("NATS/1.0\r\n\r\n")
		for name, values := range r.header(1 << 60) {
			size += len(name) + len(": \r\n") + len(values[0])
		}
		if size > room {
			t.Fatalf("the headers have %d bytes, more than %d", size, room)
		}
	}
}

// A timer that went off just when its turn ended does not end the next one.
func TestOverrunOfAnEarlierTurn(t *testing.T) {
	t.Parallel()
	o := &object{class: &class{cfg: Config{TurnTimeout: time.Hour}}}
	o.startWatch(server.ObjectCall{})
	o.stopWatch()
	o.overrun() // nothing runs
	o.startWatch(server.ObjectCall{})
	o.overrun() // comes late
	if o.stuck.Load() || o.stopWatch() {
		t.Error("the next turn is over its time")
	}
}

func TestFlat(t *testing.T) {
	t.Parallel()
	type leaf struct {
		A int
		B [3]string
		C float64
	}
	for _, test := range []struct {
		flat bool
		got  bool
	}{
		{true, isFlat[int]()}, {true, isFlat[struct{}]()}, {true, isFlat[leaf]()}, {true, isFlat[struct{ L [2]leaf }]()},
		{false, isFlat[[]int]()}, {false, isFlat[map[string]int]()}, {false, isFlat[*int]()}, {false, isFlat[any]()},
		{false, isFlat[struct{ L []int }]()}, {false, isFlat[[1]struct{ P *int }]()}, {false, isFlat[func()]()}, {false, isFlat[chan int]()},
		{false, isFlat[time.Time]()}, {false, isFlat[struct{ a int }]()},
		{false, isFlat[struct {
			A int `json:"-"`
		}]()},
	} {
		if test.got != test.flat {
			t.Errorf("%+v", test)
		}
	}
}

func isFlat[T any]() bool { return flat(reflect.TypeFor[T]()) }

// What the stream has kept adds to what the object knows, and takes nothing
// away: a call that surely did not run is run.
func TestHistoryAddsToWhatIsKnown(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	c := client.New(b, client.Config{NoShortcut: true})
	t.Cleanup(c.Close)
	svc := server.New(b, "tallies", server.Config{})
	tallies := Serve[int](svc, "tally", Config{})
	add := rpc.NewObjectMethod[int, int]("tally.add")
	Handle(tallies, add, func(n *int, _ Context, by int) (int, error) { *n += by; return *n, nil })
	forget := rpc.NewObjectMethod[int, rpc.None]("tally.forget")
	Handle(tallies, forget, func(_ *int, ctx Context, n int) (rpc.None, error) { // the first n, as if there were too many
		k := &ctx.(*turn).object.known
		k.since, k.index = k.calls[n-1].at+1, nil
		k.calls = slices.Clone(k.calls[n:])
		return rpc.None{}, nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-svc.Ready()

	begun := time.Now()
	var middle time.Time
	const calls, forgotten = 10, 4 // the bucket keeps 5
	for i := range calls {
		if i == forgotten+1 {
			middle = time.Now()
		}
		if _, err := add.Call(t.Context(), c, "x", 1); err != nil {
			t.Fatal(err)
		}
		<-time.After(30 * time.Millisecond) // an age is in doubt by ten
	}
	if _, err := forget.Call(t.Context(), c, "x", forgotten); err != nil {
		t.Fatal(err)
	}
	retry := func(id string, first time.Time) (result int, err error) {
		call := &rpc.Call{Service: "tally", Method: "add", Object: "x", ID: id, Age: time.Since(first), Params: new(int), Result: &result}
		*call.Params.(*int) = 1
		return result, c.Call(t.Context(), call)
	}
	if _, err := retry("ancient", begun); rpc.CodeOf(err) != rpc.Aborted { // has the history read
		t.Fatalf("a call of before what is known: %v", err)
	}
	if _, err := retry("lost", middle); err != nil {
		t.Fatalf("a call that is not among those of its time: %v", err)
	}
	if n, err := add.Call(t.Context(), c, "x", 0); err != nil || n != calls+1 {
		t.Errorf("%d, %v", n, err)
	}
}
