package csm

// maxInFlight bounds what we believe of a guest's buf_alloc, so that distances
// between 32-bit counters stay unambiguous.
const maxInFlight = 1 << 30

// bytesPerPacket is the share of the guest's buffer that one packet towards it
// may cost: Linux from 6.12.92 on resets a connection once the packets it has
// not read, at some 576 bytes each, outgrow its buffer, however small they are.
const bytesPerPacket = 1024

// maxPackets bounds the record of unacknowledged packets of one connection.
const maxPackets = 1024

// rxCredit tracks what the guest can still take (virtio v1.4 §5.10.6.3).
// Counters are 64 bits wide and extended from the wire's 32, so a window that
// shrinks below what is in flight reads as none, never as a huge one.
type rxCredit struct {
	sent      uint64 // bytes sent to the guest in all
	forwarded uint64 // bytes the guest has consumed in all
	bufAlloc  uint32 // the guest's buffer in bytes
	packets   packetRecord
}

// update takes the credit fields of a packet. A fwd_cnt ahead of what was sent
// or behind what was already acknowledged is a lie and leaves the count as it is.
// It reports whether the guest told anything new.
func (c *rxCredit) update(bufAlloc, fwdCnt uint32) (news bool) {
	bufAlloc = min(bufAlloc, maxInFlight)
	news = bufAlloc != c.bufAlloc
	c.bufAlloc = bufAlloc
	delta := uint64(fwdCnt - uint32(c.forwarded))
	if delta == 0 || delta > c.sent-c.forwarded {
		return news
	}
	c.forwarded += delta
	c.packets.retire(uint32(c.forwarded))
	return true
}

// space returns how many bytes may be sent now.
func (c *rxCredit) space() int {
	free := int64(c.bufAlloc) - int64(c.sent-c.forwarded)
	return int(max(free, 0))
}

// packetSpace returns how many RW packets may be sent now.
func (c *rxCredit) packetSpace() int {
	limit := min(max(1, int(c.bufAlloc/bytesPerPacket)), maxPackets)
	return max(0, limit-c.packets.n)
}

// send accounts for one RW packet of n > 0 bytes.
func (c *rxCredit) send(n int) {
	c.sent += uint64(n)
	c.packets.add(uint32(c.sent))
}

// packetRecord is a ring of the last byte's position of every RW packet that
// the guest has not acknowledged, oldest first.
type packetRecord struct {
	ends []uint32 // a power of two long, or nil
	head int
	n    int
}

func (r *packetRecord) add(end uint32) {
	if r.n == len(r.ends) {
		r.grow()
	}
	r.ends[(r.head+r.n)&(len(r.ends)-1)] = end
	r.n++
}

func (r *packetRecord) retire(forwarded uint32) {
	for r.n > 0 && int32(forwarded-r.ends[r.head]) >= 0 {
		r.head = (r.head + 1) & (len(r.ends) - 1)
		r.n--
	}
}

func (r *packetRecord) grow() {
	ends := make([]uint32, max(8, 2*len(r.ends)))
	for i := range r.n {
		ends[i] = r.ends[(r.head+i)&(len(r.ends)-1)]
	}
	r.ends, r.head = ends, 0
}

// txCredit tracks the buffer space that we offer to the guest.
type txCredit struct {
	received  uint32 // bytes taken from the guest in all, modulo 2^32
	forwarded uint32 // bytes the host program has, or nobody will ever read
	told      uint32 // forwarded as the guest last heard it
	bufAlloc  uint32 // our buffer in bytes
}

// buffered returns how many bytes wait for the host socket.
func (c *txCredit) buffered() uint32 { return c.received - c.forwarded }

// admit accounts for an RW packet and reports whether the guest had the credit.
func (c *txCredit) admit(n uint32) bool {
	if uint64(c.received-c.forwarded)+uint64(n) > uint64(c.bufAlloc) {
		return false
	}
	c.received += n
	return true
}

// updateDue reports whether the guest should hear of the space that came free.
// Linux never asks, so space must be told unsolicited: when the guest sees less
// than one full packet of it, or a quarter of the buffer has come free. Newer
// Linux guests send no further ahead than their own buffer, guestBuf bytes, lets
// them receive, so a small one needs to hear more often.
func (c *txCredit) updateDue(guestBuf uint32) bool {
	delta := c.forwarded - c.told
	if delta == 0 {
		return false
	}
	usable := min(c.bufAlloc, guestBuf)
	seen := int64(usable) - int64(c.received-c.told)
	return seen < MaxPayload || delta >= usable/4
}
