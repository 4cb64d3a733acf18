package durable

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/bus/bustest"
)

// step is a turn that finds in the storage what its state says, and moves both
// on by one: the count, and the last ten numbers.
func step(s *box, ctx Context) error {
	if err := inStep(*s, ctx.Storage()); err != nil {
		return err
	}
	s.N++
	if err := ctx.Storage().Put("count", s.N); err != nil {
		return err
	}
	if err := ctx.Storage().Delete(logKey(s.N - 10)); err != nil {
		return err
	}
	return ctx.Storage().Put(logKey(s.N), s.N)
}

func logKey(n int) string { return fmt.Sprintf("log/%02d", (n+100)%100) }

// inStep reports where state and storage are not of one commit.
func inStep(s box, storage ReadStorage) error {
	n, _, err := Get[int](storage, "count")
	if err != nil {
		return err
	}
	got, err := listed(storage, ListOptions{Prefix: "log/"})
	if err != nil {
		return err
	}
	want := []string{}
	for i := max(1, s.N-9); i <= s.N; i++ {
		want = append(want, fmt.Sprintf("%s=%d", logKey(i), i))
	}
	slices.Sort(want)
	if n != s.N || !slices.Equal(got, want) {
		return rpc.DataLoss.Errorf("the state has %d, the storage %d and %q", s.N, n, got)
	}
	return nil
}

// Turns read what others have written whose commit is under way, and views read
// state and storage of one commit.
func TestStorageUnderLoad(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	stepping := x.prepare(func(s *box, ctx Context) (any, error) { return s.N, step(s, ctx) })
	const writers, readers, each = 16, 3, 12
	var writing, reading sync.WaitGroup
	written := make(chan struct{})
	for range writers {
		writing.Go(func() {
			for range each {
				if _, err := prepared[int](x, "a", stepping); err != nil {
					t.Errorf("turn: %v", err)
					return
				}
			}
		})
	}
	views := make([]int, readers)
	for i := range readers {
		reading.Go(func() {
			for {
				_, err := look(x, "a", func(s box, ctx ReadContext) (bool, error) { return true, inStep(s, ctx.Storage()) })
				if err != nil {
					t.Errorf("view %d: %v", views[i], err)
					return
				}
				views[i]++
				select {
				case <-written:
					return
				default:
				}
			}
		})
	}
	writing.Wait()
	close(written)
	reading.Wait()
	t.Logf("views: %v", views)
	if n, err := look(x, "a", func(s box, _ ReadContext) (int, error) { return s.N, nil }); n != writers*each || err != nil {
		t.Errorf("%d turns were stored, %v, want %d", n, err, writers*each)
	}
}

// An entry is deleted, and that is forgotten, before a view comes to read it.
func TestViewAgainstForgottenDeletion(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	x.do("a", step)
	x.do("a", step)
	tries := 0
	_, err := look(x, "a", func(s box, ctx ReadContext) (bool, error) {
		if tries++; tries == 1 {
			x.do("a", func(s *box, ctx Context) error { return ctx.Storage().Delete(logKey(2)) })
			request := jetstream.WithPurgeSubject("$KV." + Bucket("box") + ".a." + bus.Escape(logKey(2)))
			if err := x.stream("KV_"+Bucket("box")).Purge(ctx, request); err != nil {
				return false, err
			}
			ctx.(*view).began = time.Now().Add(-entryTTL)
			if got, err := listed(ctx.Storage(), ListOptions{Prefix: "log/"}); err == nil {
				return false, fmt.Errorf("the first view lists %q", got)
			}
		}
		got, err := listed(ctx.Storage(), ListOptions{Prefix: "log/"})
		if tries == 2 && !slices.Equal(got, []string{logKey(1) + "=1"}) {
			return false, fmt.Errorf("the second view lists %q", got)
		}
		return true, err
	})
	if err != nil || tries != 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

// A view that takes longer than commits are apart comes to an end.
func TestSlowViewUnderLoad(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	stepping := x.prepare(func(s *box, ctx Context) (any, error) { return s.N, step(s, ctx) })
	read := make(chan struct{})
	var writing sync.WaitGroup
	for range 4 {
		writing.Go(func() {
			for {
				if _, err := prepared[int](x, "a", stepping); err != nil {
					t.Errorf("turn: %v", err)
					return
				}
				select {
				case <-read:
					return
				default:
				}
			}
		})
	}
	for range 5 {
		_, err := look(x, "a", func(s box, ctx ReadContext) (bool, error) {
			if err := inStep(s, ctx.Storage()); err != nil {
				return false, err
			}
			time.Sleep(20 * time.Millisecond) // it is slow
			return true, inStep(s, ctx.Storage())
		})
		if err != nil {
			t.Errorf("view: %v", err)
		}
	}
	close(read)
	writing.Wait()
}

// A view's snapshot can't be read from a storage that has moved on, but is when
// nothing of what it reads has changed.
func TestViewAgainstLaterCommits(t *testing.T) {
	t.Parallel()
	x := oneBox(t, Config{})
	x.do("a", step)
	tries := 0
	_, err := look(x, "a", func(s box, ctx ReadContext) (bool, error) {
		tries++
		if tries == 1 {
			for range 7 { // more than the bucket keeps of the record
				if err := x.try("a", func(s *box, ctx Context) error { s.Text += "x"; return nil }); err != nil {
					return false, err
				}
			}
		}
		return true, inStep(s, ctx.Storage())
	})
	if err != nil || tries != 1 {
		t.Errorf("after commits that left the storage alone: %d tries, %v", tries, err)
	}
	for name, change := range map[string]func(*box, Context) error{
		"step":    step,
		"delete":  func(s *box, ctx Context) error { return ctx.Storage().Delete("count") },
		"destroy": func(s *box, ctx Context) error { ctx.Destroy(); return nil },
	} {
		x.do(name, step)
		tries := 0
		_, err := look(x, name, func(s box, ctx ReadContext) (bool, error) {
			tries++
			if tries == 1 {
				if err := x.try(name, change); err != nil {
					return false, err
				}
			}
			n, _, err := Get[int](ctx.Storage(), "count")
			if tries > 1 && (name == "delete") == (n == s.N) {
				return false, fmt.Errorf("again: the state has %d, the storage %d", s.N, n)
			}
			return true, err
		})
		if err != nil || tries < 2 {
			t.Errorf("%s: %d tries, %v", name, tries, err)
		}
	}
}

var replicated = bustest.WithConfig(func(cfg *bus.Config) { cfg.Replicas = 3 })

// Commits on a cluster are read by whichever replica answers: what it says may
// be old, what the storage says is not.
func TestStorageOnACluster(t *testing.T) {
	t.Parallel()
	members := bustest.Cluster(t, 3)
	x := boxesOn(t, members[0], replicated)
	first, second := x.instanceOn(members[1], replicated), x.instanceOn(members[2], replicated)
	first.serve(Config{})
	for i := range 40 {
		id := fmt.Sprint("o", i%4)
		x.do(id, step)
		if _, err := look(x, id, func(s box, ctx ReadContext) (bool, error) { return true, inStep(s, ctx.Storage()) }); err != nil {
			t.Fatalf("view after turn %d: %v", i, err)
		}
	}
	second.serve(Config{}) // takes its share
	first.stop()           // and the rest
	for i := range 40 {
		x.do(fmt.Sprint("o", i%4), step)
	}
	for i := range 4 {
		if n, err := look(x, fmt.Sprint("o", i), func(s box, ctx ReadContext) (int, error) { return s.N, inStep(s, ctx.Storage()) }); err != nil || n != 20 {
			t.Errorf("%d, %v", n, err)
		}
	}
}
