package virtqueue_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// endless is a rig whose ring always holds the same chain, so that only the device
// costs time: the driver does no more than make it available.
func endless(tb testing.TB, packed bool, add func(r *rig) (head uint16)) (r *rig, turn func(batch int)) {
	r = newRig(tb, virtqueuetest.Options{Size: 256, Packed: packed, EventIdx: true, Indirect: true})
	r.q.Interrupt = func() {}
	supply := supplySplit
	if packed {
		supply = supplyPacked
	}
	more := supply(r, add(r))
	return r, func(batch int) {
		more(batch)
		r.bufs.Reset()
		for c, ok := r.q.Pop(&r.bufs); ok; c, ok = r.q.Pop(&r.bufs) {
			r.q.Push(c.Head, 0)
		}
		r.q.NotifyIfNeeded()
		r.q.ArmKick()
	}
}

func supplySplit(r *rig, head uint16) (more func(batch int)) {
	for i := range uint16(256) {
		r.ring.SetAvailEntry(i, head)
	}
	avail := uint16(r.q.Base())
	return func(batch int) {
		avail += uint16(batch)
		r.ring.SetAvailIdx(avail)
	}
}

func supplyPacked(r *rig, _ uint16) (more func(batch int)) {
	r.ring.Publish()
	var chain []virtqueuetest.PackedDesc
	for i := range r.ring.NextSlot() {
		d := r.ring.Slot(i)
		d.Flags &^= virtqueuetest.Avail | virtqueuetest.Used
		chain = append(chain, d)
		r.ring.SetSlot(i, virtqueuetest.PackedDesc{})
	}
	slot, mark := 0, uint16(virtqueuetest.Avail)
	return func(batch int) {
		for range batch {
			for _, d := range chain {
				d.Flags |= mark
				r.ring.SetSlot(slot, d)
				if slot++; slot == 256 {
					slot, mark = 0, mark^(virtqueuetest.Avail|virtqueuetest.Used)
				}
			}
		}
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
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, c := range append(shapes, struct {
			name string
			add  func(r *rig) uint16
		}{"bad", bad}) {
			for _, logged := range []bool{false, true} {
				r, turn := endless(t, packed, c.add)
				if logged {
					r.q.SetLog(virtqueue.Log{Dirty: newPageLog(t, 8<<10).DirtyLog, Buffers: true, Used: true, UsedAddr: r.ring.Config().Used})
				}
				turn(16) // the list of ranges grows to what it needs
				if allocs := testing.AllocsPerRun(1000, func() { turn(16) }); allocs != 0 {
					t.Errorf("%s, logged %v: %v allocations a turn", c.name, logged, allocs)
				}
			}
		}
	})
}

// The driver double allocates nothing either: benchmarks of devices use it.
func TestDriverDoesNotAllocate(t *testing.T) {
	bothLayouts(t, testDriverDoesNotAllocate)
}

func testDriverDoesNotAllocate(t *testing.T, packed bool) {
	r := newRig(t, virtqueuetest.Options{Packed: packed, EventIdx: true, Indirect: true})
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

// eachLayout runs a benchmark with split and with packed rings.
func eachLayout(b *testing.B, f func(b *testing.B, packed bool)) {
	b.Run("split", func(b *testing.B) { f(b, false) })
	b.Run("packed", func(b *testing.B) { f(b, true) })
}

// BenchmarkPopPush is a chain's way through the device's side of the ring.
func BenchmarkPopPush(b *testing.B) {
	eachLayout(b, func(b *testing.B, packed bool) {
		for _, shape := range shapes {
			b.Run(shape.name, func(b *testing.B) {
				const batch = 64
				_, turn := endless(b, packed, shape.add)
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					if n++; n%batch == 0 {
						turn(batch)
					}
				}
			})
		}
	})
}

// BenchmarkLoggedPopPush is the same while the guest migrates.
func BenchmarkLoggedPopPush(b *testing.B) {
	eachLayout(b, func(b *testing.B, packed bool) {
		const batch = 64
		r, turn := endless(b, packed, shapes[0].add)
		r.q.SetLog(virtqueue.Log{Dirty: newPageLog(b, 8<<10).DirtyLog, Buffers: true, Used: true, UsedAddr: r.ring.Config().Used})
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			if n++; n%batch == 0 {
				turn(batch)
			}
		}
	})
}

// BenchmarkTurn is a chain alone: with publishing, the decision to interrupt,
// and asking for a kick.
func BenchmarkTurn(b *testing.B) {
	eachLayout(b, func(b *testing.B, packed bool) {
		_, turn := endless(b, packed, shapes[0].add)
		b.ReportAllocs()
		for b.Loop() {
			turn(1)
		}
	})
}

// BenchmarkDriverAndDevice is what a benchmark of a device pays for the driver
// double too.
func BenchmarkDriverAndDevice(b *testing.B) {
	eachLayout(b, func(b *testing.B, packed bool) {
		r := newRig(b, virtqueuetest.Options{Packed: packed, EventIdx: true})
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
	})
}
