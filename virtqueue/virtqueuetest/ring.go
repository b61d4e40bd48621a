package virtqueuetest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// Offsets in the available and the used ring; the event fields follow the last
// entry (virtio v1.4 §2.7.6, §2.7.8).
const (
	offFlags = 0
	offIdx   = 2
	offRing  = 4
)

// Options describes a ring.
type Options struct {
	Size     int // entries; 0 means 256
	EventIdx bool
	Indirect bool

	// Guest addresses of the parts; 0 means wherever there is room.
	Desc, Avail, Used uint64

	// Start is where both indices start, so that they soon wrap.
	Start uint16
}

// Segment is a piece of guest memory that a chain names: the device writes it,
// or else reads it.
type Segment struct {
	Addr  uint64
	Len   uint32
	Write bool
}

// Elem is an element of the used ring.
type Elem struct{ ID, Len uint32 }

// Ring is a driver's ring.
type Ring struct {
	opts  Options
	mem   *Memory
	desc  guestmem.Span
	avail guestmem.Span
	used  guestmem.Span

	free   []uint16 // descriptors in no chain: a stack
	links  []uint16 // what follows a descriptor in its chain, or free; the driver's own copy
	counts []int    // by head: descriptors of the chain; 0 if it is not with the device
	tables []table  // by head: where its indirect table is

	availIdx  uint16 // chains added
	decided   uint16 // availIdx when it was last decided whether to kick
	lastUsed  uint16 // elements taken
	kick      eventFd
	interrupt eventFd
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
	r := &Ring{
		mem:    mem,
		desc:   place(&o.Desc, 16*n, 16),
		avail:  place(&o.Avail, 6+2*n, 2),
		used:   place(&o.Used, 6+8*n, 4),
		links:  make([]uint16, o.Size),
		counts: make([]int, o.Size),
		tables: make([]table, o.Size),

		availIdx:  o.Start,
		decided:   o.Start,
		lastUsed:  o.Start,
		kick:      newEventFd(tb),
		interrupt: newEventFd(tb),
	}
	for i := o.Size - 1; i >= 0; i-- {
		r.free = append(r.free, uint16(i))
	}
	r.opts = o
	r.SetAvailIdx(o.Start)
	r.SetUsedIdx(o.Start)
	return r
}

// Config returns what the device needs to know.
func (r *Ring) Config() virtqueue.Config {
	o := r.opts
	return virtqueue.Config{Size: o.Size, Desc: o.Desc, Avail: o.Avail, Used: o.Used, EventIdx: o.EventIdx, Indirect: o.Indirect}
}

// Free returns how many descriptors are in no chain: as many as the ring has
// entries when the device holds nothing.
func (r *Ring) Free() int { return len(r.free) }

// Shuffle brings the free descriptors into random order, so that chains jump
// about in the table.
func (r *Ring) Shuffle(rng *rand.Rand) {
	rng.Shuffle(len(r.free), func(i, j int) { r.free[i], r.free[j] = r.free[j], r.free[i] })
}

// Add adds a chain of one descriptor for each segment and returns its head. The
// device does not see it before Publish or Kick.
func (r *Ring) Add(segs ...Segment) (head uint16) { return r.AddMixed(len(segs), segs...) }

// AddIndirect adds a chain of one descriptor that refers to a table.
func (r *Ring) AddIndirect(segs ...Segment) (head uint16) { return r.AddMixed(0, segs...) }

// AddMixed adds a chain whose first direct segments have descriptors in the ring
// and whose others, if any, are in a table that the last of these refers to.
func (r *Ring) AddMixed(direct int, segs ...Segment) (head uint16) {
	n := direct
	if direct < len(segs) {
		n++
	}
	if n == 0 || n > len(r.free) {
		panic(fmt.Sprintf("virtqueuetest: %d descriptors for a chain, %d free", n, len(r.free)))
	}
	taken := r.free[len(r.free)-n:] // the last is the head
	head = taken[n-1]
	for i := range n {
		d, link := Desc{}, uint16(0)
		if i < direct {
			d = segs[i].desc()
		} else {
			d = Desc{Addr: r.fillTable(head, segs[direct:]), Len: uint32(16 * (len(segs) - direct)), Flags: Indirect}
		}
		if i < n-1 {
			link = taken[n-2-i]
			d.Flags |= Next
			d.Next = link
		}
		r.SetDesc(taken[n-1-i], d)
		r.links[taken[n-1-i]] = link
	}
	r.free = r.free[:len(r.free)-n]
	r.counts[head] = n
	r.post(head)
	return head
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
		if i < len(segs)-1 {
			d.Flags |= Next
			d.Next = uint16(i + 1)
		}
		putDesc(span, i, d)
	}
	return t.gpa
}

// post makes head the next entry of the available ring.
func (r *Ring) post(head uint16) {
	r.SetAvailEntry(r.availIdx, head)
	r.availIdx++
}

// Publish makes all added chains available to the device.
func (r *Ring) Publish() { r.avail.StoreRelease16(offIdx, r.availIdx) }

// Used takes the next element of the used ring; ok is false when there is none.
// The descriptors of its chain are free again.
func (r *Ring) Used() (e Elem, ok bool) {
	if r.used.LoadAcquire16(offIdx) == r.lastUsed {
		return Elem{}, false
	}
	e = r.usedElem(r.lastUsed)
	r.lastUsed++
	r.release(e.ID)
	return e, true
}

// release frees the descriptors of a chain that the device had. Chains that were
// posted raw have none.
func (r *Ring) release(head uint32) {
	if head >= uint32(r.opts.Size) {
		return
	}
	d := uint16(head)
	for ; r.counts[head] > 0; r.counts[head]-- {
		r.free = append(r.free, d)
		d = r.links[d]
	}
}
