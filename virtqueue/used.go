package virtqueue

// Push returns a chain to the driver: written bytes of its writable ranges were
// filled, from the first on. The driver sees it after Publish.
func (q *Queue) Push(head uint16, written uint32) {
	if q.trail != nil {
		q.trail.push(written)
	}
	if q.cfg.Packed {
		q.pushPacked(head, written)
		return
	}
	if q.mem == nil {
		q.lead++ // the chain is lost
		return
	}
	off := offRing + usedElem*int(uint16(q.pushed)&q.mask)
	q.used.Store64(off, uint64(head)|uint64(written)<<32)
	q.logUsed(off, usedElem)
	q.pushed++
}

// Publish makes all pushed chains visible to the driver (virtio v1.4 §2.7.8.2:
// the device MUST set len before updating idx).
func (q *Queue) Publish() {
	if q.cfg.Packed {
		q.publishPacked()
		return
	}
	if q.published == q.pushed || q.mem == nil {
		return
	}
	q.Stats.Chains.Add(uint64(q.pushed - q.published))
	q.published = q.pushed
	q.used.StoreRelease16(offIdx, uint16(q.published))
	q.logUsed(offIdx, 2)
}
