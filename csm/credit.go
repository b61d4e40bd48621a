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
	open      bool   // a message was begun and not ended
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
	c.packets.retire(c.forwarded)
	return true
}

// retireEmpty notes that the guest has read an empty message, if the oldest
// packet that it has not acknowledged is one.
func (c *rxCredit) retireEmpty() { c.packets.retireEmpty(c.forwarded) }

// space returns how many bytes may be sent now.
func (c *rxCredit) space() int {
	free := int64(c.bufAlloc) - int64(c.sent-c.forwarded)
	return int(max(free, 0))
}

// packetSpace returns how many RW packets may be sent now.
func (c *rxCredit) packetSpace() int {
	if c.open {
		return maxPackets
	}
	limit := min(max(1, int(c.bufAlloc/bytesPerPacket)), maxPackets)
	return max(0, limit-c.packets.n)
}

// send accounts for one RW packet of n bytes that ends a message, as every packet
// of a stream does, or else leaves one open.
func (c *rxCredit) send(n int, last bool) {
	c.sent += uint64(n)
	if c.open {
		c.packets.extend(c.sent)
	} else {
		c.packets.add(packetEnd(c.sent, n))
	}
	c.open = !last
}

// packetRecord is a ring of what the guest has not acknowledged, oldest first:
// the packets of a stream, or the messages.
type packetRecord struct {
	runs []packetRun // a power of two long, or nil
	head int
	used int
	n    int // packets of all runs
}

// packetRun is what a guest acknowledges at once: a packet, or all of a message.
type packetRun struct {
	end     uint64 // see packetEnd
	packets int
}

// packetEnd returns twice the position of a packet's last byte, plus 1 where the
// packet has none: that the bytes before an empty message were read does not tell
// that the message was.
func packetEnd(sent uint64, n int) uint64 {
	if n == 0 {
		return 2*sent + 1
	}
	return 2 * sent
}

func (r *packetRecord) add(end uint64) {
	if r.used == len(r.runs) {
		r.grow()
	}
	r.runs[r.at(r.used)] = packetRun{end: end, packets: 1}
	r.used++
	r.n++
}

// extend adds a packet to the last run, which now ends with the byte at sent. If
// the guest lied and has acknowledged it already, there is nothing to extend.
func (r *packetRecord) extend(sent uint64) {
	if r.used == 0 {
		r.add(2 * sent)
		return
	}
	last := &r.runs[r.at(r.used-1)]
	last.end = 2 * sent
	last.packets++
	r.n++
}

func (r *packetRecord) retire(forwarded uint64) {
	for r.used > 0 && r.runs[r.head].end <= 2*forwarded {
		r.pop()
	}
}

func (r *packetRecord) retireEmpty(forwarded uint64) {
	if r.used > 0 && r.runs[r.head].end == packetEnd(forwarded, 0) {
		r.pop()
	}
}

func (r *packetRecord) pop() {
	r.n -= r.runs[r.head].packets
	r.head = r.at(1)
	r.used--
}

// at returns the index of the i-th run, which may be one behind the last.
func (r *packetRecord) at(i int) int { return (r.head + i) & (len(r.runs) - 1) }

func (r *packetRecord) grow() {
	runs := make([]packetRun, max(8, 2*len(r.runs)))
	for i := range r.used {
		runs[i] = r.runs[r.at(i)]
	}
	r.runs, r.head = runs, 0
}

// txCredit tracks the buffer space that we offer to the guest.
type txCredit struct {
	received  uint64 // bytes taken from the guest in all
	forwarded uint32 // bytes the host program has, or nobody will ever read, modulo 2^32
	told      uint32 // forwarded as the guest last heard it
	partial   uint32 // of what is buffered, the beginning of a message without its end
	bufAlloc  uint32 // our buffer in bytes
}

// buffered returns how many bytes wait for the host socket.
func (c *txCredit) buffered() uint32 { return uint32(c.received) - c.forwarded }

// admit accounts for an RW packet and reports whether the guest had the credit.
func (c *txCredit) admit(n uint32) bool {
	if uint64(c.buffered())+uint64(n) > uint64(c.bufAlloc) {
		return false
	}
	c.received += uint64(n)
	return true
}

// admitPiece accounts for the n bytes of a message, which ends with them if last,
// and reports whether the guest can still end it: one that fills the whole buffer
// leaves no credit for its end.
func (c *txCredit) admitPiece(n uint32, last bool) bool {
	if c.partial += n; last {
		c.partial = 0
	}
	return c.partial == 0 || c.partial < c.bufAlloc
}

// forward accounts for n bytes that left, or all if they are fewer. What is
// left when less waits than a message's beginning is the end of that.
func (c *txCredit) forward(n uint32) {
	c.forwarded += min(n, c.buffered())
	c.partial = min(c.partial, c.buffered())
}

// giveUpMessage lets the beginning of a message that will have no end count as
// forwarded.
func (c *txCredit) giveUpMessage() {
	n := c.partial
	c.partial = 0
	c.forward(n)
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
	seen := int64(usable) - int64(uint32(c.received)-c.told)
	return seen < MaxPayload || delta >= usable/4
}
