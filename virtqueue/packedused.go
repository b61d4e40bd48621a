package virtqueue

// pushPacked is Push for a packed ring. Nothing is written before Publish, so
// that no chain is lost where the ring is not in memory.
func (q *Queue) pushPacked(id uint16, written uint32) {
	p := &q.packed
	c := p.chain(p.pushed)
	c.id, c.written = id, written
	p.pushed++
}

// publishPacked is Publish for a packed ring: one used descriptor for each chain,
// in the first of its slots.
func (q *Queue) publishPacked() {
	if q.mem == nil {
		return
	}
	p := &q.packed
	q.Stats.Chains.Add(p.pushed - p.published)
	for ; p.published != p.pushed; p.published++ {
		c := p.chain(p.published)
		q.putUsed(p.used, c)
		p.used = p.used.plus(int(c.slots), p.size)
		p.slots -= int(c.slots)
		q.published += uint32(c.slots)
	}
}

// putUsed writes the used descriptor of a chain: its flags last, for they give it
// to the driver (virtio v1.4 §2.8.13). Its address stays.
func (q *Queue) putUsed(at place, c *packedChain) {
	flags := at.marksUsed()
	if c.written > 0 {
		flags |= flagWrite // virtio v1.4 §2.8.4: data was written
	}
	off := at.slot() * descriptorSize
	q.desc.Store32(off+offLen, c.written)
	q.desc.Store16(off+offID, c.id)
	q.desc.StoreRelease16(off+offDescFlags, flags)
	if q.usedLog != nil {
		q.usedLog.Mark(q.cfg.Desc+uint64(off+offLen), descriptorSize-offLen)
	}
}
