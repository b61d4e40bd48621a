package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// Pop returns the next chain and appends its ranges to bufs; ok is false when
// the ring is empty, broken or not in memory. Chains are to be pushed in the
// order they were popped, those with Err set too.
func (q *Queue) Pop(bufs *guestmem.Buffers) (c Chain, ok bool) {
	if q.cfg.Packed {
		return q.popPacked(bufs)
	}
	if q.nextAvail == q.availIdx && !q.refresh() {
		return c, false
	}
	c.Head = q.avail.Load16(offRing + availEntry*int(q.nextAvail&q.mask))
	c.startAt(bufs.Len())
	if c.Head >= q.size {
		q.fail(ErrIndex)
		return Chain{}, false
	}
	if err := q.walk(&c, bufs); err != nil && !q.refuse(&c, bufs, err) {
		return Chain{}, false
	}
	if q.trail != nil {
		q.trail.pop(q.mem, bufs, &c)
	}
	q.nextAvail++
	return c, true
}

// Unpop gives back the last n popped chains, to be popped again. They must not
// have been pushed; their ranges are the caller's to truncate.
func (q *Queue) Unpop(n int) {
	if q.trail != nil {
		q.trail.unpop(n)
	}
	if q.cfg.Packed {
		q.unpopPacked(n)
		return
	}
	q.nextAvail -= uint16(n)
	if q.stopped() {
		q.availIdx = q.nextAvail
	}
}

// Empty reports whether there is nothing to pop.
func (q *Queue) Empty() bool {
	if q.cfg.Packed {
		return q.emptyPacked()
	}
	return !q.refresh()
}

// Pending returns how many chains the driver has published that were not popped.
// A packed ring has to be searched for them: Empty is faster.
func (q *Queue) Pending() int { return q.PendingUpTo(q.cfg.Size) }

// PendingUpTo is Pending that counts no further than limit, since a packed ring has to
// be searched.
func (q *Queue) PendingUpTo(limit int) int {
	if q.cfg.Packed {
		return q.pendingPacked(limit)
	}
	if !q.refresh() {
		return 0
	}
	return min(int(q.availIdx-q.nextAvail), limit)
}

// refresh reads avail.idx of a split ring and reports whether there is an entry to
// pop. The load is the acquire to the driver's release of virtio v1.4 §2.7.13.3:
// entries and descriptors are complete.
func (q *Queue) refresh() bool {
	if q.stopped() {
		return false
	}
	idx := q.avail.LoadAcquire16(offIdx)
	if idx-q.nextAvail > q.size { // also when it moved backwards
		q.fail(ErrAvailIdx)
		return false
	}
	q.availIdx = idx
	return idx != q.nextAvail
}

// fail ends the ring: Pop answers nothing any more. Chains that were popped
// before can still be pushed.
func (q *Queue) fail(err error) {
	q.broken = &RingError{NextAvail: uint16(q.Base()), Err: err}
	q.availIdx = q.nextAvail
	q.Stats.Broken.Inc()
	q.OnBroken(q.broken)
}
