package killq_test

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	"github.com/vhost-user-vsock/vhost-user-vsock/killq"
)

// table is an owner: the live deadline of each key.
type table map[int]time.Duration

func (o table) live() iter.Seq2[int, time.Duration] { return maps.All(o) }

// expire runs the owner's routine and returns the keys it killed, in order.
func (o table) expire(q *killq.Queue[int], now time.Duration) (killed []int) {
	for range 10000 {
		k, at, ok := q.PopExpired(now)
		switch {
		case ok:
			if o[k] == at {
				delete(o, k)
				killed = append(killed, k)
			}
		case q.NeedsRebuild(now):
			q.Rebuild(o.live())
		default:
			return killed
		}
	}
	panic("the queue yields neither a deadline nor an end")
}

func TestExpiresInOrderOfDeadline(t *testing.T) {
	q := killq.New[string](8)
	q.Push("shutdown", 8*time.Second)
	q.Push("line", 2*time.Second)
	q.Push("request", 3*time.Second)

	if at, ok := q.NextDeadline(); !ok || at != 2*time.Second {
		t.Fatalf("next deadline %v %v, want 2s", at, ok)
	}
	if k, _, ok := q.PopExpired(2*time.Second - 1); ok {
		t.Fatalf("%q expired early", k)
	}
	if k, at, ok := q.PopExpired(2 * time.Second); !ok || k != "line" || at != 2*time.Second {
		t.Fatalf("at 2s: %q %v %v, want line", k, at, ok)
	}
	if k, _, ok := q.PopExpired(2 * time.Second); ok {
		t.Fatalf("%q expired early", k)
	}
	if k, _, _ := q.PopExpired(time.Minute); k != "request" {
		t.Fatalf("popped %q, want request", k)
	}
	if k, _, _ := q.PopExpired(time.Minute); k != "shutdown" {
		t.Fatalf("popped %q, want shutdown", k)
	}
	if _, _, ok := q.PopExpired(time.Minute); ok {
		t.Fatal("an empty queue yields a deadline")
	}
	if at, ok := q.NextDeadline(); ok {
		t.Fatalf("an empty queue has a next deadline, %v", at)
	}
}

func TestFullQueueGivesUpTheLatest(t *testing.T) {
	q := killq.New[string](2)
	q.Push("b", 20)
	q.Push("d", 40)
	if !q.Synced() {
		t.Fatal("unsynced although nothing was given up")
	}
	q.Push("c", 30) // d goes
	if at, _ := q.NextDeadline(); q.Synced() || at != 20 {
		t.Fatalf("synced %v, next deadline %v, want false, 20", q.Synced(), at)
	}
	q.Push("e", 50) // e itself goes
	q.Push("a", 10) // c goes
	for _, want := range []string{"a", "b"} {
		if k, _, _ := q.PopExpired(25); k != want {
			t.Fatalf("popped %q, want %q", k, want)
		}
	}
	if at, ok := q.NextDeadline(); !ok || at != 30 {
		t.Fatalf("next deadline %v %v, want that of c, which was given up", at, ok)
	}
	if q.NeedsRebuild(29) || !q.NeedsRebuild(30) {
		t.Fatal("the rebuild is due exactly when the first deadline given up has come")
	}
}

func TestRebuildKeepsTheEarliest(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		q := killq.New[int](100)
		q.Push(-1, 1) // forgotten: no longer live
		order := rnd.Perm(150)
		q.Rebuild(func(yield func(int, time.Duration) bool) {
			for _, k := range order {
				if !yield(k, time.Duration(k)) {
					return
				}
			}
		})
		if q.Len() != 100 || q.Synced() {
			t.Fatalf("seed %d: Len %d, Synced %v, want 100, false", seed, q.Len(), q.Synced())
		}
		for want := range 100 {
			if k, _, ok := q.PopExpired(1000); !ok || k != want {
				t.Fatalf("seed %d: popped %d %v, want %d", seed, k, ok, want)
			}
		}
		if at, _ := q.NextDeadline(); at != 100 || !q.NeedsRebuild(100) {
			t.Fatalf("seed %d: next deadline %v, want 100, the first that found no room", seed, at)
		}
		q.Rebuild(maps.All(table{7: 7}))
		if k, _, _ := q.PopExpired(7); k != 7 || !q.Synced() {
			t.Fatalf("seed %d: popped %d, Synced %v after the second rebuild", seed, k, q.Synced())
		}
	}
}

// The numbers of the queue's ancestors: 128 deadlines fit, the 129th connection
// dies on time as well, with no other traffic.
func TestBeyondTheCapacityNothingIsMissed(t *testing.T) {
	q := killq.New[int](128)
	owner := table{}
	for k := range 129 {
		owner[k] = 2 * time.Second
		q.Push(k, owner[k])
		if q.Synced() != (k < 128) {
			t.Fatalf("synced %v at deadline %d", q.Synced(), k+1)
		}
	}
	if killed := owner.expire(q, 2*time.Second-1); len(killed) != 0 {
		t.Fatalf("%d killed early", len(killed))
	}
	if killed := owner.expire(q, 2*time.Second); len(killed) != 129 || len(owner) != 0 {
		t.Fatalf("%d killed, want 129", len(killed))
	}
	if at, ok := q.NextDeadline(); ok {
		t.Fatalf("next deadline %v with nothing alive", at)
	}
}

// Keys are armed, re-armed and disarmed at random while the clock moves from
// one next deadline to another: each live deadline must be met at its instant,
// in order, and no other.
func TestAgainstSortedList(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		capacity := 1 + rnd.IntN(12)
		q := killq.New[int](capacity)
		owner, naive := table{}, table{}
		now := time.Duration(0)
		for step := range 500 {
			switch op := rnd.IntN(10); {
			case op < 6:
				k, at := rnd.IntN(20), now+time.Duration(rnd.IntN(40))
				owner[k], naive[k] = at, at
				q.Push(k, at)
			case op < 8:
				k := rnd.IntN(20)
				delete(owner, k)
				delete(naive, k)
			default:
				// The clock may pass several deadlines, or none.
				now += time.Duration(rnd.IntN(10))
			}
			if q.Len() > capacity {
				t.Fatalf("seed %d step %d: %d held, capacity %d", seed, step, q.Len(), capacity)
			}

			at, ok := q.NextDeadline()
			if min, any := earliest(naive); any && (!ok || at > min) {
				t.Fatalf("seed %d step %d: next deadline %v %v, but one is due at %v", seed, step, at, ok, min)
			}
			if !ok || at > now {
				continue // a loop would sleep
			}
			want := due(naive, now)
			killed := owner.expire(q, now)
			slices.Sort(killed)
			if !slices.Equal(killed, want) {
				t.Fatalf("seed %d step %d: killed %v, want %v", seed, step, killed, want)
			}
			if at, ok := q.NextDeadline(); ok && at <= now {
				t.Fatalf("seed %d step %d: next deadline %v after expiry at %v: the loop would spin", seed, step, at, now)
			}
		}
	}
}

// A queue of distinct deadlines pops them sorted, whatever went in and out.
func TestPopsSorted(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		q := killq.New[int](64)
		var naive []int
		for range 1000 {
			if rnd.IntN(3) > 0 {
				k := rnd.IntN(1000)
				q.Push(k, time.Duration(k))
				naive = append(naive, k)
				slices.Sort(naive)
				naive = naive[:min(len(naive), 64)]
				continue
			}
			k, at, ok := q.PopExpired(1000)
			if ok != (len(naive) > 0) {
				t.Fatalf("seed %d: popped %v, naive holds %d", seed, ok, len(naive))
			}
			if ok {
				if k != naive[0] || at != time.Duration(k) {
					t.Fatalf("seed %d: popped %d at %d, want %d", seed, k, at, naive[0])
				}
				naive = naive[1:]
			}
		}
	}
}

func earliest(o table) (at time.Duration, ok bool) {
	for _, d := range o {
		if !ok || d < at {
			at, ok = d, true
		}
	}
	return at, ok
}

// due removes and returns, sorted, the keys whose deadline has come.
func due(o table, now time.Duration) (keys []int) {
	for k, at := range o {
		if at <= now {
			keys = append(keys, k)
			delete(o, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func TestClear(t *testing.T) {
	q := killq.New[int](1)
	q.Push(1, 10)
	q.Push(2, 20)
	q.Clear()
	if at, ok := q.NextDeadline(); ok || q.Len() != 0 || !q.Synced() || q.NeedsRebuild(time.Hour) {
		t.Fatalf("after Clear: next %v %v, Len %d, Synced %v", at, ok, q.Len(), q.Synced())
	}
	q.Push(3, 30)
	if k, _, _ := q.PopExpired(30); k != 3 {
		t.Fatalf("popped %d, want 3", k)
	}
}

func TestPoppedKeysAreNotKeptAlive(t *testing.T) {
	type conn struct{ _ [64]byte }
	q := killq.New[*conn](4)
	var gone []weak.Pointer[conn]
	push := func(at time.Duration) {
		k := new(conn)
		gone = append(gone, weak.Make(k))
		q.Push(k, at)
	}
	for at := range time.Duration(6) { // the last two are given up
		push(at)
	}
	for range 2 {
		q.PopExpired(10)
	}
	q.Clear()
	runtime.GC()
	for i, p := range gone {
		if p.Value() != nil {
			t.Errorf("key %d is still referenced", i)
		}
	}
	runtime.KeepAlive(q)
}

func TestAllocs(t *testing.T) {
	q := killq.New[[2]uint64](16)
	if n := testing.AllocsPerRun(1000, func() {
		for i := range 20 { // more than fit
			q.Push([2]uint64{uint64(i)}, time.Duration(i*7%20))
		}
		for _, _, ok := q.PopExpired(10); ok; _, _, ok = q.PopExpired(10) {
		}
		q.NextDeadline()
		q.Clear()
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkPushPop(b *testing.B) {
	for _, n := range []int{16, 256, 4096} {
		b.Run(fmt.Sprintf("held=%d", n), func(b *testing.B) {
			q := killq.New[*int](n + 1)
			now := time.Duration(0)
			for ; q.Len() < n; now++ {
				q.Push(nil, now)
			}
			b.ReportAllocs()
			for b.Loop() {
				q.Push(nil, now)
				q.PopExpired(now)
				now++
			}
		})
	}
}

// A full queue under connections that come faster than their deadlines.
func BenchmarkPushFull(b *testing.B) {
	q := killq.New[*int](4096)
	at := time.Duration(1 << 62)
	b.ReportAllocs()
	for b.Loop() {
		at-- // each is the earliest, so the latest has to go
		q.Push(nil, at)
	}
}
