package main

import (
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// Offsets in the available and the used ring; the event fields follow the last
// entry (virtio v1.4 §2.7.6, §2.7.8).
const (
	offFlags = 0
	offIdx   = 2
	offRing  = 4
)

// ring is the driver's side of a split ring, without any bookkeeping that a guest's
// driver would not have: chains are prepared by their owner and named by their heads.
type ring struct {
	mem              *virtqueuetest.Memory
	desc             guestmem.Span
	avail, used      guestmem.Span
	size             uint16
	eventIdx         bool
	indirect         bool
	kickFD           int
	added, decided   uint16 // chains published; those when it was last decided whether to kick
	taken, completed uint16 // chains taken back; used.idx when it was last looked at
}

// newRing takes over the memory and the kick descriptor of a ring that has not been
// used yet.
func newRing(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) *ring {
	c := r.Config()
	n := uint64(c.Size)
	span := func(gpa, size uint64) guestmem.Span { return guestmem.NewSpan(mem.Bytes(gpa, size)) }
	return &ring{
		mem: mem, desc: span(c.Desc, 16*n), avail: span(c.Avail, 6+2*n), used: span(c.Used, 6+8*n),
		size: uint16(c.Size), eventIdx: c.EventIdx, indirect: c.Indirect, kickFD: r.KickFd(),
	}
}

// putDesc writes descriptor i of a table.
func putDesc(table guestmem.Span, i int, d virtqueuetest.Desc) {
	table.Store64(16*i, d.Addr)
	table.Store64(16*i+8, uint64(d.Len)|uint64(d.Flags)<<32|uint64(d.Next)<<48)
}

// post makes the chain at head available; the device may see it at once.
func (r *ring) post(head uint16) {
	r.avail.Store16(offRing+2*int(r.added&(r.size-1)), head)
	r.added++
	r.avail.StoreRelease16(offIdx, r.added)
}

// kick kicks the device if it asked for that (virtio v1.4 §2.7.10.1).
func (r *ring) kick() {
	fresh := r.added - r.decided
	if fresh == 0 {
		return
	}
	r.decided = r.added
	guestmem.Fence() // avail.idx before the device's wish
	wanted := r.used.LoadAcquire16(offFlags)&1 == 0
	if r.eventIdx {
		event := r.used.LoadAcquire16(offRing + 8*int(r.size))
		wanted = r.added-event-1 < fresh
	}
	if wanted {
		signal(r.kickFD)
	}
}

// next takes a used chain: its head, and how many bytes were written into it.
func (r *ring) next() (head uint16, n uint32, ok bool) {
	if r.taken == r.completed {
		if r.completed = r.used.LoadAcquire16(offIdx); r.taken == r.completed {
			return 0, 0, false
		}
	}
	e := r.used.Load64(offRing + 8*int(r.taken&(r.size-1)))
	r.taken++
	return uint16(e), uint32(e >> 32), true
}

// arm asks for an interrupt at the next used chain and reports whether there is one
// already. Between two calls the device gives at most one interrupt: Linux, too, asks
// again only when it has taken all there is (virtqueue_enable_cb).
func (r *ring) arm() (more bool) {
	if r.eventIdx {
		r.avail.StoreRelease16(offRing+2*int(r.size), r.taken)
	} else {
		r.avail.StoreRelease16(offFlags, 0)
	}
	guestmem.Fence() // our wish before what the device has used
	return r.used.LoadAcquire16(offIdx) != r.taken
}

// disarm asks for no interrupts, where not asking again would not do.
func (r *ring) disarm() {
	if !r.eventIdx {
		r.avail.StoreRelease16(offFlags, 1)
	}
}
