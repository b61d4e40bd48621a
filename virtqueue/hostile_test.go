package virtqueue_test

import (
	"errors"
	"math"
	"runtime/debug"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

type desc = virtqueuetest.Desc

func d(addr uint64, len uint32, flags, next uint16) desc {
	return desc{Addr: addr, Len: len, Flags: flags, Next: next}
}

const (
	next     = virtqueuetest.Next
	write    = virtqueuetest.Write
	indirect = virtqueuetest.Indirect
)

// hostile memory: two adjacent regions, a hole, and one more.
var hostileExtents = []virtqueuetest.Extent{
	{GuestAddr: 0x100000, Size: 0x100000},
	{GuestAddr: 0x200000, Size: 0x100000},
	{GuestAddr: 0x400000, Size: 0x100000},
}

const (
	ram      = 0x180000 // somewhere in the first region
	boundary = 0x200000
	hole     = 0x300000
)

// What a driver can do to the structure of a ring ends that ring, and nothing
// else: chains before it come back.
func TestStructureBreaksTheRing(t *testing.T) {
	const size = 8
	for _, c := range []struct {
		name string
		do   func(r *rig)
		want error
	}{
		{"avail.idx jumps", func(r *rig) { r.ring.SetAvailIdx(r.ring.AvailIdx() + size + 1) }, virtqueue.ErrAvailIdx},
		{"avail.idx moves back", func(r *rig) { r.ring.SetAvailIdx(r.ring.AvailIdx() - 1) }, virtqueue.ErrAvailIdx},
		{"avail.idx half way around", func(r *rig) { r.ring.SetAvailIdx(r.ring.AvailIdx() + 1<<15) }, virtqueue.ErrAvailIdx},
		{"head is the size", func(r *rig) { r.ring.Post(size) }, virtqueue.ErrIndex},
		{"head is 65535", func(r *rig) { r.ring.Post(65535) }, virtqueue.ErrIndex},
		{"next is the size", func(r *rig) { r.chain(d(ram, 1, next, size)) }, virtqueue.ErrIndex},
		{"next is 65535", func(r *rig) { r.chain(d(ram, 1, next, 65535)) }, virtqueue.ErrIndex},
		{"self-loop", func(r *rig) { r.chain(d(ram, 1, next, 0)) }, virtqueue.ErrChainLoop},
		{"loop of two", func(r *rig) { r.chain(d(ram, 1, next, 1), d(ram, 1, next, 0)) }, virtqueue.ErrChainLoop},
		{"loop behind a good start", func(r *rig) {
			r.chain(d(ram, 1, next, 1), d(ram, 1, next, 2), d(ram, 1, next, 1))
		}, virtqueue.ErrChainLoop},
		{"loop of nothing", func(r *rig) { r.chain(d(0, 0, next, 0)) }, virtqueue.ErrChainLoop},
		{"writable before readable", func(r *rig) { r.chain(d(ram, 1, next|write, 1), d(ram, 1, 0, 0)) }, virtqueue.ErrOrder},
		{"writable before readable in a table", func(r *rig) {
			r.chain(d(ram, 1, next|write, 1), r.tableOf(d(ram, 1, 0, 0)))
		}, virtqueue.ErrOrder},
		{"nested table", func(r *rig) { r.chain(r.tableOf(d(ram, 16, indirect, 0))) }, virtqueue.ErrIndirectNested},
		{"nested table behind a good start", func(r *rig) {
			r.chain(r.tableOf(d(ram, 16, next, 1), d(ram, 16, indirect, 0)))
		}, virtqueue.ErrIndirectNested},
		{"table of no bytes", func(r *rig) { r.chain(d(ram, 0, indirect, 0)) }, virtqueue.ErrIndirectLen},
		{"table of 15 bytes", func(r *rig) { r.chain(d(ram, 15, indirect, 0)) }, virtqueue.ErrIndirectLen},
		{"table of 17 bytes", func(r *rig) { r.chain(d(ram, 17, indirect, 0)) }, virtqueue.ErrIndirectLen},
		{"table of 2^32-16 bytes", func(r *rig) { r.chain(d(ram, math.MaxUint32-15, indirect, 0)) }, virtqueue.ErrIndirectLen},
		{"table of 64Ki and one", func(r *rig) { r.chain(d(ram, 1<<20+16, indirect, 0)) }, virtqueue.ErrIndirectLen},
		{"table outside memory", func(r *rig) { r.chain(d(hole, 16, indirect, 0)) }, virtqueue.ErrIndirectTable},
		{"table runs into a hole", func(r *rig) { r.chain(d(hole-16, 32, indirect, 0)) }, virtqueue.ErrIndirectTable},
		{"table wraps", func(r *rig) { r.chain(d(math.MaxUint64-15, 32, indirect, 0)) }, virtqueue.ErrIndirectTable},
		{"table and next", func(r *rig) {
			ref := r.tableOf(d(ram, 1, 0, 0))
			ref.Flags |= next
			r.chain(ref, d(ram, 1, 0, 0))
		}, virtqueue.ErrIndirectNext},
		{"next behind the table", func(r *rig) { r.chain(r.tableOf(d(ram, 1, next, 2), d(ram, 1, 0, 0))) }, virtqueue.ErrIndex},
		{"loop in a table", func(r *rig) { r.chain(r.tableOf(d(ram, 1, next, 1), d(ram, 1, next, 0))) }, virtqueue.ErrChainLoop},
		{"chain of 1025 in a table", func(r *rig) {
			long := make([]desc, 1025)
			for i := range long {
				long[i] = d(ram, 1, next, uint16(i+1))
			}
			long[1024].Flags = 0
			r.chain(r.tableOf(long...))
		}, virtqueue.ErrChainLoop},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, virtqueuetest.Options{Size: size, Indirect: true, EventIdx: true, Start: 7}, hostileExtents...)
			good := r.ring.Add(r.mem.Out([]byte("good")))
			r.ring.Publish()
			popped := r.pop(t)
			c.do(r)
			r.wantBroken(t, c.want)
			if got := r.q.Base(); got != 8 {
				t.Errorf("next is %d, want 8", got)
			}
			r.q.Push(popped.Head, 0)
			r.q.NotifyIfNeeded()
			if e := r.used(t); e.ID != uint32(good) || r.ring.Interrupts() != 1 {
				t.Errorf("the chain before did not come back: %+v", e)
			}
		})
	}
}

func TestIndirectWithoutFeatureBreaks(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 8})
		r.ring.AddIndirect(r.mem.Out([]byte("x")))
		r.ring.Publish()
		r.wantBroken(t, virtqueue.ErrIndirectFeature)
	})
}

// chain posts a chain. In a split ring its descriptors are those from 0 on; in a
// packed ring they lie where they must, and its buffer id is 0.
func (r *rig) chain(descs ...desc) {
	if r.ring.Config().Packed {
		var slots []virtqueuetest.PackedDesc
		for _, d := range descs {
			slots = append(slots, virtqueuetest.PackedDesc{Addr: d.Addr, Len: d.Len, Flags: d.Flags})
		}
		r.ring.PostSlots(slots...)
		return
	}
	for i, d := range descs {
		r.ring.SetDesc(uint16(i), d)
	}
	r.ring.Post(0)
}

// putTable writes an indirect table; that of a packed ring has no links.
func (r *rig) putTable(gpa uint64, descs ...desc) {
	if !r.ring.Config().Packed {
		r.mem.PutTable(gpa, descs...)
		return
	}
	for i, d := range descs {
		r.mem.PutPackedTable(gpa+uint64(16*i), virtqueuetest.PackedDesc{Addr: d.Addr, Len: d.Len, Flags: d.Flags &^ next})
	}
}

// tableOf writes an indirect table and returns the descriptor that refers to it.
func (r *rig) tableOf(descs ...desc) desc {
	gpa := r.mem.Alloc(uint64(16*len(descs)), 16)
	r.putTable(gpa, descs...)
	return d(gpa, uint32(16*len(descs)), indirect, 0)
}

// What a driver can do to the buffers of a chain costs it that chain only: the
// descriptor comes back with length 0, in order.
func TestBadBuffersComeBack(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, c := range []struct {
			name  string
			chain func(r *rig) []desc
		}{
			{"address in a hole", func(r *rig) []desc { return []desc{d(hole, 1, 0, 0)} }},
			{"address 0", func(r *rig) []desc { return []desc{d(0, 1, write, 0)} }},
			{"wraps", func(r *rig) []desc { return []desc{d(math.MaxUint64, 2, 0, 0)} }},
			{"length 2^32-1", func(r *rig) []desc { return []desc{d(ram, math.MaxUint32, 0, 0)} }},
			{"runs into a hole", func(r *rig) []desc { return []desc{d(hole-1, 2, write, 0)} }},
			{"behind good ones", func(r *rig) []desc {
				return []desc{d(ram, 44, next, 1), d(boundary-1, 2, next, 2), d(hole, 1, write, 0)}
			}},
			{"in a table", func(r *rig) []desc { return []desc{r.tableOf(d(ram, 1, next, 1), d(hole, 1, 0, 0))} }},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 8, Indirect: true}, hostileExtents...)
				r.bufs.Append(r.table, ram, 3) // the caller's own
				r.chain(c.chain(r)...)
				bad, ok := r.q.Pop(&r.bufs)
				if !ok || !errors.Is(bad.Err, guestmem.ErrOutOfRange) {
					t.Fatalf("chain %+v, %v; want one with %v", bad, ok, guestmem.ErrOutOfRange)
				}
				if bad.From != 1 || bad.Split != 1 || bad.To != 1 || r.bufs.Len() != 1 || bad.ReadBytes != 0 || bad.WriteBytes != 0 {
					t.Errorf("a bad chain with ranges: %+v", bad)
				}
				r.q.Push(bad.Head, 0)
				r.ring.Add(r.mem.Out([]byte("good")))
				r.ring.Publish()
				good := r.pop(t)
				r.q.Push(good.Head, 0)
				r.q.Publish()
				for _, c := range []virtqueue.Chain{bad, good} {
					if e := r.used(t); e.ID != uint32(c.Head) || e.Len != 0 {
						t.Errorf("used %+v, want head %d", e, c.Head)
					}
				}
				if r.q.Broken() != nil || r.q.Stats.BadChains.Load() != 1 || r.q.Stats.Chains.Load() != 2 {
					t.Errorf("broken by %v, %d bad chains", r.q.Broken(), r.q.Stats.BadChains.Load())
				}
			})
		}
	})
}

// A chain that names all of memory over and over costs us no more than a bound.
func TestChainInTooManyPieces(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		var extents []virtqueuetest.Extent
		for i := range uint64(128) {
			extents = append(extents, virtqueuetest.Extent{GuestAddr: 0x100000 + i<<16, Size: 1 << 16})
		}
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 8, Indirect: true}, extents...)
		all := make([]virtqueuetest.Segment, 1024)
		for i := range all {
			all[i] = virtqueuetest.Segment{Addr: 0x100000, Len: 128 << 16}
		}
		r.ring.AddIndirect(all...)
		r.ring.Publish()
		c, ok := r.q.Pop(&r.bufs)
		if !ok || c.Err != virtqueue.ErrTooManyRanges || r.bufs.Len() != 0 {
			t.Errorf("chain %+v, %v", c, ok)
		}
	})
}

func TestSameHeadTwice(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{Size: 8})
	head := r.ring.Add(r.mem.Out([]byte("x")))
	r.ring.Publish()
	r.ring.Post(head)
	for range 2 {
		c := r.pop(t)
		if c.Head != head || string(r.readable(c)) != "x" {
			t.Errorf("chain %+v", c)
		}
		r.q.Push(c.Head, 0)
	}
	r.q.Publish()
	if first, second := r.used(t), r.used(t); first != second {
		t.Error("the head came back differently")
	}
}

// The used ring is the device's: what the driver writes there changes nothing.
func TestUsedRingTampering(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{Size: 8, Start: 100})
	for i := range 40 {
		head := r.ring.Add(r.mem.Out([]byte{byte(i)}))
		r.ring.Publish()
		r.ring.SetUsedIdx(uint16(i * 7777))
		r.ring.SetUsedElem(uint16(i), virtqueuetest.Elem{ID: math.MaxUint32, Len: math.MaxUint32})
		r.bufs.Reset()
		r.q.Push(r.pop(t).Head, 3)
		r.q.NotifyIfNeeded()
		if got := r.ring.UsedIdx(); got != uint16(101+i) {
			t.Fatalf("used.idx %d, want %d", got, 101+i)
		}
		if e := r.used(t); e.ID != uint32(head) || e.Len != 3 {
			t.Fatalf("used %+v, want head %d", e, head)
		}
	}
}

// Descriptors are read once: what the driver changes after Pop changes nothing,
// and neither the table nor the available ring is ever written.
func TestDescriptorsAreReadOnce(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{Size: 8, Indirect: true, EventIdx: true}, hostileExtents...)
	r.mem.Write(ram, []byte("right"))
	r.mem.Write(ram+64, []byte("wrong"))
	table := r.tableOf(d(ram+3, 2, 0, 0))
	r.chain(d(ram, 3, next, 1), table)
	c := r.pop(t)
	r.ring.SetDesc(0, d(ram+64, 5, write, 0))
	r.mem.PutTable(table.Addr, d(hole, math.MaxUint32, write, 0))
	if got := r.readable(c); string(got) != "right" || c.WriteBytes != 0 {
		t.Errorf("read %q from %+v", got, c)
	}
	cfg := r.ring.Config()
	descs, avail := r.mem.Read(cfg.Desc, 16*8), r.mem.Read(cfg.Avail, 6+2*8)
	r.q.Push(c.Head, 0)
	r.q.NotifyIfNeeded()
	r.q.ArmKick()
	if string(r.mem.Read(cfg.Desc, 16*8)) != string(descs) || string(r.mem.Read(cfg.Avail, 6+2*8)) != string(avail) {
		t.Error("the device wrote what is the driver's")
	}
}

// Rings that overlap each other or the buffers hurt their driver only.
func TestOverlaps(t *testing.T) {
	const base = 0x110000
	for name, o := range map[string]virtqueuetest.Options{
		"table is the used ring":     {Size: 8, Desc: base, Used: base},
		"table is the avail ring":    {Size: 8, Desc: base, Avail: base},
		"avail ring is the used":     {Size: 8, Avail: base, Used: base},
		"everything is one":          {Size: 8, Desc: base, Avail: base, Used: base},
		"everything is one, EVENTS":  {Size: 8, Desc: base, Avail: base, Used: base, EventIdx: true},
		"used overlaps avail by two": {Size: 8, Avail: base + 2, Used: base},
	} {
		t.Run(name, func(t *testing.T) {
			o.Indirect = true
			r := newRig(t, o, hostileExtents...)
			over := virtqueuetest.Segment{Addr: base, Len: 512, Write: true}
			for range 4 {
				r.ring.Add(over)
				r.ring.AddIndirect(over, over)
			}
			r.ring.Publish()
			for i := range 1000 {
				r.bufs.Reset()
				c, ok := r.q.Pop(&r.bufs)
				if !ok {
					break
				}
				p := pattern(600)
				p[0], p[2] = byte(i), byte(i)
				r.bufs.CopyIn(c.Split, c.To, p)
				r.q.Push(c.Head, uint32(i))
				r.q.NotifyIfNeeded()
				r.q.ArmKick()
			}
		})
	}
}

// A frontend that shrinks the memory under a ring causes a fault that can be
// caught and attributed; the queue holds no lock and nothing else to clean up.
func TestShrunkMemoryFaults(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 8})
		if err := r.mem.Shrink(0, 0); err != nil {
			t.Fatal(err)
		}
		for name, access := range map[string]func(){
			"Pop":     func() { r.q.Pop(&r.bufs) },
			"ArmKick": func() { r.q.ArmKick() },
			"Publish": func() { r.q.Push(0, 0); r.q.Publish() },
			"New":     func() { q, _ := virtqueue.New(r.table, r.ring.Config(), 0); q.Pending() },
		} {
			t.Run(name, func(t *testing.T) {
				defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
				defer func() {
					fault, ok := recover().(interface{ Addr() uintptr })
					if !ok || !r.table.Holds(fault.Addr()) {
						t.Errorf("recovered %v", fault)
					}
				}()
				access()
			})
		}
	})
}

// RingError names the sentinel and the place.
func TestRingError(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{Size: 8, Start: 300})
	r.ring.Post(9)
	r.q.Pop(&r.bufs)
	want := "ring broken at available index 300: descriptor index or buffer id out of range"
	if err := r.q.Broken(); err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}
