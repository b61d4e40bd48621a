package rxq_test

import (
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"weak"

	"github.com/vhost-user-vsock/vhost-user-vsock/rxq"
)

func drain[T any](q *rxq.Queue[T]) (all []T) {
	for v, ok := q.Pop(); ok; v, ok = q.Pop() {
		all = append(all, v)
	}
	return all
}

func TestResetsLeaveFirst(t *testing.T) {
	q := rxq.New[int](4, 4)
	q.PushReady(1)
	q.PushReset(100)
	q.PushReady(2)
	q.PushReset(101)
	if q.Len() != 4 || q.Resets() != 2 {
		t.Fatalf("Len %d, Resets %d, want 4, 2", q.Len(), q.Resets())
	}
	if got, want := drain(q), []int{100, 101, 1, 2}; !slices.Equal(got, want) {
		t.Fatalf("popped %v, want %v", got, want)
	}
	if _, ok := q.Pop(); ok || q.Len() != 0 {
		t.Fatal("an empty queue yields an item")
	}
}

func TestReadyItemsTakeTurns(t *testing.T) {
	q := rxq.New[int](3, 3)
	for _, v := range []int{1, 2, 3} {
		q.PushReady(v)
	}
	var got []int
	for range 7 {
		v, _ := q.Pop()
		got = append(got, v)
		if !q.PushReady(v) { // each has more to say
			t.Fatalf("%d found no room at its own place", v)
		}
	}
	if want := []int{1, 2, 3, 1, 2, 3, 1}; !slices.Equal(got, want) {
		t.Fatalf("turns %v, want %v", got, want)
	}
}

func TestFullResetLaneRefusesAndStaysSynced(t *testing.T) {
	q := rxq.New[int](2, 2)
	if !q.PushReset(1) || q.ResetsFull() || !q.PushReset(2) || !q.ResetsFull() {
		t.Fatal("the lane must be full at its second reset")
	}
	if q.PushReset(3) {
		t.Fatal("a full lane took a reset")
	}
	if !q.Synced() {
		t.Fatal("a refused reset is the owner's, the queue lost nothing")
	}
	if !q.PushReady(10) {
		t.Fatal("resets took the room of the ready lane")
	}
	if got, want := drain(q), []int{1, 2, 10}; !slices.Equal(got, want) {
		t.Fatalf("popped %v, want %v", got, want)
	}
}

// The numbers of the queue's ancestors: 256 items, the 257th is lost.
func TestOverflowUnsyncsUntilRebuild(t *testing.T) {
	const capacity = 256
	q := rxq.New[int](capacity, capacity)
	for v := range capacity {
		if !q.PushReady(v) || !q.Synced() {
			t.Fatalf("item %d did not fit", v)
		}
	}
	if q.PushReady(capacity) || q.Synced() {
		t.Fatal("the item beyond the capacity must be refused and unsync the queue")
	}
	if !q.PushReset(1000) {
		t.Fatal("ready items took the room of the reset lane")
	}

	if v, _ := q.Pop(); v != 1000 {
		t.Fatalf("popped %d before the reset", v)
	}
	q.Pop()
	if q.PushReady(0) {
		t.Fatal("an item overtook one that had been refused")
	}
	if got := drain(q); len(got) != capacity-1 || !slices.IsSorted(got) {
		t.Fatalf("an unsynced queue drained %v", got)
	}
	if q.Synced() {
		t.Fatal("drained is not synced: the refused items are still unknown")
	}

	q.Rebuild(slices.Values([]int{capacity, 0}))
	if !q.Synced() || !q.PushReady(7) {
		t.Fatal("a rebuilt queue must be synced and take items")
	}
	if got, want := drain(q), []int{capacity, 0, 7}; !slices.Equal(got, want) {
		t.Fatalf("popped %v, want %v", got, want)
	}
}

func TestRebuildReplacesTheReadyLaneOnly(t *testing.T) {
	q := rxq.New[int](4, 4)
	q.PushReset(100)
	q.PushReady(1)
	q.Rebuild(slices.Values([]int{1, 2})) // 1 must not be there twice
	if got, want := drain(q), []int{100, 1, 2}; !slices.Equal(got, want) {
		t.Fatalf("popped %v, want %v", got, want)
	}
}

func TestRebuildAsksNoFurtherThanItRefuses(t *testing.T) {
	q := rxq.New[int](3, 3)
	var asked []int
	q.Rebuild(func(yield func(int) bool) {
		for v := range 100 {
			asked = append(asked, v)
			if !yield(v) {
				return
			}
		}
	})
	if q.Synced() {
		t.Fatal("the table did not fit, yet the queue is synced")
	}
	if want := []int{0, 1, 2, 3}; !slices.Equal(asked, want) {
		t.Fatalf("asked for %v, want %v", asked, want)
	}
	if got, want := drain(q), []int{0, 1, 2}; !slices.Equal(got, want) {
		t.Fatalf("popped %v, want %v", got, want)
	}
}

func TestClear(t *testing.T) {
	q := rxq.New[int](1, 1)
	q.PushReset(1)
	q.PushReady(2)
	q.PushReady(3)
	q.Clear()
	if q.Len() != 0 || q.Resets() != 0 || !q.Synced() {
		t.Fatalf("after Clear: Len %d, Resets %d, Synced %v", q.Len(), q.Resets(), q.Synced())
	}
	if !q.PushReset(4) || !q.PushReady(5) {
		t.Fatal("a cleared queue takes nothing")
	}
	if got, want := drain(q), []int{4, 5}; !slices.Equal(got, want) {
		t.Fatalf("popped %v, want %v", got, want)
	}
}

// talkers is an owner whose connections always have more to say.
type talkers struct {
	queue *rxq.Queue[int]
	n     int
	next  int // where the next rebuild begins
}

func (o *talkers) ready() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range o.n {
			if c := (o.next + i) % o.n; !yield(c) {
				o.next = c
				return
			}
		}
	}
}

func (o *talkers) packet() int {
	if o.queue.Len() == 0 {
		o.queue.Rebuild(o.ready())
	}
	c, _ := o.queue.Pop()
	o.queue.PushReady(c)
	return c
}

func TestNoConnectionStarvesBesideMoreThanFit(t *testing.T) {
	const connections = 300
	o := &talkers{queue: rxq.New[int](256, 256), n: connections}
	lastTurn := make([]int, connections)
	for turn := 1; turn <= 20*connections; turn++ {
		lastTurn[o.packet()] = turn
		for c, last := range lastTurn {
			if turn-last >= 2*connections {
				t.Fatalf("connection %d had no turn among packets %d to %d", c, last+1, turn)
			}
		}
	}
}

// model does the same with slices that know no bound but the number.
type model struct {
	capacity      int
	resets, ready []int
	lost          bool
}

func (m *model) pushReset(v int) bool {
	if len(m.resets) == m.capacity {
		return false
	}
	m.resets = append(m.resets, v)
	return true
}

func (m *model) pushReady(v int) bool {
	if m.lost || len(m.ready) == m.capacity {
		m.lost = true
		return false
	}
	m.ready = append(m.ready, v)
	return true
}

func (m *model) pop() (v int, ok bool) {
	lane := &m.resets
	if len(*lane) == 0 {
		lane = &m.ready
	}
	if len(*lane) == 0 {
		return 0, false
	}
	v = (*lane)[0]
	*lane = (*lane)[1:]
	return v, true
}

func TestAgainstModel(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		m := &model{capacity: rnd.IntN(9)}
		q := rxq.New[int](m.capacity, m.capacity)
		for step := range 2000 {
			v := 1 + step
			switch op := rnd.IntN(100); {
			case op < 25:
				if got, want := q.PushReset(v), m.pushReset(v); got != want {
					t.Fatalf("seed %d step %d: PushReset %v, want %v", seed, step, got, want)
				}
			case op < 55:
				if got, want := q.PushReady(v), m.pushReady(v); got != want {
					t.Fatalf("seed %d step %d: PushReady %v, want %v", seed, step, got, want)
				}
			case op < 97:
				got, gotOK := q.Pop()
				want, wantOK := m.pop()
				if got != want || gotOK != wantOK {
					t.Fatalf("seed %d step %d: Pop %d %v, want %d %v", seed, step, got, gotOK, want, wantOK)
				}
			case op < 99:
				table := make([]int, rnd.IntN(12))
				for i := range table {
					table[i] = v + i
				}
				q.Rebuild(slices.Values(table))
				m.ready, m.lost = nil, false
				for _, v := range table {
					m.pushReady(v)
				}
			default:
				q.Clear()
				*m = model{capacity: m.capacity}
			}
			if q.Len() != len(m.resets)+len(m.ready) || q.Resets() != len(m.resets) ||
				q.ResetsFull() != (len(m.resets) == m.capacity) || q.Synced() == m.lost {
				t.Fatalf("seed %d step %d: Len %d Resets %d ResetsFull %v Synced %v, model %+v",
					seed, step, q.Len(), q.Resets(), q.ResetsFull(), q.Synced(), m)
			}
		}
	}
}

func TestItemsThatLeftAreNotKeptAlive(t *testing.T) {
	type item struct{ _ [64]byte }
	for _, test := range []struct {
		name  string
		leave func(*rxq.Queue[*item])
	}{
		{"popped", func(q *rxq.Queue[*item]) { q.Pop(); q.Pop() }},
		{"cleared", func(q *rxq.Queue[*item]) { q.Clear() }},
		{"rebuilt", func(q *rxq.Queue[*item]) { q.Pop(); q.Rebuild(slices.Values([]*item(nil))) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := rxq.New[*item](8, 8)
			reset, ready := new(item), new(item)
			gone := []weak.Pointer[item]{weak.Make(reset), weak.Make(ready)}
			q.PushReset(reset)
			q.PushReady(ready)
			test.leave(q)
			runtime.GC()
			for i, p := range gone {
				if p.Value() != nil {
					t.Errorf("item %d is still referenced", i)
				}
			}
			runtime.KeepAlive(q)
		})
	}
}

func TestAllocs(t *testing.T) {
	q := rxq.New[[2]uint64](16, 16)
	if n := testing.AllocsPerRun(1000, func() {
		for i := range uint64(17) { // one more than fits
			q.PushReset([2]uint64{i})
			q.PushReady([2]uint64{i})
		}
		for _, ok := q.Pop(); ok; _, ok = q.Pop() {
		}
		q.Clear()
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkTurn(b *testing.B) {
	q := rxq.New[*int](4096, 4096)
	v := new(int)
	for range 1000 {
		q.PushReady(v)
	}
	b.ReportAllocs()
	for b.Loop() {
		v, _ := q.Pop()
		q.PushReady(v)
	}
}
