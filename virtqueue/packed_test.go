package virtqueue_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

type slot = virtqueuetest.PackedDesc

// fresh is the base of a packed ring that was never used.
const fresh = 0x80008000

func TestNewRefusesBadPackedRings(t *testing.T) {
	mem := virtqueuetest.NewMemory(t,
		virtqueuetest.Extent{GuestAddr: 0x10000, Size: 0x10000},
		virtqueuetest.Extent{GuestAddr: 0x20000, Size: 0x10000})
	table := mem.Table(t)
	good := virtqueue.Config{Packed: true, Size: 100, Desc: 0x10000, Avail: 0x12000, Used: 0x12004}
	if _, err := virtqueue.New(table, good, fresh); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		edit func(*virtqueue.Config)
		base uint32
		want error
	}{
		{"size 0", func(c *virtqueue.Config) { c.Size = 0 }, fresh, virtqueue.ErrSize},
		{"size 32769", func(c *virtqueue.Config) { c.Size = 32769 }, fresh, virtqueue.ErrSize},
		{"ring misaligned", func(c *virtqueue.Config) { c.Desc += 8 }, fresh, guestmem.ErrMisaligned},
		{"driver area misaligned", func(c *virtqueue.Config) { c.Avail += 2 }, fresh, guestmem.ErrMisaligned},
		{"device area misaligned", func(c *virtqueue.Config) { c.Used += 2 }, fresh, guestmem.ErrMisaligned},
		{"ring crosses regions", func(c *virtqueue.Config) { c.Desc = 0x1fff0 }, fresh, guestmem.ErrOutOfRange},
		{"ring runs out", func(c *virtqueue.Config) { c.Desc = 0x30000 - 16*99 }, fresh, guestmem.ErrOutOfRange},
		{"driver area outside", func(c *virtqueue.Config) { c.Avail = 0x30000 }, fresh, guestmem.ErrOutOfRange},
		{"device area outside", func(c *virtqueue.Config) { c.Used = math.MaxUint64 - 3 }, fresh, guestmem.ErrOutOfRange},
		{"next slot is the size", func(*virtqueue.Config) {}, 0x80000000 | 100, virtqueue.ErrBase},
		{"used slot is the size", func(*virtqueue.Config) {}, 100<<16 | 0x8000, virtqueue.ErrBase},
		{"all ones", func(*virtqueue.Config) {}, math.MaxUint32, virtqueue.ErrBase},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.edit(&cfg)
			if q, err := virtqueue.New(table, cfg, c.base); q != nil || !errors.Is(err, c.want) {
				t.Errorf("queue %v, error %v; want %v", q, err, c.want)
			}
		})
	}
	if q, err := virtqueue.New(table, virtqueue.Config{Size: 64, Desc: 0x10000, Avail: 0x12000, Used: 0x13000}, fresh); q != nil || !errors.Is(err, virtqueue.ErrBase) {
		t.Errorf("a split ring with a packed base: queue %v, error %v", q, err)
	}
}

// Where the halves of a base differ, the chains between were never used.
func TestPackedBase(t *testing.T) {
	for _, c := range []struct{ base, want uint32 }{
		{fresh, fresh},
		{0, 0}, // the second lap
		{0x80058005, 0x80058005},
		{0x00090009, 0x00090009},
		{0x80028007, 0x80028002}, // five slots were popped
		{0x80080003, 0x80088008}, // over the end
	} {
		mem := virtqueuetest.NewMemory(t)
		ring := virtqueuetest.NewRing(t, mem, virtqueuetest.Options{Size: 10, Packed: true})
		q, err := virtqueue.New(mem.Table(t), ring.Config(), c.base)
		if err != nil {
			t.Fatal(err)
		}
		if got := q.Base(); got != c.want {
			t.Errorf("base 0x%08x goes on at 0x%08x, want 0x%08x", c.base, got, c.want)
		}
	}
}

// A ring that goes on in another session, at any place of any lap, finds what is
// there, and what was popped and not pushed.
func TestPackedRingGoesOn(t *testing.T) {
	for _, size := range []int{1, 2, 3, 7} {
		mem := virtqueuetest.NewMemory(t)
		ring := virtqueuetest.NewRing(t, mem, virtqueuetest.Options{Size: size, Packed: true, EventIdx: true})
		base := ring.Base()
		for round := range 4 * size {
			for i := range size {
				ring.Add(mem.Out([]byte{byte(round), byte(i)}))
			}
			ring.Publish()
			r := startRig(t, mem, ring, base)
			for i := range size {
				c := r.pop(t)
				if got := r.readable(c); got[0] != byte(round) || got[1] != byte(i) {
					t.Fatalf("size %d, round %d: read %v, want %d", size, round, got, i)
				}
				r.q.Push(c.Head, 0)
				r.q.Publish()
				if i == round%size {
					break
				}
			}
			r.q.Pop(&r.bufs) // and no push
			base = r.q.Base()
			r = startRig(t, mem, ring, base)
			for c, ok := r.q.Pop(&r.bufs); ok; c, ok = r.q.Pop(&r.bufs) {
				r.q.Push(c.Head, 0)
			}
			r.q.Publish()
			for range size {
				r.used(t)
			}
			// One slot more, so that the next round begins elsewhere.
			ring.Add(mem.In(1))
			ring.Publish()
			r.q.Push(r.pop(t).Head, 0)
			r.q.Publish()
			r.used(t)
			base = r.q.Base()
			if base>>16 != base&0xffff {
				t.Fatalf("base 0x%08x with nothing out", base)
			}
		}
	}
}

// TestPackedAgainstModel pops, gives back, pushes and publishes chains of random
// length for thousands of laps, and wants each back whole and in order.
func TestPackedAgainstModel(t *testing.T) {
	for _, size := range []int{5, 16, 33} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newRig(t, virtqueuetest.Options{Size: size, Packed: true, Indirect: true})
			rng := rand.New(rand.NewPCG(13, uint64(size)))
			pool := make([]virtqueuetest.Segment, size) // one for each chain that is under way
			for i := range pool {
				pool[i] = r.mem.Out(make([]byte, 8))
			}
			var sent, popped, pushed, taken uint64 // chains
			var heads []uint16                     // of the chains that are popped and not pushed
			var pending []uint16                   // of those that are pushed and not taken
			for slots := 0; slots < 3000*size; {
				switch rng.IntN(5) {
				case 0, 1:
					n := 1 + rng.IntN(min(size, 6))
					if n > r.ring.Free() {
						break
					}
					seg := pool[sent%uint64(size)]
					binary.LittleEndian.PutUint64(r.mem.Bytes(seg.Addr, 8), sent)
					segs := slices.Repeat([]virtqueuetest.Segment{seg}, n)
					if rng.IntN(4) == 0 {
						r.ring.AddIndirect(segs...)
						slots++
					} else {
						r.ring.Shuffle(rng)
						r.ring.Add(segs...)
						slots += n
					}
					sent++
					r.ring.Publish()
				case 2:
					r.bufs.Reset()
					if c, ok := r.q.Pop(&r.bufs); ok {
						p := r.readable(c)
						for i := 0; i < len(p); i += 8 {
							if v := binary.LittleEndian.Uint64(p[i:]); v != popped {
								t.Fatalf("chain %d holds %d", popped, v)
							}
						}
						heads = append(heads, c.Head)
						popped++
					} else if popped != sent {
						t.Fatalf("no chain behind %d of %d", popped, sent)
					}
				case 3:
					n := rng.IntN(len(heads) + 1)
					r.q.Unpop(n)
					heads = heads[:len(heads)-n]
					popped -= uint64(n)
				case 4:
					for range rng.IntN(len(heads) + 1) {
						r.q.Push(heads[0], uint32(pushed))
						pending = append(pending, heads[0])
						heads = heads[1:]
						pushed++
					}
					r.q.Publish()
					for range rng.IntN(len(pending) + 1) {
						if e := r.used(t); e.ID != uint32(pending[0]) || e.Len != uint32(taken) {
							t.Fatalf("used %+v, want chain %d with id %d", e, taken, pending[0])
						}
						pending = pending[1:]
						taken++
					}
				}
				if got, want := r.q.PendingUpTo(3), min(3, int(sent-popped)); got != want {
					t.Fatalf("%d pending up to 3, want %d", got, want)
				}
				if got, want := r.q.Pending(), int(sent-popped); got != want {
					t.Fatalf("%d pending, want %d", got, want)
				}
			}
		})
	}
}

// What a driver can do to the structure of a packed ring ends that ring, and
// nothing else.
func TestStructureBreaksThePackedRing(t *testing.T) {
	const size = 8
	one := slot{Addr: ram, Len: 1}
	with := func(d slot, flags uint16) slot { d.Flags |= flags; return d }
	table := func(r *rig, descs ...slot) slot {
		gpa := r.mem.Alloc(uint64(16*len(descs)), 16)
		r.mem.PutPackedTable(gpa, descs...)
		return slot{Addr: gpa, Len: uint32(16 * len(descs)), Flags: indirect}
	}
	ref := func(addr uint64, n uint32) slot { return slot{Addr: addr, Len: n, Flags: indirect} }
	for _, c := range []struct {
		name string
		do   func(r *rig)
		want error
	}{
		{"id is the size", func(r *rig) { r.ring.PostSlots(slot{Addr: ram, Len: 1, ID: size}) }, virtqueue.ErrIndex},
		{"id is 65535", func(r *rig) { r.ring.PostSlots(slot{Addr: ram, Len: 1, ID: 65535}) }, virtqueue.ErrIndex},
		{"id of bad buffers", func(r *rig) { r.ring.PostSlots(slot{Addr: hole, Len: 1, ID: size}) }, virtqueue.ErrIndex},
		{"id of a table", func(r *rig) {
			ref := table(r, one)
			ref.ID = size
			r.ring.PostSlots(ref)
		}, virtqueue.ErrIndex},
		{"chain that ends in nothing", func(r *rig) { r.ring.PostSlots(with(one, next)) }, virtqueue.ErrChainCut},
		{"chain that ends in a used descriptor", func(r *rig) {
			r.ring.PostSlots(with(one, next), one)
			r.ring.SetSlot(2, with(one, virtqueuetest.Avail|virtqueuetest.Used))
		}, virtqueue.ErrChainCut},
		{"chain that ends in another lap", func(r *rig) {
			r.ring.PostSlots(with(one, next), one)
			r.ring.SetSlot(2, with(one, virtqueuetest.Used))
		}, virtqueue.ErrChainCut},
		{"bad chain that ends in nothing", func(r *rig) { r.ring.PostSlots(slot{Addr: hole, Len: 1, Flags: next}) }, virtqueue.ErrChainCut},
		{"chain that goes around into what is out", func(r *rig) {
			for range size - 1 {
				r.ring.PostSlots(with(one, next))
			}
		}, virtqueue.ErrChainLoop},
		{"chain of nothing that goes around", func(r *rig) {
			for range size - 1 {
				r.ring.PostSlots(slot{Flags: next})
			}
		}, virtqueue.ErrChainLoop},
		{"writable before readable", func(r *rig) { r.ring.PostSlots(with(one, next|write), one) }, virtqueue.ErrOrder},
		{"writable before readable in a table", func(r *rig) {
			r.ring.PostSlots(table(r, with(one, write), one))
		}, virtqueue.ErrOrder},
		{"table behind a descriptor", func(r *rig) { r.ring.PostSlots(with(one, next), table(r, one)) }, virtqueue.ErrIndirectNext},
		{"table behind a bad descriptor", func(r *rig) {
			r.ring.PostSlots(slot{Addr: hole, Len: 1, Flags: next}, table(r, one))
		}, virtqueue.ErrIndirectNext},
		{"table and next", func(r *rig) { r.ring.PostSlots(with(table(r, one), next), one) }, virtqueue.ErrIndirectNext},
		{"nested table", func(r *rig) { r.ring.PostSlots(table(r, one, ref(ram, 16))) }, virtqueue.ErrIndirectNested},
		{"table of no bytes", func(r *rig) { r.ring.PostSlots(ref(ram, 0)) }, virtqueue.ErrIndirectLen},
		{"table of 15 bytes", func(r *rig) { r.ring.PostSlots(ref(ram, 15)) }, virtqueue.ErrIndirectLen},
		{"table of 17 bytes", func(r *rig) { r.ring.PostSlots(ref(ram, 17)) }, virtqueue.ErrIndirectLen},
		{"table of 2^32-16 bytes", func(r *rig) { r.ring.PostSlots(ref(ram, math.MaxUint32-15)) }, virtqueue.ErrIndirectLen},
		{"table outside memory", func(r *rig) { r.ring.PostSlots(ref(hole, 16)) }, virtqueue.ErrIndirectTable},
		{"table runs into a hole", func(r *rig) { r.ring.PostSlots(ref(hole-16, 32)) }, virtqueue.ErrIndirectTable},
		{"table wraps", func(r *rig) { r.ring.PostSlots(ref(math.MaxUint64-15, 32)) }, virtqueue.ErrIndirectTable},
		{"table of 1025", func(r *rig) { r.ring.PostSlots(ref(ram, 1025*16)) }, virtqueue.ErrChainLoop},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, virtqueuetest.Options{Size: size, Packed: true, Indirect: true, EventIdx: true}, hostileExtents...)
			good := r.ring.Add(r.mem.Out([]byte("good")))
			r.ring.Publish()
			popped := r.pop(t)
			c.do(r)
			r.wantBroken(t, c.want)
			if got := r.q.Base(); got != 0x80008001 {
				t.Errorf("base 0x%08x, want 0x80008001", got)
			}
			r.q.Push(popped.Head, 0)
			r.q.NotifyIfNeeded()
			if e := r.used(t); e.ID != uint32(good) || r.ring.Interrupts() != 1 {
				t.Errorf("the chain before did not come back: %+v", e)
			}
		})
	}
}

// A chain that is in all slots has no end.
func TestPackedChainWithoutEnd(t *testing.T) {
	for _, size := range []int{1, 2, 7, 8} {
		for _, d := range []slot{{Addr: ram, Len: 1, Flags: next}, {Flags: next}, {Addr: hole, Len: 1, Flags: next}} {
			r := newRig(t, virtqueuetest.Options{Size: size, Packed: true, Start: uint16(size / 2)}, hostileExtents...)
			for range size {
				r.ring.PostSlots(d)
			}
			r.wantBroken(t, virtqueue.ErrChainLoop)
		}
	}
}

// A driver with its wrap counter the wrong way round makes nothing available.
func TestPackedWrapFlip(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{Size: 8, Packed: true})
	for _, flags := range []uint16{0, virtqueuetest.Used, virtqueuetest.Avail | virtqueuetest.Used} {
		for i := range 8 {
			r.ring.SetSlot(i, slot{Addr: virtqueuetest.DefaultExtent.GuestAddr, Len: 1, Flags: flags})
		}
		if _, ok := r.q.Pop(&r.bufs); ok || !r.q.Empty() || r.q.Pending() != 0 || r.q.ArmKick() {
			t.Errorf("flags 0x%x: a chain", flags)
		}
	}
	if r.q.Broken() != nil {
		t.Errorf("broken by %v", r.q.Broken())
	}
}

// Flags and descriptors of every kind, all over the ring, cost the driver its
// ring at most.
func TestPackedFlagSoup(t *testing.T) {
	const size = 6
	rng := rand.New(rand.NewPCG(15, 16))
	r := newRig(t, virtqueuetest.Options{Size: size, Packed: true, Indirect: true, EventIdx: true}, hostileExtents...)
	broken := 0
	for range 3000 {
		q, err := virtqueue.New(r.table, r.ring.Config(), fresh)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			for i := range size {
				if rng.IntN(2) == 0 {
					r.ring.SetSlot(i, slot{
						Addr: []uint64{ram, boundary - 1, hole, r.ring.Config().Desc}[rng.IntN(4)],
						Len:  rng.Uint32N(70), ID: uint16(rng.Uint32N(8)), Flags: uint16(rng.Uint32()) & 0x8087,
					})
				}
			}
			r.bufs.Reset()
			popped := 0
			for c, ok := q.Pop(&r.bufs); ok; c, ok = q.Pop(&r.bufs) {
				if popped++; popped > size {
					t.Fatal("more chains out than the ring has slots")
				}
				if popped == 1 && rng.IntN(3) > 0 {
					q.Push(c.Head, uint32(c.WriteBytes))
					popped--
				}
				if rng.IntN(2) == 0 {
					q.NotifyIfNeeded()
				}
			}
			q.Unpop(popped)
			q.NotifyIfNeeded()
			q.ArmKick()
			if base := q.Base(); base&0x7fff >= size || base&0xffff != base>>16 {
				t.Fatalf("base 0x%08x with nothing out", base)
			}
		}
		if q.Broken() != nil {
			broken++
		}
	}
	if broken == 0 || broken == 3000 {
		t.Errorf("%d of 3000 rings broken", broken)
	}
}

// Slots whose chains are out are the device's: what the driver marks there is not
// looked at before they are used.
func TestPackedSlotsThatAreOut(t *testing.T) {
	const size = 4
	r := newRig(t, virtqueuetest.Options{Size: size, Packed: true})
	var heads []uint16
	for range size {
		r.ring.Add(r.mem.In(1))
	}
	r.ring.Publish()
	for range size {
		heads = append(heads, r.pop(t).Head)
	}
	for i := range size { // available in the next lap
		r.ring.SetSlot(i, slot{Addr: virtqueuetest.DefaultExtent.GuestAddr, Len: 1, ID: uint16(i), Flags: virtqueuetest.Used})
	}
	gone := func() bool {
		_, ok := r.q.Pop(&r.bufs)
		return !ok && r.q.Empty() && r.q.Pending() == 0 && !r.q.ArmKick()
	}
	if !gone() {
		t.Error("a slot was popped twice")
	}
	for _, head := range heads {
		r.q.Push(head, 0)
	}
	if !gone() {
		t.Error("a slot was popped before its used descriptor was there")
	}
	r.q.Publish()
	if !gone() || r.q.Broken() != nil {
		t.Errorf("a used slot was popped, or the ring is broken by %v", r.q.Broken())
	}
}

// The device reads descriptors once, and writes of the ring the first slot of
// each chain: length, id and flags.
func TestPackedDescriptorsAreReadOnce(t *testing.T) {
	r := newRig(t, virtqueuetest.Options{Size: 8, Packed: true, Indirect: true, EventIdx: true}, hostileExtents...)
	r.mem.Write(ram, []byte("right"))
	r.mem.Write(ram+64, []byte("wrong"))
	r.ring.PostSlots(slot{Addr: ram, Len: 3, Flags: next}, slot{Addr: ram + 3, Len: 2, ID: 5})
	c := r.pop(t)
	table := r.tableOf(d(ram, 5, 0, 0))
	r.ring.PostSlots(slot{Addr: table.Addr, Len: 16, ID: 6, Flags: indirect})
	inTable := r.pop(t)
	for i := range 3 {
		r.ring.SetSlot(i, slot{Addr: ram + 64, Len: 5, ID: 1, Flags: write})
	}
	r.putTable(table.Addr, d(hole, math.MaxUint32, write, 0))
	for _, c := range []virtqueue.Chain{c, inTable} {
		if got := r.readable(c); string(got) != "right" || c.WriteBytes != 0 {
			t.Errorf("read %q from %+v", got, c)
		}
	}
	cfg := r.ring.Config()
	ring, driver := r.mem.Read(cfg.Desc, 16*8), r.mem.Read(cfg.Avail, 4)
	r.q.Push(c.Head, 0)
	r.q.Push(inTable.Head, 77)
	r.q.NotifyIfNeeded()
	r.q.ArmKick()
	const used = virtqueuetest.Avail | virtqueuetest.Used
	for i, want := range map[int]slot{
		0: {Addr: ram + 64, Len: 0, ID: 5, Flags: used},
		2: {Addr: ram + 64, Len: 77, ID: 6, Flags: used | write},
	} {
		if got := r.ring.Slot(i); got != want {
			t.Errorf("slot %d is %+v, want %+v", i, got, want)
		}
		copy(ring[16*i:], r.mem.Read(cfg.Desc+uint64(16*i), 16))
	}
	if string(r.mem.Read(cfg.Desc, 16*8)) != string(ring) || string(r.mem.Read(cfg.Avail, 4)) != string(driver) {
		t.Error("the device wrote what is the driver's")
	}
}

// With EVENT_IDX an interrupt is sent when the slot is used that the driver names,
// in the lap that it names.
func TestDriverEventSweep(t *testing.T) {
	for _, size := range []int{1, 2, 5, 8} {
		r := newRig(t, virtqueuetest.Options{Size: size, Packed: true, EventIdx: true})
		r.serve(t, 1)
		r.ring.Interrupts()
		for used := uint64(1); used < uint64(5*size); { // slots, since the ring was new
			for event := range uint64(2 * size) { // in the two laps around
				batch := 1 + int(event)%size
				place := uint16(event % uint64(size))
				if event < uint64(size) {
					place |= 1 << 15
				}
				r.ring.SetDriverEvent(place, virtqueuetest.EventDesc)
				r.serve(t, batch)
				want := uint64(0)
				for n := used; n < used+uint64(batch); n++ {
					if n%uint64(2*size) == event {
						want = 1
					}
				}
				if got := r.ring.Interrupts(); got != want {
					t.Fatalf("size %d, slots %d to %d, event at 0x%x: %d interrupts, want %d",
						size, used, used+uint64(batch), place, got, want)
				}
				used += uint64(batch)
			}
		}
	}
}

// A batch of chains passes all of its slots, whichever the driver named.
func TestDriverEventInsideAChain(t *testing.T) {
	for event := range uint16(7) {
		r := newRig(t, virtqueuetest.Options{Size: 7, Packed: true, EventIdx: true})
		r.serve(t, 1)
		r.ring.Interrupts()
		r.ring.SetDriverEvent(1<<15|event, virtqueuetest.EventDesc)
		r.ring.Add(r.mem.In(1), r.mem.In(1), r.mem.In(1))
		r.ring.Publish()
		r.q.Push(r.pop(t).Head, 0)
		r.q.NotifyIfNeeded()
		if got, want := r.ring.Interrupts() == 1, event >= 1 && event <= 3; got != want {
			t.Errorf("event at %d, slots 1 to 3 used: interrupt %v", event, got)
		}
	}
}

// A batch of more than a lap passes every slot, whichever the driver named.
func TestBatchOfLaps(t *testing.T) {
	const size = 5
	for event := range uint16(size) {
		for _, wrap := range []uint16{0, 1 << 15} {
			r := newRig(t, virtqueuetest.Options{Size: size, Packed: true, EventIdx: true})
			r.serve(t, 1)
			r.ring.Interrupts()
			r.ring.SetDriverEvent(event|wrap, virtqueuetest.EventDesc)
			for range 2 * size {
				r.ring.Add(r.mem.In(1))
				r.ring.Publish()
				r.q.Push(r.pop(t).Head, 0)
				r.q.Publish()
				r.used(t)
			}
			r.q.NotifyIfNeeded()
			if r.ring.Interrupts() != 1 {
				t.Errorf("event at %d, wrap counter 0x%x: no interrupt for two laps", event, wrap)
			}
		}
	}
}

// Where the driver names no slot, its flags say it all; reserved ones ask for too
// many interrupts rather than for too few.
func TestDriverEventFlags(t *testing.T) {
	for _, c := range []struct {
		events bool
		flags  uint16
		want   uint64
	}{
		{false, virtqueuetest.EventEnable, 1}, {false, virtqueuetest.EventDisable, 0},
		{false, virtqueuetest.EventDesc, 1}, {false, 3, 1}, {false, 0xfffd, 0},
		{true, virtqueuetest.EventEnable, 1}, {true, virtqueuetest.EventDisable, 0},
		{true, 3, 1}, {true, 0xfffc, 1}, {true, 0xfffd, 0}, {true, 0xfffe, 0},
	} {
		r := newRig(t, virtqueuetest.Options{Size: 16, Packed: true, EventIdx: c.events})
		r.serve(t, 1)
		r.ring.Interrupts()
		r.ring.SetDriverEvent(1<<15|12, c.flags) // far away
		r.serve(t, 2)
		if got := r.ring.Interrupts(); got != c.want {
			t.Errorf("events %v, flags 0x%x: %d interrupts, want %d", c.events, c.flags, got, c.want)
		}
	}
}

// Before sleeping the device names the slot that it waits for, or asks for every
// kick.
func TestDeviceEvent(t *testing.T) {
	for _, events := range []bool{false, true} {
		r := newRig(t, virtqueuetest.Options{Size: 5, Packed: true, EventIdx: events})
		for i := range 40 {
			if r.q.ArmKick() {
				t.Fatal("an entry in an empty ring")
			}
			place, flags := r.ring.DeviceEvent()
			if want := uint16(r.q.Base()); events && (place != want || flags != virtqueuetest.EventDesc) {
				t.Fatalf("event 0x%x, %d; want 0x%x", place, flags, want)
			}
			if !events && flags != virtqueuetest.EventEnable {
				t.Fatalf("flags %d", flags)
			}
			r.ring.Add(r.mem.In(1))
			if !r.ring.Kick() {
				t.Fatalf("chain %d: no kick where one was asked for", i)
			}
			r.ring.Add(r.mem.In(1), r.mem.In(1))
			if r.ring.Kick() == events {
				t.Fatalf("chain %d: kick %v", i, !events)
			}
			if !r.q.ArmKick() {
				t.Fatal("ArmKick overlooks an entry")
			}
			r.bufs.Reset()
			first, second := r.pop(t), r.pop(t)
			r.q.ArmKick() // for what comes behind them
			if place, _ := r.ring.DeviceEvent(); events && place != uint16(r.q.Base()) {
				t.Fatalf("event 0x%x with chains out, want 0x%x", place, uint16(r.q.Base()))
			}
			r.q.Push(first.Head, 0)
			r.q.Push(second.Head, 0)
			r.q.Publish()
			r.used(t)
			r.used(t)
		}
	}
}

// Packed rings that overlap their areas or the buffers hurt their driver only.
func TestPackedOverlaps(t *testing.T) {
	const base = 0x110000
	for name, o := range map[string]virtqueuetest.Options{
		"driver area is the device's":    {Size: 8, Avail: base, Used: base},
		"driver area is in the ring":     {Size: 8, Desc: base, Avail: base + 12},
		"device area is in the ring":     {Size: 8, Desc: base, Used: base + 28},
		"everything is one, with EVENTS": {Size: 8, Desc: base, Avail: base + 12, Used: base + 12, EventIdx: true},
	} {
		t.Run(name, func(t *testing.T) {
			o.Packed, o.Indirect = true, true
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
				p[14], p[15] = byte(i), byte(i)
				r.bufs.CopyIn(c.Split, c.To, p)
				r.q.Push(c.Head, uint32(i))
				r.q.NotifyIfNeeded()
				r.q.ArmKick()
			}
		})
	}
}
