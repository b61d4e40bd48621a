package virtqueue

import (
	"fmt"
	"math/bits"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// packedRing is the state of a packed ring (virtio v1.4 §2.8). Its descriptor
// ring is Queue.desc; Queue.avail is its driver event suppression area and
// Queue.used its device event suppression area.
//
// A chain lies in consecutive slots of the descriptor ring and is returned in the
// first of them. As chains are returned in the order in which they came, what is
// between used and next is out: popped, and still without its used descriptor.
type packedRing struct {
	size  int
	next  place // the slot to pop next
	used  place // the slot of the used descriptor to write next
	slots int   // between used and next

	// The chains that are out, oldest first: chain i is out[i%len(out)]. Those
	// from pushed on are with the device, those before wait to be published.
	out                       []packedChain
	popped, pushed, published uint64
}

// packedChain is a chain that is out.
type packedChain struct {
	id      uint16 // buffer id
	slots   uint16
	written uint32 // bytes, once it is pushed
}

// startPacked makes base the position of the ring. Where its halves differ, the
// chains between were popped and never used: they are popped again.
func (q *Queue) startPacked(base uint32) error {
	size, next, used := q.cfg.Size, place(base), place(base>>16)
	if next.slot() >= size || used.slot() >= size {
		return fmt.Errorf("%w: 0x%x", ErrBase, base)
	}
	out := make([]packedChain, 1<<bits.Len(uint(size-1))) // a power of two
	q.packed = packedRing{size: size, next: used, used: used, out: out}
	return nil
}

func (p *packedRing) base() uint32 { return uint32(p.next) | uint32(p.used)<<16 }

// chain returns chain i.
func (p *packedRing) chain(i uint64) *packedChain { return &p.out[i&uint64(len(p.out)-1)] }

// place is a slot of a packed ring and the wrap counter of a lap, as off_wrap of
// an event suppression area and each half of a base have them.
type place uint16

// wrapCounter is the bit of a place behind its slot. It is set in the first lap.
const wrapCounter place = 1 << 15

func (p place) slot() int { return int(p &^ wrapCounter) }

// plus returns the place n slots further on, where n is at most size.
func (p place) plus(n, size int) place {
	slot := p.slot() + n
	if slot >= size {
		return place(slot-size) | ^p&wrapCounter
	}
	return place(slot) | p&wrapCounter
}

// minus returns the place n slots further back, where n is at most size.
func (p place) minus(n, size int) place {
	slot := p.slot() - n
	if slot < 0 {
		return place(slot+size) | ^p&wrapCounter
	}
	return place(slot) | p&wrapCounter
}

// Flags of a packed ring's descriptors, beside those of a split one's (virtio
// v1.4 §2.8.1).
const (
	flagAvail = 1 << 7
	flagUsed  = 1 << 15
)

// marksAvailable returns flagAvail and flagUsed as an available descriptor has
// them at p: AVAIL is the wrap counter, USED is not.
func (p place) marksAvailable() uint16 {
	if p&wrapCounter != 0 {
		return flagAvail
	}
	return flagUsed
}

// marksUsed returns them as a used descriptor has them: both are the wrap counter.
func (p place) marksUsed() uint16 {
	if p&wrapCounter != 0 {
		return flagAvail | flagUsed
	}
	return 0
}

// Offsets in a descriptor of a packed ring (virtio v1.4 §2.8.13).
const (
	offLen       = 8
	offID        = 12
	offDescFlags = 14
)

// available reads the descriptor at p; ok is false when the driver has not made
// it available. Its flags are read once, with acquire: the other fields are
// complete where they say available, and are read once behind them.
func (q *Queue) available(p place) (d descriptor, ok bool) {
	off := p.slot() * descriptorSize
	flags := q.desc.LoadAcquire16(off + offDescFlags)
	if flags&(flagAvail|flagUsed) != p.marksAvailable() {
		return descriptor{}, false
	}
	rest := q.desc.Load64(off + offLen)
	return descriptor{addr: q.desc.Load64(off), len: uint32(rest), next: uint16(rest >> 32), flags: flags}, true
}

// bindPacked finds the areas of the event suppression (virtio v1.4 §2.8.10.1).
func (q *Queue) bindPacked(mem *guestmem.Table) (err error) {
	if q.avail, err = mem.Span(q.cfg.Avail, eventArea, 4); err != nil {
		return fmt.Errorf("driver event suppression: %w", err)
	}
	if q.used, err = mem.Span(q.cfg.Used, eventArea, 4); err != nil {
		return fmt.Errorf("device event suppression: %w", err)
	}
	return nil
}
