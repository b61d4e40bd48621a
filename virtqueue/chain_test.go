package virtqueue_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// shape is a chain and what it should come to.
type shape struct {
	name        string
	add         func(r *rig) uint16
	read, write uint64
	ranges      int
}

func out(r *rig, n int) virtqueuetest.Segment { return r.mem.Out(pattern(n)) }

func TestShapes(t *testing.T) {
	type segs = []virtqueuetest.Segment
	nothing := virtqueuetest.Segment{Addr: 0xdead0000}
	shapes := []shape{
		{"one readable", func(r *rig) uint16 { return r.ring.Add(out(r, 44)) }, 44, 0, 1},
		{"one writable", func(r *rig) uint16 { return r.ring.Add(r.mem.In(4096)) }, 0, 4096, 1},
		{"both", func(r *rig) uint16 { return r.ring.Add(out(r, 7), r.mem.In(9)) }, 7, 9, 2},
		{"every byte a descriptor", func(r *rig) uint16 {
			s := segs{}
			for range 44 {
				s = append(s, out(r, 1))
			}
			return r.ring.Add(s...)
		}, 44, 0, 44},
		{"zero length between", func(r *rig) uint16 {
			return r.ring.Add(nothing, out(r, 5), nothing, out(r, 6), r.mem.In(0), r.mem.In(3), nothing)
		}, 11, 3, 3},
		{"zero length only", func(r *rig) uint16 { return r.ring.Add(nothing, nothing) }, 0, 0, 0},
		{"indirect", func(r *rig) uint16 { return r.ring.AddIndirect(out(r, 44), out(r, 10), r.mem.In(1)) }, 54, 1, 3},
		{"indirect of one", func(r *rig) uint16 { return r.ring.AddIndirect(r.mem.In(20)) }, 0, 20, 1},
		{"direct, then indirect", func(r *rig) uint16 {
			return r.ring.AddMixed(2, out(r, 1), out(r, 2), out(r, 3), r.mem.In(4))
		}, 6, 4, 4},
		{"readable, then writable indirect", func(r *rig) uint16 { return r.ring.AddMixed(1, out(r, 8), r.mem.In(4)) }, 8, 4, 2},
		{"indirect longer than the ring", func(r *rig) uint16 {
			s := segs{}
			for range 1024 {
				s = append(s, out(r, 2))
			}
			return r.ring.AddIndirect(s...)
		}, 2048, 0, 1024},
		{"as long as the ring", func(r *rig) uint16 {
			s := segs{}
			for range 64 {
				s = append(s, out(r, 3))
			}
			return r.ring.Add(s...)
		}, 192, 0, 64},
	}
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, c := range shapes {
			t.Run(c.name, func(t *testing.T) { c.check(t, packed) })
		}
	})
}

// What only a split ring has, or has in its own way.
func TestSplitShapes(t *testing.T) {
	for _, c := range []shape{
		{"write flag on the reference", func(r *rig) uint16 {
			table := r.mem.Alloc(32, 16)
			r.mem.PutTable(table, virtqueuetest.Desc{Addr: out(r, 6).Addr, Len: 6})
			r.ring.SetDesc(3, virtqueuetest.Desc{Addr: table, Len: 16, Flags: virtqueuetest.Indirect | virtqueuetest.Write})
			r.ring.Post(3)
			return 3
		}, 6, 0, 1},
		{"table at an odd address, backwards", func(r *rig) uint16 {
			table := r.mem.Alloc(64, 16) + 3
			r.mem.PutTable(table,
				virtqueuetest.Desc{Addr: out(r, 6).Addr, Len: 6, Flags: virtqueuetest.Next, Next: 2},
				virtqueuetest.Desc{Addr: r.mem.In(9).Addr, Len: 9, Flags: virtqueuetest.Write},
				virtqueuetest.Desc{Addr: out(r, 4).Addr, Len: 4, Flags: virtqueuetest.Next, Next: 1})
			r.ring.SetDesc(0, virtqueuetest.Desc{Addr: table, Len: 48, Flags: virtqueuetest.Indirect})
			r.ring.Post(0)
			return 0
		}, 10, 9, 3},
		{"short chain in a table of 64Ki", func(r *rig) uint16 {
			table := r.mem.Alloc(1<<20, 16)
			r.mem.PutTable(table, virtqueuetest.Desc{Addr: out(r, 6).Addr, Len: 6, Flags: virtqueuetest.Next, Next: 65535})
			r.mem.PutTable(table+65535*16, virtqueuetest.Desc{Addr: out(r, 1).Addr, Len: 1})
			r.ring.SetDesc(0, virtqueuetest.Desc{Addr: table, Len: 1 << 20, Flags: virtqueuetest.Indirect})
			r.ring.Post(0)
			return 0
		}, 7, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, false) })
	}
}

// What a packed ring has in its own way.
func TestPackedShapes(t *testing.T) {
	type slot = virtqueuetest.PackedDesc
	for _, c := range []shape{
		{"write flag on the reference", func(r *rig) uint16 {
			table := r.mem.Alloc(32, 16)
			r.mem.PutPackedTable(table, slot{Addr: out(r, 6).Addr, Len: 6})
			r.ring.PostSlots(slot{Addr: table, Len: 16, ID: 3, Flags: indirect | write})
			return 3
		}, 6, 0, 1},
		{"flags that mean nothing in a table", func(r *rig) uint16 {
			table := r.mem.Alloc(64, 16) + 3
			r.mem.PutPackedTable(table,
				slot{Addr: out(r, 6).Addr, Len: 6, ID: 7777, Flags: virtqueuetest.Avail},
				slot{Addr: out(r, 4).Addr, Len: 4, ID: 2, Flags: next | virtqueuetest.Used},
				slot{Addr: r.mem.In(9).Addr, Len: 9, Flags: ^uint16(indirect)})
			r.ring.PostSlots(slot{Addr: table, Len: 48, ID: 63, Flags: indirect})
			return 63
		}, 10, 9, 3},
		{"flags that mean nothing in the ring", func(r *rig) uint16 {
			const reserved = ^uint16(next | write | indirect | virtqueuetest.Avail | virtqueuetest.Used)
			r.ring.PostSlots(
				slot{Addr: out(r, 3).Addr, Len: 3, Flags: next | reserved},
				slot{Addr: r.mem.In(5).Addr, Len: 5, ID: 1, Flags: write | reserved})
			return 1
		}, 3, 5, 2},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, true) })
	}
}

func (c shape) check(t *testing.T, packed bool) {
	r := newRig(t, virtqueuetest.Options{Size: 64, Packed: packed, Indirect: true})
	r.bufs.Append(r.table, virtqueuetest.DefaultExtent.GuestAddr, 1) // the caller's own
	head := c.add(r)
	r.ring.Publish()
	got := r.pop(t)
	if got.Head != head || got.From != 1 || got.To != r.bufs.Len() || got.To-got.From != c.ranges {
		t.Errorf("chain %+v, want head %d and %d ranges", got, head, c.ranges)
	}
	if got.ReadBytes != c.read || r.bufs.Bytes(got.From, got.Split) != c.read {
		t.Errorf("%d readable bytes, want %d", got.ReadBytes, c.read)
	}
	if got.WriteBytes != c.write || r.bufs.Bytes(got.Split, got.To) != c.write {
		t.Errorf("%d writable bytes, want %d", got.WriteBytes, c.write)
	}
	r.q.Push(got.Head, uint32(c.write))
	r.q.Publish()
	if e := r.used(t); e.ID != uint32(head) || e.Len != uint32(c.write) {
		t.Errorf("used %+v", e)
	}
	if r.ring.Free() != 64 {
		t.Errorf("%d descriptors came back", r.ring.Free())
	}
}

// Lengths are summed up in 64 bits.
func TestChainBeyond32Bits(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		const gib = 1 << 30
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 8}, virtqueuetest.DefaultExtent, virtqueuetest.Extent{GuestAddr: 1 << 32, Size: 2 * gib})
		all := virtqueuetest.Segment{Addr: 1 << 32, Len: 2 * gib}
		r.ring.Add(all, all, all)
		r.ring.Publish()
		if c := r.pop(t); c.ReadBytes != 6*gib {
			t.Errorf("%d bytes", c.ReadBytes)
		}
	})
}

// TestRandomChains sends random bytes in chains of random shape, which jump about
// in the table and cross regions, both ways.
func TestRandomChains(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		const half = 1 << 20
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 64, Indirect: true, EventIdx: true, Start: 65000},
			virtqueuetest.Extent{GuestAddr: 0x100000, Size: half},
			virtqueuetest.Extent{GuestAddr: 0x100000 + half, Size: half},
			virtqueuetest.Extent{GuestAddr: 1 << 40, Size: half})
		rng := rand.New(rand.NewPCG(3, 4))
		room := r.mem.Alloc(half/2, 1) // up to the first boundary or nearly so
		boundary := uint64(0x100000 + half)
		for round := range 3000 {
			r.ring.Shuffle(rng)
			var segs []virtqueuetest.Segment
			var sent []byte
			addr := boundary - rng.Uint64N(600) // the buffers lie behind one another, across the boundary
			for range 1 + rng.IntN(8) {
				n := rng.IntN(200)
				p := make([]byte, n)
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				r.mem.Write(addr, p)
				segs = append(segs, virtqueuetest.Segment{Addr: addr, Len: uint32(n)})
				addr += uint64(n)
				sent = append(sent, p...)
			}
			room := room
			answer := 0
			for range rng.IntN(8) {
				n := rng.IntN(100)
				segs = append(segs, virtqueuetest.Segment{Addr: room, Len: uint32(n), Write: true})
				room += uint64(n)
				answer += n
			}
			head := r.ring.AddMixed(rng.IntN(len(segs)+1), segs...)
			r.ring.Kick()

			r.bufs.Reset()
			c := r.pop(t)
			if c.Head != head || !bytes.Equal(r.readable(c), sent) {
				t.Fatalf("round %d: chain %+v reads other bytes than were sent", round, c)
			}
			if c.WriteBytes != uint64(answer) {
				t.Fatalf("round %d: %d writable bytes, want %d", round, c.WriteBytes, answer)
			}
			p := pattern(answer)
			if n := r.bufs.CopyIn(c.Split, c.To, p); n != answer {
				t.Fatalf("round %d: wrote %d of %d", round, n, answer)
			}
			r.q.Push(c.Head, uint32(answer))
			r.q.NotifyIfNeeded()
			e := r.used(t)
			if e.Len != uint32(answer) || !bytes.Equal(r.mem.Read(room-uint64(answer), uint64(answer)), p) {
				t.Fatalf("round %d: used %+v, or other bytes than were written", round, e)
			}
			if r.ring.Free() != 64 {
				t.Fatalf("round %d: %d descriptors came back", round, r.ring.Free())
			}
		}
	})
}

// The device makes no assumption about framing: a header of 44 bytes may be cut
// anywhere and share its descriptor with the payload.
func TestHeaderCutAnywhere(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		const header = 44
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 8, Indirect: true})
		packet := pattern(header + 100)
		whole := r.mem.Out(packet)
		for first := range uint32(len(packet) + 1) {
			second := uint32(len(packet)) - first
			segs := []virtqueuetest.Segment{{Addr: whole.Addr, Len: first}, {Addr: whole.Addr + uint64(first), Len: second}}
			r.ring.Add(segs...)
			r.ring.AddIndirect(segs...)
			r.ring.Publish()
			for range 2 {
				r.bufs.Reset()
				c := r.pop(t)
				head, payload := make([]byte, header), make([]byte, len(packet))
				if n := r.bufs.CopyOut(c.From, c.Split, head); n != header || !bytes.Equal(head, packet[:header]) {
					t.Fatalf("cut at %d: header %x", first, head[:n])
				}
				r.bufs.Skip(c.From, c.Split, header)
				if n := r.bufs.CopyOut(c.From, c.Split, payload); !bytes.Equal(payload[:n], packet[header:]) {
					t.Fatalf("cut at %d: payload %x", first, payload[:n])
				}
				r.q.Push(c.Head, 0)
				r.q.Publish()
				r.used(t)
			}
		}
	})
}

// An indirect table may cross regions, at any byte.
func TestTableAcrossRegions(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		const boundary = 0x200000
		r := newRig(t, virtqueuetest.Options{Size: 8, Packed: packed, Indirect: true},
			virtqueuetest.Extent{GuestAddr: 0x100000, Size: 0x100000}, virtqueuetest.Extent{GuestAddr: boundary, Size: 0x100000})
		seg := r.mem.Out([]byte("abc"))
		for back := range uint64(49) {
			r.putTable(boundary-back, d(seg.Addr, 1, next, 1), d(seg.Addr+1, 1, next, 2), d(seg.Addr+2, 1, 0, 0))
			r.chain(d(boundary-back, 48, indirect, 0))
			r.bufs.Reset()
			c := r.pop(t)
			if got := r.readable(c); string(got) != "abc" {
				t.Fatalf("%d bytes before the boundary: read %q", back, got)
			}
			r.q.Push(c.Head, 0)
			r.q.Publish()
			r.used(t)
		}
	})
}

func TestUnpop(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 8, Start: 65534})
		var heads []uint16
		for i := range 6 {
			heads = append(heads, r.ring.Add(r.mem.In(100+i)))
		}
		r.ring.Publish()
		first := r.pop(t)
		for range 3 {
			r.pop(t)
		}
		r.q.Unpop(3)
		r.bufs.Truncate(first.To)
		r.q.Push(first.Head, 10)
		if got := r.q.Pending(); got != 5 {
			t.Errorf("%d pending, want 5", got)
		}
		for i, want := range heads[1:] {
			c := r.pop(t)
			if c.Head != want || c.WriteBytes != uint64(101+i) {
				t.Errorf("chain %+v, want head %d", c, want)
			}
			r.q.Push(c.Head, 0)
		}
		r.q.Publish()
		for _, want := range heads {
			if e := r.used(t); e.ID != uint32(want) {
				t.Errorf("used %+v, want head %d", e, want)
			}
		}
		if r.ring.Free() != 8 {
			t.Errorf("%d descriptors came back", r.ring.Free())
		}
	})
}

func TestUnpopThenBreak(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 8})
		r.ring.Add(r.mem.In(1))
		r.ring.Publish()
		c := r.pop(t)
		r.spoil()
		r.wantBroken(t, virtqueue.ErrIndex)
		r.q.Unpop(1)
		r.bufs.Truncate(c.From)
		if _, ok := r.q.Pop(&r.bufs); ok {
			t.Error("a broken ring gave a chain")
		}
		if r.q.Base() != r.ring.Base() {
			t.Errorf("base is 0x%x", r.q.Base())
		}
	})
}

// The indices of a split ring wrap at 2^16, at any size; those of a packed ring
// at its end, thousands of times.
func TestIndicesWrap(t *testing.T) {
	const chains = 1<<17 + 10
	for _, o := range []virtqueuetest.Options{
		{Size: 4, EventIdx: true}, {Size: 4, Packed: true, EventIdx: true}, {Size: 1, Packed: true, EventIdx: true}, {Size: 7, Packed: true},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			r := newRig(t, o)
			seg := r.mem.Out([]byte("x"))
			for i := range chains {
				r.ring.Add(seg)
				if !r.ring.Kick() {
					t.Fatalf("no kick for entry %d", i)
				}
				r.ring.ArmInterrupt()
				r.bufs.Reset()
				r.q.Push(r.pop(t).Head, 0)
				r.q.NotifyIfNeeded()
				r.used(t)
				if r.q.ArmKick() {
					t.Fatalf("an entry behind entry %d", i)
				}
			}
			if got := r.ring.Interrupts(); got != chains {
				t.Errorf("%d interrupts", got)
			}
			if want := place(chains, o); r.q.Base() != want {
				t.Errorf("base 0x%x, want 0x%x", r.q.Base(), want)
			}
			if !o.Packed && r.q.UsedIdx() != 10 {
				t.Errorf("used.idx %d", r.q.UsedIdx())
			}
		})
	}
}

// place returns the base of a ring that n slots or chains were used of.
func place(n int, o virtqueuetest.Options) uint32 {
	if !o.Packed {
		return uint32(uint16(n))
	}
	half := uint32(n % o.Size)
	if n/o.Size%2 == 0 {
		half |= 1 << 15
	}
	return half | half<<16
}
