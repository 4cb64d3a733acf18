package client_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
	"rpc.do/client"
)

var (
	increment     = rpc.NewObjectMethod[int, int]("counter.increment")
	aliceSubject  = bus.ObjectSubject("counter", "alice", "increment")
	movingBody    = `{"code":"unavailable","message":"the object is changing hands","retryable":true}`
	unsureBody    = `{"code":"unavailable","message":"the commit got no answer","retryAfterMs":5}`
	refusedBody   = `{"code":"unavailable","message":"not now, nor later"}`
	abortedBody   = `{"code":"aborted","message":"it is not run again"}`
	exhaustedBody = `{"code":"resource_exhausted","message":"full","retryable":true,"retryAfterMs":5}`
)

// owner is a bus with somebody who answers for the object alice by hand, and a
// client on another.
func owner(t *testing.T, cfg client.Config) (*peer, *client.Client) {
	t.Helper()
	_, serving, calling := twoBuses(t)
	if cfg.Timeout == 0 {
		cfg.Timeout = patience
	}
	return listen(t, serving, aliceSubject), client.New(calling, cfg)
}

// readAttempt reads what a request says of its call.
func readAttempt(t *testing.T, m *nats.Msg) bus.Request {
	t.Helper()
	req, err := bus.ParseRequest(m, "counter", []string{"_INBOX"})
	if err != nil {
		t.Fatalf("%v: %+v", err, m)
	}
	return req
}

// The common call of an object has no headers, and goes to its owner.
func TestObjectCall(t *testing.T) {
	t.Parallel()
	p, c := owner(t, client.Config{})
	call := begin(func() (int, error) { return increment.Call(t.Context(), c, "alice", 5) })
	m := p.next()
	if len(m.Header) != 0 || string(m.Data) != "5" || m.Subject != "$RPC.object.counter.e7.alice.increment" {
		t.Errorf("sent %+v", m)
	}
	if req := readAttempt(t, m); !req.Once || req.ID == "" || req.Object != "alice" || req.Timeout > patience || time.Since(req.Sent) > patience {
		t.Errorf("it says %+v", req)
	}
	p.answer(m, "7")
	got := await(t, call, "the call")
	wantResult(t, got.result, got.err, 7)
}

// A call without an owner waits for one until its deadline, which costs neither
// attempts nor the budget.
func TestObjectWithoutOwner(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	c := client.New(calling, client.Config{Timeout: patience, MaxAttempts: 2, RetryBudget: 1})
	_, err := increment.Call(t.Context(), c, "alice", 5, rpc.WithTimeout(300*time.Millisecond))
	wantCode(t, err, rpc.Unavailable, "counter.increment", "nobody owns", `"alice"`, `"counter"`, "rpcdo services ls")

	before := calling.Conn().Stats().OutMsgs
	call := begin(func() (int, error) { return increment.Call(t.Context(), c, "alice", 5) })
	until(t, "it was sent more often than MaxAttempts says", func() bool { return calling.Conn().Stats().OutMsgs-before > 4 })
	p := listen(t, serving, aliceSubject)
	m := p.next()
	if req := readAttempt(t, m); req.Attempt != 1 || req.Age != 0 {
		t.Errorf("it says %+v", req)
	}
	p.answer(m, "7")
	got := await(t, call, "the call")
	wantResult(t, got.result, got.err, 7)
}

// Every attempt has the identity of the first. As none of those before has run,
// none says that it is a retry.
func TestObjectRetries(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]rpc.CallOption{"identity of the reply subject": nil, "identity of its own": {rpc.WithID("mine")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := owner(t, client.Config{MaxAttempts: 3, RetryBudget: 1, ResendAfter: -1})
			call := begin(func() (int, error) { return increment.Call(t.Context(), c, "alice", 5, opts...) })
			var first bus.Request
			const attempts = 8 // more than MaxAttempts, since the owner has not run it
			for n := 1; n <= attempts; n++ {
				m := p.next()
				req := readAttempt(t, m)
				switch {
				case n == 1:
					if first = req; req.Age != 0 || req.Attempt != 1 || opts != nil && req.ID != "mine" {
						t.Errorf("the first attempt says %+v", req)
					}
				case req.ID != first.ID || req.Attempt != 1 || req.Age != 0:
					t.Errorf("attempt %d says %+v, the first %+v", n, req, first)
				}
				if n < attempts {
					p.fail(m, "503", "unavailable", movingBody)
				} else {
					p.answer(m, "7")
				}
			}
			got := await(t, call, "the call")
			wantResult(t, got.result, got.err, 7)
		})
	}
}

// A call that is passed on says from the first attempt on how old it is.
func TestObjectCallThatIsPassedOn(t *testing.T) {
	t.Parallel()
	p, c := owner(t, client.Config{})
	params, result := 5, 0
	call := begin(func() (int, error) {
		return result, c.Call(t.Context(), &rpc.Call{
			Service: "counter", Method: "increment", Object: "alice", ID: "mine", Age: 1500 * time.Millisecond, Caller: "somebody", Params: &params, Result: &result,
		})
	})
	m := p.next()
	if req := readAttempt(t, m); req.ID != "mine" || req.Age != 1500*time.Millisecond || req.Caller != "somebody" || req.Once {
		t.Errorf("it says %+v", req)
	}
	p.fail(m, "503", "unavailable", movingBody)
	m = p.next()
	if req := readAttempt(t, m); req.ID != "mine" || req.Age <= 1500*time.Millisecond || req.Caller != "somebody" {
		t.Errorf("the retry says %+v", req)
	}
	p.answer(m, "7")
	await(t, call, "the call")
}

// An answer that does not come is asked for again: the object recognises the
// call. So is one that says that nobody knows.
func TestObjectAnswerThatIsLost(t *testing.T) {
	t.Parallel()
	p, c := owner(t, client.Config{ResendAfter: 20 * time.Millisecond, MaxAttempts: 100, RetryBudget: 100})
	call := begin(func() (int, error) { return increment.Call(t.Context(), c, "alice", 5) })
	first := p.next()
	var last *nats.Msg
	const attempts = 10 // more than are waited for at a time
	for n := 2; n <= attempts; n++ {
		last = p.next()
		if req := readAttempt(t, last); req.ID != readAttempt(t, first).ID || req.Attempt != n || req.Age < 20*time.Millisecond {
			t.Errorf("attempt %d says %+v", n, req)
		}
	}
	p.answer(first, "1") // which it has given up
	p.fail(last, "503", "unavailable", unsureBody)
	p.answer(p.next(), "7")
	got := await(t, call, "the call")
	wantResult(t, got.result, got.err, 7)
}

// A call of an object that gets no answer is sent again as long as it has time,
// after pauses that grow up to 2 seconds: neither MaxAttempts' default nor the
// budget ends that.
func TestObjectIsAskedUntilTheEnd(t *testing.T) {
	t.Parallel()
	p, c := owner(t, client.Config{RetryBudget: 1})
	begun := time.Now()
	var mu sync.Mutex
	var sent []time.Duration
	p.each(func(int, *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, time.Since(begun))
	})
	_, err := increment.Call(t.Context(), c, "alice", 5, rpc.WithTimeout(15*time.Second))
	wantCode(t, err, rpc.DeadlineExceeded, "may have run")
	mu.Lock()
	defer mu.Unlock()
	for i, want := range []float64{0, 1, 2.5, 4.5, 6.5, 8.5} {
		if i >= len(sent) || sent[i].Seconds() < want-0.01 || sent[i].Seconds() > want+0.4 {
			t.Fatalf("it was sent after %v, want %v s for the attempt %d", sent, want, i+1)
		}
	}
	if n := len(sent); n > 20 || sent[n-1] < 13*time.Second {
		t.Errorf("it was sent after %v", sent)
	}
}

// What the owner says is final unless it asks to come back.
func TestObjectVerdicts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answers   []string
		code      rpc.Code
		text      string
		retryable bool
	}{
		"refused":                  {[]string{refusedBody}, rpc.Unavailable, "nor later", false},
		"aborted":                  {[]string{abortedBody}, rpc.Aborted, "not run again", false},
		"moved, then aborted":      {[]string{movingBody, abortedBody}, rpc.Aborted, "not run again", false},
		"unsure, then aborted":     {[]string{unsureBody, abortedBody}, rpc.Aborted, "not run again", false},
		"full, then moved":         {[]string{exhaustedBody, movingBody, refusedBody}, rpc.Unavailable, "nor later", false},
		"unsure until the end":     {[]string{unsureBody}, rpc.Unavailable, "got no answer", false},
		"moved until the end":      {[]string{movingBody}, rpc.Unavailable, "changing hands", true},
		"unsure, then moved":       {[]string{unsureBody, movingBody}, rpc.Unavailable, "may have run", false},
		"moved, then nothing more": {[]string{movingBody, ""}, rpc.DeadlineExceeded, "may have run", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := owner(t, client.Config{ResendAfter: -1, MaxAttempts: 1000, RetryBudget: 1000})
			p.each(func(n int, m *nats.Msg) {
				body := test.answers[min(n, len(test.answers))-1] // the last one for ever
				_, rest, _ := strings.Cut(body, `"code":"`)
				code, _, _ := strings.Cut(rest, `"`)
				status := map[string]string{"unavailable": "503", "aborted": "409", "resource_exhausted": "429"}[code]
				if body != "" {
					p.fail(m, status, code, body)
				}
			})
			_, err := increment.Call(t.Context(), c, "alice", 5, rpc.WithTimeout(400*time.Millisecond))
			wantCode(t, err, test.code, test.text)
			if e := err.(*rpc.Error); e.Retryable != test.retryable {
				t.Errorf("retryable is %v: %v", e.Retryable, err)
			}
		})
	}
}

// A call made from a turn says so; one that nobody waits for does not.
func TestObjectChain(t *testing.T) {
	t.Parallel()
	p, c := owner(t, client.Config{})
	ctx := rpc.WithCallInfo(t.Context(), rpc.CallInfo{Chain: []string{bus.Link("cart", "a,b/c"), "page/x"}})
	call := begin(func() (int, error) { return increment.Call(ctx, c, "alice", 5) })
	m := p.next()
	if got := m.Header.Get("Rpc-Chain"); got != "cart/a=2Cb=2Fc,page/x" {
		t.Errorf("the chain is %q", got)
	}
	p.fail(m, "503", "unavailable", movingBody)
	m = p.next()
	if got := m.Header.Get("Rpc-Chain"); got != "cart/a=2Cb=2Fc,page/x" {
		t.Errorf("the retry's chain is %q", got)
	}
	p.answer(m, "7")
	await(t, call, "the call")

	params := 5
	if err := c.Call(ctx, &rpc.Call{Service: "counter", Method: "increment", Object: "alice", OneWay: true, Params: &params}); err != nil {
		t.Fatal(err)
	}
	if m := p.next(); m.Reply != "" || m.Header.Get("Rpc-Chain") != "" || m.Subject != aliceSubject {
		t.Errorf("the one-way call is %+v", m)
	}
}

// The call's end is told to whoever may still run an attempt.
func TestObjectCallIsCancelled(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p, cancels := listen(t, serving, aliceSubject), listen(t, serving, bus.CancelSubject("counter"))
	c := client.New(calling, client.Config{ResendAfter: 10 * time.Millisecond, Timeout: patience})
	ctx, cancel := context.WithCancel(t.Context())
	call := begin(func() (int, error) { return increment.Call(ctx, c, "alice", 5) })
	replies := map[string]bool{}
	for range 2 {
		replies[p.next().Reply] = true
	}
	cancel()
	wantCode(t, await(t, call, "the call").err, rpc.Canceled)
	for range 2 {
		reply := string(cancels.next().Data)
		if !replies[reply] {
			continue // of an attempt that was made meanwhile
		}
		delete(replies, reply)
	}
	if len(replies) > 0 && cancels.arrived(calling) == 0 {
		t.Errorf("not cancelled: %v", replies)
	}
}

// What is no object is refused before anything is sent.
func TestObjectCallThatIsNone(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	c := client.New(b, client.Config{})
	before := b.Conn().Stats().OutMsgs
	for _, id := range []string{"", strings.Repeat("x", 257), "\xff"} {
		_, err := increment.Call(t.Context(), c, id, 5)
		wantCode(t, err, rpc.InvalidArgument, "id")
	}
	for i, call := range []rpc.Call{
		{Service: "counter", Method: "$nothing", Object: "alice"},
		{Service: "counter", Method: "$destroy"}, // of no object
		{Service: "counter", Method: "a b", Object: "alice"},
		{Service: "cou.nter", Method: "increment", Object: "alice"},
		{Service: "counter", Method: "increment", Object: "\xff"},
		{Service: "counter", Method: "increment", Object: "alice", ID: "a;b"},
	} {
		params, result := 5, 0
		call.Params, call.Result = &params, &result
		if err := c.Call(t.Context(), &call); rpc.CodeOf(err) != rpc.InvalidArgument {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if n := b.Conn().Stats().OutMsgs - before; n != 0 {
		t.Errorf("%d messages were sent", n)
	}
}

// Ids of every kind arrive as what they are.
func TestObjectIDsArrive(t *testing.T) {
	t.Parallel()
	_, serving, calling := twoBuses(t)
	p := listen(t, serving, "$RPC.object.counter.>")
	c := client.New(calling, client.Config{Timeout: patience})
	p.each(func(_ int, m *nats.Msg) {
		req, err := bus.ParseRequest(m, "counter", []string{"_INBOX"})
		if err != nil {
			t.Error(err)
		}
		p.answer(m, strconv.Itoa(len(req.Object)))
	})
	for _, id := range []string{"a", "a.b", "a b", "*", ">", "_out", "ü", "\x00", "\n", strings.Repeat("€", 85)} {
		got, err := increment.Call(t.Context(), c, id, 1)
		if err != nil || got != len(id) {
			t.Errorf("%q: %v, %v", id, got, err)
		}
	}
}
