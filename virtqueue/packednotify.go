package virtqueue

// An event suppression area (virtio v1.4 §2.8.14): a place, and what to do when a
// descriptor there is made available or used.
const (
	offEventPlace = 0
	offEventFlags = 2
	eventArea     = 4 // bytes
)

// Flags of an event suppression area; the other bits are reserved.
const (
	eventEnable  = 0
	eventDisable = 1
	eventDesc    = 2 // at the place only, with VIRTIO_F_EVENT_IDX
	eventMask    = 3
)

// wantsInterruptPacked decides about the descriptors of the last batch slots as
// virtio v1.4 §2.8.10 has it.
func (q *Queue) wantsInterruptPacked(batch int) bool {
	// The place behind the flags: the driver writes it before them.
	switch q.avail.LoadAcquire16(offEventFlags) & eventMask {
	case eventDisable:
		return false
	case eventDesc:
		return !q.cfg.EventIdx || q.packed.passed(place(q.avail.LoadAcquire16(offEventPlace)), batch)
	default:
		return true
	}
}

// passed reports whether event is one of the last batch slots that were used. A
// batch of more than a lap has passed them all.
func (p *packedRing) passed(event place, batch int) bool {
	back := p.used.slot() - event.slot() // how long ago it was, in slots
	if (p.used^event)&wrapCounter != 0 {
		back += p.size
	}
	return 0 < back && back <= batch || batch > p.size
}

// armPacked writes the wish for a kick.
func (q *Queue) armPacked() {
	if q.cfg.EventIdx {
		q.used.StoreRelease16(offEventPlace, uint16(q.packed.next))
		q.used.StoreRelease16(offEventFlags, eventDesc)
	} else {
		q.used.StoreRelease16(offEventFlags, eventEnable)
	}
	q.logUsed(0, eventArea)
}
