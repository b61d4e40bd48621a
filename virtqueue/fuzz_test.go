package virtqueue_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// The fuzzed memory: the ring lies in the image, which goes on beyond the
// boundary of two regions; behind these is a hole.
const (
	fuzzSize  = 16
	fuzzImage = 0x1000 // the image starts here: descriptor table, available ring, used ring, rest
	fuzzAvail = fuzzImage + 16*fuzzSize
	fuzzUsed  = fuzzAvail + 64
	fuzzRest  = fuzzUsed + 192
	fuzzEnd   = 0x3000
)

var fuzzExtents = []virtqueuetest.Extent{
	{GuestAddr: 0, Size: 0x2000}, {GuestAddr: 0x2000, Size: fuzzEnd - 0x2000}, {GuestAddr: 0x4000, Size: 0x1000},
}

func fuzzRing(tb testing.TB, mem *virtqueuetest.Memory) *virtqueuetest.Ring {
	return virtqueuetest.NewRing(tb, mem, virtqueuetest.Options{
		Size: fuzzSize, Indirect: true, Desc: fuzzImage, Avail: fuzzAvail, Used: fuzzUsed,
	})
}

// FuzzChainWalk lets the guest's memory be anything and holds every chain against
// a model that knows nothing of speed.
func FuzzChainWalk(f *testing.F) {
	for _, seed := range fuzzSeeds(f) {
		f.Add(seed, true, true)
		f.Add(seed, false, false)
	}
	mem := virtqueuetest.NewMemory(f, fuzzExtents...)
	table := mem.Table(f)
	blank := make([]byte, fuzzEnd-fuzzImage)
	f.Fuzz(func(t *testing.T, image []byte, events, indirect bool) {
		mem.Write(fuzzImage, blank)
		mem.Write(fuzzImage, image[:min(len(image), len(blank))])
		cfg := virtqueue.Config{
			Size: fuzzSize, Desc: fuzzImage, Avail: fuzzAvail, Used: fuzzUsed, EventIdx: events, Indirect: indirect,
		}
		q, err := virtqueue.New(table, cfg, 0)
		if err != nil {
			t.Fatal(err)
		}
		var bufs guestmem.Buffers
		for range fuzzSize {
			want := model{mem: mem, indirect: indirect}
			entry := mem.Read(fuzzAvail+4+2*uint64(q.Base()%fuzzSize), 2)
			want.err = want.walk(binary.LittleEndian.Uint16(entry))
			bufs.Reset()
			c, ok := q.Pop(&bufs)
			if err := q.Broken(); errors.Is(err, virtqueue.ErrAvailIdx) || !ok && err == nil {
				break // nothing was walked
			}
			want.check(t, q, &bufs, c, ok)
			q.Push(c.Head, uint32(c.WriteBytes))
		}
		q.NotifyIfNeeded()
		if q.ArmKick() {
			t.Fatal("more entries than the ring holds")
		}
	})
}

// model is what a chain should come to.
type model struct {
	mem         *virtqueuetest.Memory
	indirect    bool
	read, write []virtqueuetest.Segment
	err         error
}

// contains reports whether [gpa, gpa+n) is memory.
func (m *model) contains(gpa, n uint64) bool {
	for _, e := range []virtqueuetest.Extent{{GuestAddr: 0, Size: fuzzEnd}, fuzzExtents[2]} {
		if gpa >= e.GuestAddr && gpa < e.GuestAddr+e.Size && n <= e.GuestAddr+e.Size-gpa {
			return true
		}
	}
	return false
}

func (m *model) walk(head uint16) error {
	var (
		tableAddr = uint64(fuzzImage)
		tableLen  = uint64(fuzzSize)
		inTable   bool
		index     = uint64(head)
		steps     uint64
	)
	for {
		if index >= tableLen {
			return virtqueue.ErrIndex
		}
		if steps++; steps > tableLen || steps > 1024 {
			return virtqueue.ErrChainLoop
		}
		raw := m.mem.Read(tableAddr+16*index, 16)
		addr, n := binary.LittleEndian.Uint64(raw), uint64(binary.LittleEndian.Uint32(raw[8:]))
		flags, link := binary.LittleEndian.Uint16(raw[12:]), binary.LittleEndian.Uint16(raw[14:])
		if flags&indirect != 0 {
			switch {
			case inTable:
				return virtqueue.ErrIndirectNested
			case !m.indirect:
				return virtqueue.ErrIndirectFeature
			case flags&next != 0:
				return virtqueue.ErrIndirectNext
			case n == 0 || n%16 != 0 || n > 1<<20:
				return virtqueue.ErrIndirectLen
			case !m.contains(addr, n):
				return virtqueue.ErrIndirectTable
			}
			tableAddr, tableLen, inTable, index, steps = addr, n/16, true, 0, 0
			continue
		}
		if err := m.collect(addr, n, flags); err != nil {
			return err
		}
		if flags&next == 0 {
			return nil
		}
		index = uint64(link)
	}
}

// collect adds a descriptor's buffer.
func (m *model) collect(addr, n uint64, flags uint16) error {
	switch s := (virtqueuetest.Segment{Addr: addr, Len: uint32(n)}); {
	case n == 0:
	case flags&write == 0 && len(m.write) > 0:
		return virtqueue.ErrOrder
	case !m.contains(addr, n):
		return guestmem.ErrOutOfRange
	case flags&write == 0:
		m.read = append(m.read, s)
	default:
		m.write = append(m.write, s)
	}
	return nil
}

func (m *model) check(t *testing.T, q *virtqueue.Queue, bufs *guestmem.Buffers, c virtqueue.Chain, ok bool) {
	t.Helper()
	if m.err != nil && m.err != guestmem.ErrOutOfRange {
		var ringErr *virtqueue.RingError
		if ok || !errors.As(q.Broken(), &ringErr) || ringErr.Err != m.err || bufs.Len() != 0 {
			t.Fatalf("chain %+v, %v, broken by %v; want %v", c, ok, q.Broken(), m.err)
		}
		return
	}
	if !ok || c.Err != m.err || c.From != 0 || c.To != bufs.Len() {
		t.Fatalf("chain %+v, %v, broken by %v; want error %v", c, ok, q.Broken(), m.err)
	}
	if m.err != nil {
		m.read, m.write = nil, nil
	}
	m.compare(t, m.read, bufs, c.From, c.Split, c.ReadBytes)
	m.compare(t, m.write, bufs, c.Split, c.To, c.WriteBytes)
}

// compare checks that ranges are as long as segs together and start with the
// same bytes.
func (m *model) compare(t *testing.T, segs []virtqueuetest.Segment, bufs *guestmem.Buffers, from, to int, n uint64) {
	t.Helper()
	var total uint64
	var want []byte
	for _, s := range segs {
		total += uint64(s.Len)
		if len(want) < 1<<16 {
			want = append(want, m.mem.Read(s.Addr, uint64(s.Len))...)
		}
	}
	if total != n || bufs.Bytes(from, to) != n {
		t.Fatalf("%d bytes in ranges of %d, want %d", n, bufs.Bytes(from, to), total)
	}
	got := make([]byte, len(want))
	bufs.CopyOut(from, to, got)
	if string(got) != string(want) {
		t.Fatal("other bytes")
	}
}

// fuzzSeeds returns images with chains of every shape and with every fault.
func fuzzSeeds(tb testing.TB) (images [][]byte) {
	data := virtqueuetest.Segment{Addr: 0x1ff0, Len: 44} // crosses the boundary
	room := virtqueuetest.Segment{Addr: 0x4000, Len: 0x1000, Write: true}
	table := uint64(0x1ff8) // so does an indirect table
	for _, edit := range []func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring){
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Add(data) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Add(data, data, room); r.Add(room) },
		func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			mem.PutTable(table, d(0x1000, 16, next, 1), d(0x1100, 16, next, 2), d(0x4000, 9, write, 0))
			r.SetDesc(0, d(0x1000, 3, next, 1))
			r.SetDesc(1, d(table, 48, indirect|write, 0))
			r.Post(0)
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetDesc(0, d(0x1000, 3, next, 0)); r.Post(0) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetDesc(0, d(0x1000, 3, next, 16)); r.Post(0) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetDesc(0, d(0x2fff, 2, 0, 0)); r.Post(0) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Add(room, data) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Post(16) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetAvailIdx(17) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.SetDesc(0, d(table, 15, indirect, 0))
			r.Post(0)
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.SetDesc(0, d(table, 16, indirect|next, 0))
			r.Post(0)
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.SetDesc(0, d(0x2ff8, 16, indirect, 0))
			r.Post(0)
		},
		func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			mem.PutTable(table, d(table, 16, indirect, 0))
			r.SetDesc(0, d(table, 16, indirect, 0))
			r.Post(0)
		},
	} {
		mem := virtqueuetest.NewMemory(tb, fuzzExtents...)
		ring := fuzzRing(tb, mem)
		edit(mem, ring)
		if ring.AvailIdx() > 0 {
			ring.Publish()
		}
		images = append(images, mem.Read(fuzzImage, fuzzEnd-fuzzImage))
	}
	return images
}

// The packed ring is where the split ring's table is, its event suppression areas
// where the available ring is.
var fuzzPacked = virtqueuetest.Options{
	Size: fuzzSize, Packed: true, Indirect: true, Desc: fuzzImage, Avail: fuzzAvail, Used: fuzzAvail + 4,
}

// FuzzPackedWalk lets the guest's memory be anything and holds every chain of a
// packed ring against a model.
func FuzzPackedWalk(f *testing.F) {
	for _, seed := range packedFuzzSeeds(f) {
		f.Add(seed, true, true, uint16(0))
		f.Add(seed, false, false, uint16(0))
	}
	mem := virtqueuetest.NewMemory(f, fuzzExtents...)
	table := mem.Table(f)
	blank := make([]byte, fuzzEnd-fuzzImage)
	f.Fuzz(func(t *testing.T, image []byte, events, indirect bool, publish uint16) {
		mem.Write(fuzzImage, blank)
		mem.Write(fuzzImage, image[:min(len(image), len(blank))])
		cfg := virtqueue.Config{
			Size: fuzzSize, Packed: true, Desc: fuzzImage, Avail: fuzzAvail, Used: fuzzAvail + 4, EventIdx: events, Indirect: indirect,
		}
		q, err := virtqueue.New(table, cfg, fresh)
		if err != nil {
			t.Fatal(err)
		}
		var bufs guestmem.Buffers
		next, used := uint64(0), uint64(0) // slots, since the ring was new
		for round := range 2 * fuzzSize {
			want := model{mem: mem, indirect: indirect}
			slots, id := want.walkPacked(next, int(fuzzSize-(next-used)))
			bufs.Reset()
			empty := q.Empty()
			c, ok := q.Pop(&bufs)
			if empty != (slots == 0) {
				t.Fatalf("empty %v before a chain of %d slots", empty, slots)
			}
			if slots == 0 {
				if ok || q.Broken() != nil {
					t.Fatalf("chain %+v, %v, broken by %v from an empty ring", c, ok, q.Broken())
				}
				break
			}
			want.check(t, q, &bufs, c, ok)
			if !ok {
				break
			}
			if c.Head != id {
				t.Fatalf("buffer id %d, want %d", c.Head, id)
			}
			q.Push(c.Head, uint32(c.WriteBytes))
			next += uint64(slots)
			if publish>>(round%16)&1 == 0 {
				q.Publish()
				used = next
			}
			if base, want := q.Base(), packedPlace(next)|packedPlace(used)<<16; base != want {
				t.Fatalf("base 0x%08x, want 0x%08x", base, want)
			}
		}
		if got := q.Pending(); got > fuzzSize {
			t.Fatalf("%d chains pending", got)
		}
		q.NotifyIfNeeded()
		q.ArmKick()
	})
}

// packedPlace returns slot n as half of a base.
func packedPlace(n uint64) uint32 {
	if n/fuzzSize%2 == 0 {
		return uint32(n%fuzzSize) | 1<<15
	}
	return uint32(n % fuzzSize)
}

// walkPacked returns what the chain in slot start and those behind it takes, and
// its buffer id. There is no chain if that is 0 slots.
func (m *model) walkPacked(start uint64, free int) (slots int, id uint16) {
	unfit := false
	for n := start; ; n++ {
		raw := m.mem.Read(fuzzImage+16*(n%fuzzSize), 16)
		addr, size := binary.LittleEndian.Uint64(raw), uint64(binary.LittleEndian.Uint32(raw[8:]))
		id, flags := binary.LittleEndian.Uint16(raw[12:]), binary.LittleEndian.Uint16(raw[14:])
		first := n/fuzzSize%2 == 0 // wrap counter 1
		available := (flags>>7&1 == 1) == first && (flags>>15 == 1) != first
		switch {
		case slots == 0 && (free == 0 || !available):
			return 0, 0
		case slots == free:
			m.err = virtqueue.ErrChainLoop
			return slots, id
		case !available:
			m.err = virtqueue.ErrChainCut
			return slots, id
		}
		slots++
		switch {
		case flags&indirect != 0 && slots > 1:
			m.err = virtqueue.ErrIndirectNext
			return slots, id
		case flags&indirect != 0:
			m.err = m.packedTable(addr, size, flags)
		case !unfit:
			m.err = m.collect(addr, size, flags)
		}
		if unfit = m.err == guestmem.ErrOutOfRange; m.err != nil && !unfit {
			return slots, id
		}
		if flags&next == 0 {
			if id >= fuzzSize {
				m.err = virtqueue.ErrIndex
			}
			return slots, id
		}
	}
}

// packedTable walks an indirect table.
func (m *model) packedTable(addr, size uint64, flags uint16) error {
	switch {
	case !m.indirect:
		return virtqueue.ErrIndirectFeature
	case flags&next != 0:
		return virtqueue.ErrIndirectNext
	case size == 0 || size%16 != 0 || size > 1<<20:
		return virtqueue.ErrIndirectLen
	case !m.contains(addr, size):
		return virtqueue.ErrIndirectTable
	case size > 1024*16:
		return virtqueue.ErrChainLoop
	}
	for raw := m.mem.Read(addr, size); len(raw) > 0; raw = raw[16:] {
		flags := binary.LittleEndian.Uint16(raw[14:])
		if flags&indirect != 0 {
			return virtqueue.ErrIndirectNested
		}
		if err := m.collect(binary.LittleEndian.Uint64(raw), uint64(binary.LittleEndian.Uint32(raw[8:])), flags); err != nil {
			return err
		}
	}
	return nil
}

// packedFuzzSeeds returns images with chains of every shape and with every fault.
func packedFuzzSeeds(tb testing.TB) (images [][]byte) {
	data := virtqueuetest.Segment{Addr: 0x1ff0, Len: 44} // crosses the boundary
	room := virtqueuetest.Segment{Addr: 0x4000, Len: 0x1000, Write: true}
	table := uint64(0x1ff8) // so does an indirect table
	for _, edit := range []func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring){
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Add(data) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Add(data, data, room); r.Add(room) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			for range fuzzSize {
				r.Add(room)
			}
		},
		func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			mem.PutPackedTable(table, slot{Addr: 0x1000, Len: 16}, slot{Addr: 0x4000, Len: 9, Flags: write | next})
			r.PostSlots(slot{Addr: table, Len: 32, Flags: indirect | write})
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.PostSlots(slot{Addr: 0x1000, Len: 3, Flags: next})
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			for range fuzzSize {
				r.PostSlots(slot{Addr: 0x1000, Len: 3, Flags: next})
			}
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.PostSlots(slot{Addr: 0x1000, Len: 3, ID: fuzzSize})
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.PostSlots(slot{Addr: 0x2fff, Len: 2, Flags: next}, slot{Addr: 0x1000, Len: 3})
			r.Add(data)
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Add(room, data) },
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.PostSlots(slot{Addr: table, Len: 15, Flags: indirect})
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.PostSlots(slot{Addr: table, Len: 16, Flags: indirect | next}, slot{})
		},
		func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			r.PostSlots(slot{Addr: 0x1000, Len: 1, Flags: next}, slot{Addr: table, Len: 16, Flags: indirect})
		},
		func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
			mem.PutPackedTable(table, slot{Addr: table, Len: 16, Flags: indirect})
			r.PostSlots(slot{Addr: table, Len: 16, Flags: indirect})
		},
	} {
		mem := virtqueuetest.NewMemory(tb, fuzzExtents...)
		ring := virtqueuetest.NewRing(tb, mem, fuzzPacked)
		edit(mem, ring)
		ring.Publish()
		images = append(images, mem.Read(fuzzImage, fuzzEnd-fuzzImage))
	}
	return images
}
