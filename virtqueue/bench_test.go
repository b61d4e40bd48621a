package virtqueue_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// endless is a rig whose available ring always holds the same chain, so that only
// the device costs time: the driver does no more than move avail.idx.
func endless(tb testing.TB, add func(r *rig) (head uint16)) (r *rig, turn func(batch int)) {
	r = newRig(tb, virtqueuetest.Options{Size: 256, EventIdx: true, Indirect: true})
	r.q.Interrupt = func() {}
	head := add(r)
	for i := range uint16(256) {
		r.ring.SetAvailEntry(i, head)
	}
	avail := uint16(r.q.Base())
	return r, func(batch int) {
		avail += uint16(batch)
		r.ring.SetAvailIdx(avail)
		r.bufs.Reset()
		for c, ok := r.q.Pop(&r.bufs); ok; c, ok = r.q.Pop(&r.bufs) {
			r.q.Push(c.Head, 0)
		}
		r.q.NotifyIfNeeded()
		r.q.ArmKick()
	}
}

var shapes = []struct {
	name string
	add  func(r *rig) uint16
}{
	{"one", func(r *rig) uint16 { return r.ring.Add(r.mem.In(3776)) }},
	{"two", func(r *rig) uint16 { return r.ring.Add(r.mem.In(44), r.mem.In(4096)) }},
	{"indirect18", func(r *rig) uint16 {
		segs := []virtqueuetest.Segment{r.mem.In(44)}
		for range 17 {
			segs = append(segs, r.mem.In(4096))
		}
		return r.ring.AddIndirect(segs...)
	}},
}

func TestRingDoesNotAllocate(t *testing.T) {
	bad := func(r *rig) uint16 {
		return r.ring.Add(r.mem.In(44), virtqueuetest.Segment{Addr: 1, Len: 1, Write: true})
	}
	for _, c := range append(shapes, struct {
		name string
		add  func(r *rig) uint16
	}{"bad", bad}) {
		_, turn := endless(t, c.add)
		turn(16) // the list of ranges grows to what it needs
		if allocs := testing.AllocsPerRun(1000, func() { turn(16) }); allocs != 0 {
			t.Errorf("%s: %v allocations a turn", c.name, allocs)
		}
	}
}

// The driver double allocates nothing either: benchmarks of devices use it.
func TestDriverDoesNotAllocate(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{EventIdx: true, Indirect: true})
	head, room := r.mem.Out(pattern(44)), r.mem.In(64)
	turn := func() {
		r.ring.Add(head, room)
		r.ring.AddIndirect(head, room)
		r.ring.Kick()
		r.ring.ArmInterrupt()
		r.bufs.Reset()
		for range 2 {
			c, _ := r.q.Pop(&r.bufs)
			r.q.Push(c.Head, 0)
		}
		r.q.NotifyIfNeeded()
		r.ring.Used()
		r.ring.Used()
	}
	if allocs := testing.AllocsPerRun(2000, turn); allocs != 0 {
		t.Errorf("%v allocations a turn", allocs)
	}
}

// BenchmarkPopPush is a chain's way through the device's side of the ring.
func BenchmarkPopPush(b *testing.B) {
	for _, shape := range shapes {
		b.Run(shape.name, func(b *testing.B) {
			const batch = 64
			_, turn := endless(b, shape.add)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n++; n%batch == 0 {
					turn(batch)
				}
			}
		})
	}
}

// BenchmarkTurn is a chain alone: with publishing, the decision to interrupt,
// and asking for a kick.
func BenchmarkTurn(b *testing.B) {
	_, turn := endless(b, shapes[0].add)
	b.ReportAllocs()
	for b.Loop() {
		turn(1)
	}
}

// BenchmarkDriverAndDevice is what a benchmark of a device pays for the driver
// double too.
func BenchmarkDriverAndDevice(b *testing.B) {
	r := newRig(b, virtqueuetest.Options{EventIdx: true})
	seg := r.mem.In(3776)
	b.ReportAllocs()
	for b.Loop() {
		r.ring.Add(seg)
		r.ring.Publish()
		r.bufs.Reset()
		c, _ := r.q.Pop(&r.bufs)
		r.q.Push(c.Head, 0)
		r.q.Publish()
		r.ring.Used()
	}
}
