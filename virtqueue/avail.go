package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// Pop returns the next chain and appends its ranges to bufs; ok is false when
// the ring is empty, broken or not in memory. Chains are to be pushed in the
// order they were popped, those with Err set too.
func (q *Queue) Pop(bufs *guestmem.Buffers) (c Chain, ok bool) {
	if q.nextAvail == q.availIdx && !q.refresh() {
		return Chain{}, false
	}
	from := bufs.Len()
	c = Chain{Head: q.avail.Load16(offRing + availEntry*int(q.nextAvail&q.mask)), From: from, Split: from, To: from}
	if c.Head >= q.size {
		q.fail(ErrIndex)
		return Chain{}, false
	}
	if err := q.walk(&c, bufs); err != nil {
		bufs.Truncate(from)
		if q.trail != nil {
			q.trail.cut()
		}
		if !unfit(err) {
			q.fail(err)
			return Chain{}, false
		}
		q.Stats.BadChains.Inc()
		c = Chain{Head: c.Head, From: from, Split: from, To: from, Err: err}
	}
	if q.trail != nil {
		q.trail.end()
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
	q.nextAvail -= uint16(n)
	if q.stopped() {
		q.availIdx = q.nextAvail
	}
}

// Pending returns how many entries the driver has published that were not popped.
func (q *Queue) Pending() int {
	if !q.refresh() {
		return 0
	}
	return int(q.availIdx - q.nextAvail)
}

// refresh reads avail.idx and reports whether there is an entry to pop. The load
// is the acquire to the driver's release of virtio v1.4 §2.7.13.3: entries and
// descriptors are complete.
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
	q.broken = &RingError{NextAvail: q.nextAvail, Err: err}
	q.availIdx = q.nextAvail
	q.Stats.Broken.Inc()
	q.OnBroken(q.broken)
}
