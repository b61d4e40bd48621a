package virtqueuetest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// Options describes a ring.
type Options struct {
	Size     int // entries; 0 means 256
	Packed   bool
	EventIdx bool
	Indirect bool

	// Guest addresses of the parts; 0 means wherever there is room.
	Desc, Avail, Used uint64

	// Start is where both indices start, so that they soon wrap; in a packed ring,
	// how many slots were used before.
	Start uint16
}

// Segment is a piece of guest memory that a chain names: the device writes it,
// or else reads it.
type Segment struct {
	Addr  uint64
	Len   uint32
	Write bool
}

// Elem is a used chain: its head and how many bytes were written.
type Elem struct{ ID, Len uint32 }

// Ring is a driver's ring.
type Ring struct {
	parts
	layout
	mem    *Memory
	tables []table // by head: where its indirect table is
	chain  []Desc  // the chain that is being added

	kick      eventFd
	interrupt eventFd
}

// parts are the three parts of a ring of either layout.
type parts struct {
	opts  Options
	desc  guestmem.Span
	avail guestmem.Span
	used  guestmem.Span
}

// layout is what the two layouts do in their own ways. Heads are descriptor
// indices in a split ring and buffer ids in a packed one.
type layout interface {
	free() int               // descriptors in no chain
	shuffle(rng *rand.Rand)  // brings what is free into random order
	nextHead() uint16        // the head that add will return
	add(chain []Desc) uint16 // puts a chain that fits, with no links and no marks, behind the last
	publish()                // makes what was added available
	takeUsed() (e Elem, ok bool)
	availIdx() uint16 // chains added
	usedIdx() uint16  // chains that the device has used
	wantsKick() bool  // for what was published since the last call
	armInterrupt()
	disarmInterrupt()
	hasUsed() bool // takeUsed has something to take
	base() uint32  // where the ring starts
}

// table is room for an indirect table.
type table struct {
	gpa uint64
	len int // descriptors
}

// NewRing returns an empty ring in mem. Its eventfds end with the test.
func NewRing(tb testing.TB, mem *Memory, o Options) *Ring {
	tb.Helper()
	if o.Size == 0 {
		o.Size = 256
	}
	n := uint64(o.Size)
	place := func(gpa *uint64, size, align uint64) guestmem.Span {
		if *gpa == 0 {
			*gpa = mem.Alloc(size, align)
		}
		return guestmem.NewSpan(mem.Bytes(*gpa, size))
	}
	r := &Ring{mem: mem, tables: make([]table, o.Size), kick: newEventFd(tb), interrupt: newEventFd(tb)}
	r.desc = place(&o.Desc, 16*n, 16)
	if o.Packed {
		r.avail, r.used = place(&o.Avail, 4, 4), place(&o.Used, 4, 4)
	} else {
		r.avail, r.used = place(&o.Avail, 6+2*n, 2), place(&o.Used, 6+8*n, 4)
	}
	r.opts = o
	if o.Packed {
		r.layout = newPackedDriver(&r.parts)
	} else {
		r.layout = newSplitDriver(&r.parts)
	}
	return r
}

// Config returns what the device needs to know.
func (r *Ring) Config() virtqueue.Config {
	o := r.opts
	return virtqueue.Config{
		Size: o.Size, Desc: o.Desc, Avail: o.Avail, Used: o.Used,
		Packed: o.Packed, EventIdx: o.EventIdx, Indirect: o.Indirect,
	}
}

// Base returns where the ring started, as VHOST_USER_SET_VRING_BASE has it.
func (r *Ring) Base() uint32 { return r.base() }

// Free returns how many descriptors are in no chain: as many as the ring has
// entries when the device holds nothing.
func (r *Ring) Free() int { return r.free() }

// Shuffle brings free descriptors, or buffer ids, into random order, so that
// chains jump about in the table.
func (r *Ring) Shuffle(rng *rand.Rand) { r.shuffle(rng) }

// Add adds a chain of one descriptor for each segment and returns its head. The
// device does not see it before Publish or Kick.
func (r *Ring) Add(segs ...Segment) (head uint16) { return r.AddMixed(len(segs), segs...) }

// AddIndirect adds a chain of one descriptor that refers to a table.
func (r *Ring) AddIndirect(segs ...Segment) (head uint16) { return r.AddMixed(0, segs...) }

// AddMixed adds a chain whose first direct segments have descriptors in the ring
// and whose others, if any, are in a table that the last of these refers to. A
// packed ring has no such chains (virtio v1.4 §2.8.19): there, if any segment is
// in the table, all are.
func (r *Ring) AddMixed(direct int, segs ...Segment) (head uint16) {
	if r.opts.Packed && direct < len(segs) {
		direct = 0
	}
	r.chain = r.chain[:0]
	for _, s := range segs[:direct] {
		r.chain = append(r.chain, s.desc())
	}
	if direct < len(segs) {
		gpa := r.fillTable(r.nextHead(), segs[direct:])
		r.chain = append(r.chain, Desc{Addr: gpa, Len: uint32(16 * (len(segs) - direct)), Flags: Indirect})
	}
	if n := len(r.chain); n == 0 || n > r.free() {
		panic(fmt.Sprintf("virtqueuetest: %d descriptors for a chain, %d free", n, r.free()))
	}
	return r.add(r.chain)
}

// fillTable writes the indirect table of the chain at head.
func (r *Ring) fillTable(head uint16, segs []Segment) (gpa uint64) {
	t := &r.tables[head]
	if t.len < len(segs) {
		t.gpa, t.len = r.mem.Alloc(uint64(16*len(segs)), 16), len(segs)
	}
	span := guestmem.NewSpan(r.mem.Bytes(t.gpa, uint64(16*len(segs))))
	for i, s := range segs {
		d := s.desc()
		switch {
		case r.opts.Packed:
			putPackedDesc(span, i, PackedDesc{Addr: d.Addr, Len: d.Len, Flags: d.Flags})
			continue
		case i < len(segs)-1:
			d.Flags |= Next
			d.Next = uint16(i + 1)
		}
		putDesc(span, i, d)
	}
	return t.gpa
}

// Publish makes all added chains available to the device.
func (r *Ring) Publish() { r.publish() }

// Used takes the next chain that the device has used; ok is false when there is
// none. Its descriptors are free again.
func (r *Ring) Used() (e Elem, ok bool) { return r.takeUsed() }

// AvailIdx returns how many chains were added.
func (r *Ring) AvailIdx() uint16 { return r.availIdx() }

// UsedIdx returns how many chains the device has used: of a split ring, used.idx.
func (r *Ring) UsedIdx() uint16 { return r.usedIdx() }
