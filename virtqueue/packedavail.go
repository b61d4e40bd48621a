package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// popPacked is Pop for a packed ring.
func (q *Queue) popPacked(bufs *guestmem.Buffers) (c Chain, ok bool) {
	if q.emptyPacked() {
		return c, false
	}
	c.startAt(bufs.Len())
	slots, err := q.walkPacked(&c, bufs)
	if err != nil && !q.refuse(&c, bufs, err) {
		return Chain{}, false
	}
	if q.trail != nil {
		q.trail.pop(q.mem, bufs, &c)
	}
	p := &q.packed
	*p.chain(p.popped) = packedChain{slots: uint16(slots)}
	p.popped++
	p.next = p.next.plus(slots, p.size)
	p.slots += slots
	return c, true
}

// emptyPacked is Empty for a packed ring. Where all slots are out, what a driver
// writes into them is nothing.
func (q *Queue) emptyPacked() bool {
	p := &q.packed
	if q.stopped() || p.slots == p.size {
		return true
	}
	_, ok := q.available(p.next)
	return !ok
}

// unpopPacked is Unpop for a packed ring.
func (q *Queue) unpopPacked(n int) {
	p := &q.packed
	for range n {
		p.popped--
		slots := int(p.chain(p.popped).slots)
		p.next = p.next.minus(slots, p.size)
		p.slots -= slots
	}
}

// pendingPacked is PendingUpTo for a packed ring, which has no index to ask: it
// looks at every descriptor. A chain that is cut off counts: it breaks the ring.
func (q *Queue) pendingPacked(limit int) (chains int) {
	if q.stopped() {
		return 0
	}
	p := &q.packed
	at, within := p.next, false
	for range p.size - p.slots {
		d, ok := q.available(at)
		if !ok {
			break
		}
		if !within {
			if chains == limit {
				break
			}
			chains++
		}
		within = d.flags&flagNext != 0
		at = at.plus(1, p.size)
	}
	return chains
}

// walkPacked collects the buffers of the next chain and returns how many slots it
// takes, also where it is unfit to be served. The buffer id, c.Head, is in the
// last descriptor.
//
// A chain that is longer than the slots that are not out runs into itself.
func (q *Queue) walkPacked(c *Chain, bufs *guestmem.Buffers) (slots int, err error) {
	p := &q.packed
	at := p.next
	for slots < p.size-p.slots {
		d, ok := q.available(at)
		if !ok {
			return slots, ErrChainCut
		}
		slots++
		switch {
		case d.flags&flagIndirect != 0 && slots > 1:
			return slots, ErrIndirectNext // virtio v1.4 §2.8.19
		case d.flags&flagIndirect != 0:
			err = q.walkPackedTable(c, bufs, d)
		case err == nil:
			err = q.collect(c, bufs, d)
		}
		if err != nil && !unfit(err) {
			return slots, err
		}
		if d.flags&flagNext == 0 {
			return slots, q.identify(c, d, err)
		}
		at = at.plus(1, p.size)
	}
	return slots, ErrChainLoop
}

// identify takes the buffer id from a chain's last descriptor; err is what is
// wrong with its buffers. The device needs no id, but a driver has no others
// than these (virtio v1.4 §2.8.22.1: assert(id < vq->size)).
func (q *Queue) identify(c *Chain, last descriptor, err error) error {
	if c.Head = last.next; int(c.Head) >= q.packed.size {
		return ErrIndex
	}
	return err
}

// walkPackedTable collects the buffers of the table that ref refers to: all of its
// descriptors, one behind the other. Of their flags WRITE alone means anything
// (virtio v1.4 §2.8.7), but a table in a table is a driver's mistake.
func (q *Queue) walkPackedTable(c *Chain, bufs *guestmem.Buffers, ref descriptor) error {
	n, err := q.checkTable(ref)
	if err != nil {
		return err
	}
	if n > maxIndirect {
		return ErrChainLoop
	}
	for i := range uint64(n) {
		addr, rest, err := fetch(q.mem, ref.addr+i*descriptorSize)
		if err != nil {
			return ErrIndirectTable
		}
		d := descriptor{addr: addr, len: uint32(rest), flags: uint16(rest >> 48)}
		if d.flags&flagIndirect != 0 {
			return ErrIndirectNested
		}
		if err := q.collect(c, bufs, d); err != nil {
			return err
		}
	}
	return nil
}
