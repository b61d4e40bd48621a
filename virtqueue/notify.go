package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// availNoInterrupt in avail.flags says that the driver wants no interrupt. It is
// in use without VIRTIO_F_EVENT_IDX.
const availNoInterrupt = 1

// NotifyIfNeeded publishes what was pushed and interrupts the driver if it asked
// to hear about any of it. Called once a batch, it interrupts at most once.
func (q *Queue) NotifyIfNeeded() {
	q.Publish()
	batch := q.published - q.considered
	if batch == 0 || q.mem == nil {
		return
	}
	wanted := q.wantsInterrupt(batch)
	q.considered = q.published
	if !wanted {
		q.Stats.Suppressed.Inc()
		return
	}
	q.notified = true
	q.Stats.Notified.Inc()
	q.Interrupt()
}

// Unannounced returns how many entries of a split ring, or descriptors of a packed
// one, were published since NotifyIfNeeded.
func (q *Queue) Unannounced() int { return int(q.published - q.considered) }

// wantsInterrupt decides as virtio v1.4 §2.7.7.2 has it. The first batch after a
// start is always announced: what the driver saw before is not known.
func (q *Queue) wantsInterrupt(batch uint32) bool {
	if !q.notified || batch > 0xffff {
		return true
	}
	// used.idx, or used descriptors, before the driver's wish: it writes its wish,
	// fences, and looks at them again. One of us sees the other, else a wake-up is
	// lost.
	guestmem.Fence()
	if q.cfg.Packed {
		return q.wantsInterruptPacked(int(batch))
	}
	if q.cfg.EventIdx {
		return needEvent(q.avail.LoadAcquire16(offRing+availEntry*int(q.size)), uint16(q.published), uint16(q.considered))
	}
	return q.avail.LoadAcquire16(offFlags)&availNoInterrupt == 0
}

// needEvent reports whether the index that moved from before to now passed
// event: event is one of the entries [before, now).
func needEvent(event, now, before uint16) bool { return now-event-1 < now-before }

// ArmKick asks the driver to kick when it publishes an entry. more means that
// one is there already, for which no kick may come: pop it before sleeping.
func (q *Queue) ArmKick() (more bool) {
	if q.stopped() {
		return false
	}
	switch {
	case q.cfg.Packed:
		q.armPacked()
	case q.cfg.EventIdx:
		off := offRing + usedElem*int(q.size)
		q.used.StoreRelease16(off, q.nextAvail)
		q.logUsed(off, 2)
	default:
		q.used.StoreRelease16(offFlags, 0)
		q.logUsed(offFlags, 2)
	}
	// Our wish before avail.idx, or the next descriptor's flags: the driver writes
	// these, fences, and reads our wish (virtio v1.4 §2.7.10, §2.7.13.4, §2.8.21.2).
	// One of us sees the other.
	guestmem.Fence()
	return !q.Empty()
}
