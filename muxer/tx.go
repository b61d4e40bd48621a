package muxer

import (
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"math"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

const (
	// txPacketBudget and txByteBudget bound one turn of the tx ring.
	txPacketBudget = 256
	txByteBudget   = 512 << 10
	// txSocketCost is what a packet that opens or closes a host socket takes of
	// txByteBudget: so much could be written meanwhile.
	txSocketCost = 64 << 10
	// txFewPackets is how many packets may be all that the guest's credit allows.
	txFewPackets = 8
	// txBatchChains and txBatchRanges bound what one write carries; the kernel
	// takes 1024 ranges at once.
	txBatchChains = txPacketBudget
	txBatchRanges = 1024 - 64
)

// stall says what the tx ring waits for.
type stall uint8

const (
	stallNone    stall = iota
	stallReplies       // RSTs to leave
	stallBuffers       // host programs to read
)

// txBatch is a run of RW packets of one connection that one write carries.
type txBatch struct {
	conn     *conn // nil when empty
	from, to int   // their payload in txBufs
	end      bool  // they end a message
	heads    [txBatchChains]uint16
	n        int
}

// serveTx takes packets from the tx ring, a bounded number, and reports whether
// more can be taken at once. The last turn, before the ring stops, takes all that
// the driver has published by now and waits for nothing.
func (m *Muxer) serveTx(last bool) (more bool) {
	m.txFaulted = true
	more = m.takeTx(last)
	m.flushBatch()
	m.txFaulted = false // guest memory has not gone away under it
	return more
}

func (m *Muxer) takeTx(last bool) (more bool) {
	packets, bytes := txPacketBudget, m.txTurn()
	if last {
		packets, bytes = m.tx.Pending(), math.MaxInt
	}
	for {
		if packets == 0 || bytes <= 0 {
			return true
		}
		if last && m.ready.ResetsFull() {
			return true // what is left stays published, for a driver that goes on
		}
		if !last && m.waitTx() {
			return false
		}
		if m.batch.conn == nil {
			m.txBufs.Reset()
		}
		chain, ok := m.tx.Pop(&m.txBufs)
		if !ok {
			m.flushBatch() // meanwhile the driver may have gone on
			if m.tx.Empty() {
				m.dropFormer()
				return false
			}
			continue
		}
		m.takeChain(&chain)
		packets--
		bytes -= m.txCost(&chain)
	}
}

// txTurn returns how many bytes one turn takes, more or less. A guest that sends large
// packets by one connection has little in the ring, its credit allows no more; so half
// of that is taken and told, and the guest sends on while the rest is written.
func (m *Muxer) txTurn() int {
	if m.tx.PendingUpTo(txFewPackets+1) <= txFewPackets {
		return window / 2
	}
	return txByteBudget
}

// txCost returns what the packet that was just taken from chain, whose header is m.hdr,
// costs of a turn's bytes. At the end of the turn the driver hears of those that were
// answered, and goes on with them.
func (m *Muxer) txCost(chain *virtqueue.Chain) int {
	switch m.hdr.Op {
	case csm.OpRequest, csm.OpShutdown, csm.OpRST:
		return txSocketCost
	}
	return int(chain.ReadBytes)
}

// waitTx reports whether the tx ring has to wait, and counts when it begins to.
func (m *Muxer) waitTx() bool {
	s := m.txStallNow()
	if s != m.txStall {
		m.setTxStall(s)
		switch s {
		case stallReplies:
			m.stats.ReplyStalls.Inc()
		case stallBuffers:
			m.stats.BufferStalls.Inc()
		}
	}
	return s != stallNone
}

func (m *Muxer) txStallNow() stall {
	switch {
	case m.ready.Resets() >= replyLimit:
		return stallReplies
	case m.pool.Held() >= m.cfg.MaxBuffered:
		return stallBuffers
	}
	return stallNone
}

// takeChain handles one chain of the tx ring. Chains go back to the driver in
// the order in which they came (VIRTIO_F_IN_ORDER), so one that is not part of
// the batch ends the batch.
func (m *Muxer) takeChain(chain *virtqueue.Chain) {
	m.hdr.Op = csm.OpInvalid // until it is parsed
	if drop, bad := m.parse(chain); bad {
		m.stats.Drops[drop].Inc()
		m.finishChain(chain)
		return
	}
	h := &m.hdr
	m.countTx(h)
	if !m.cid.belongs(h.SrcCID) {
		m.misbehaves(h, "packet with a source that is not the guest is dropped")
		m.stats.Drops[DropSourceCID].Inc()
		m.finishChain(chain)
		return
	}
	k := key{guest: h.SrcPort, host: h.DstPort}
	c := m.batch.conn // most often the packet's too
	if c == nil || c.key != k {
		c = m.table[k]
	}
	if c == nil || h.DstCID != csm.HostCID || h.Type != c.typ {
		m.finishChain(chain)
		m.stray(h, k)
		return
	}
	if h.Op == csm.OpRW {
		m.receiveRW(c, h, chain)
		return
	}
	m.finishChain(chain)
	m.receive(c, h)
}

// parse copies the header into m.hdr, once, and leaves the chain's ranges with
// the payload alone (virtio v1.4 §2.7.4: framing is the driver's choice).
func (m *Muxer) parse(chain *virtqueue.Chain) (Drop, bool) {
	if chain.Err != nil || chain.Split != chain.To {
		return DropChain, true
	}
	if chain.ReadBytes < csm.HeaderSize {
		m.traceShort(chain)
		return DropShort, true
	}
	b := &m.txBufs
	b.CopyOut(chain.From, chain.To, m.wire[:])
	m.hdr.Decode(&m.wire)
	m.traceTx(chain)
	if m.hdr.Op != csm.OpRW {
		return 0, false // len means nothing here
	}
	if m.hdr.Len > csm.MaxPayload || uint64(m.hdr.Len) > chain.ReadBytes-csm.HeaderSize {
		m.rejectPayload(chain)
		return DropLength, true
	}
	b.Skip(chain.From, chain.To, csm.HeaderSize)
	chain.To = b.Limit(chain.From, chain.To, uint64(m.hdr.Len))
	b.Truncate(chain.To) // the next chain of a batch follows on what is payload
	return 0, false
}

// rejectPayload resets the connection of a packet whose payload is not what its
// header says: with bytes missing, the stream is broken.
func (m *Muxer) rejectPayload(chain *virtqueue.Chain) {
	k := key{guest: m.hdr.SrcPort, host: m.hdr.DstPort}
	c := m.table[k]
	if c != nil && m.cid.belongs(m.hdr.SrcCID) && m.hdr.DstCID == csm.HostCID && m.hdr.Type == c.typ {
		m.flushBatch()
		m.kill(c, ResetViolation)
	}
}

func (m *Muxer) countTx(h *csm.Header) {
	m.stats.TxPackets[min(int(h.Op), len(Ops)-1)].Inc()
}

// finishChain ends the batch and gives a chain that is not part of it back.
func (m *Muxer) finishChain(chain *virtqueue.Chain) {
	m.flushBatch()
	m.tx.Push(chain.Head, 0)
}

// stray answers a packet that belongs to no connection of the table: a REQUEST
// opens one, anything else is told that there is none. An RST is never answered
// (virtio v1.4 §5.10.6.4).
func (m *Muxer) stray(h *csm.Header, k key) {
	m.notLost(h, k)
	_, known := m.table[k]
	switch {
	case h.Op == csm.OpRST:
		m.stats.Drops[DropOrphanRST].Inc()
	case !m.knows(h.Type) || known && h.DstCID == csm.HostCID:
		m.pushReset(resetFor(h), ResetType)
	case h.DstCID != csm.HostCID:
		m.pushReset(resetFor(h), ResetCID)
	case h.Op == csm.OpRequest:
		m.request(h, k)
	default:
		m.pushReset(resetFor(h), ResetOrphan)
	}
}

// misbehaves logs a packet that no good driver sends.
func (m *Muxer) misbehaves(h *csm.Header, message string) {
	log, ok := m.sites.guest.Entry(m.log, m.loop.Now())
	if !ok {
		return
	}
	log.WithFields(logrus.Fields{
		"op": h.Op.String(), "guest_port": h.SrcPort, "host_port": h.DstPort, "src_cid": h.SrcCID, "dst_cid": h.DstCID,
	}).Warn(message)
}

// receive handles any packet but RW of a known connection.
func (m *Muxer) receive(c *conn, h *csm.Header) {
	connecting := c.State() == csm.Connecting
	switch c.Receive(h) {
	case csm.Opened:
		m.opened(c)
	case csm.Shut:
		if c.GuestShut()&csm.ShutdownSend != 0 {
			m.dropBegun(c)
		}
	case csm.Gone:
		if connecting {
			c.answered(AnswerRST)
			m.turnedAway(c, HandshakeRefused)
		}
	case csm.Violated:
		m.misbehaves(h, "packet that its connection forbids ends it")
		c.reason = ResetViolation
		if h.Op == csm.OpRequest {
			c.reason = ResetDuplicate
		}
	}
	m.settle(c)
}

// receiveRW handles payload: it joins the batch when it can be written at once,
// is copied when the host socket still owes a write, or is dropped when nobody
// reads.
func (m *Muxer) receiveRW(c *conn, h *csm.Header, chain *virtqueue.Chain) {
	reaction := c.Receive(h)
	m.txHold.payloadTaken(c)
	if reaction == csm.Payload {
		m.countPayload(h)
		if c.takesNow() {
			m.addToBatch(c, chain, h.EndsMessage())
			return
		}
	}
	if reaction == csm.Violated {
		m.misbehaves(h, "packet that its connection forbids ends it")
		c.reason = ResetViolation
	}
	m.flushBatch()
	switch reaction {
	case csm.Payload:
		m.keep(c, chain.From, chain.To, h.EndsMessage())
	case csm.Discarded:
		m.stats.Discarded.Add(uint64(h.Len))
	}
	m.finishChain(chain)
	m.settle(c)
}

func (m *Muxer) countPayload(h *csm.Header) {
	m.stats.TxBytes.Add(uint64(h.Len))
	if h.EndsMessage() {
		m.stats.TxMessages.Inc()
	}
}

// takesNow reports whether payload may be written to the host socket at once.
func (c *conn) takesNow() bool {
	return !c.deaf && !c.blocked && c.fd >= 0 && c.empty() && c.mayWrite()
}

// addToBatch makes payload part of the next write, which the end of a message
// ends. The batch owns its chain.
func (m *Muxer) addToBatch(c *conn, chain *virtqueue.Chain, end bool) {
	b := &m.batch
	if b.conn != nil && (b.conn != c || b.n == txBatchChains || chain.To-b.from > txBatchRanges) {
		m.flushBatch()
	}
	if b.conn == nil {
		b.conn, b.from, b.n = c, chain.From, 0
	}
	b.to, b.end = chain.To, end
	b.heads[b.n] = chain.Head
	b.n++
	if end {
		m.flushBatch()
	}
}

// flushBatch writes the batch to its host socket and gives its chains back. What
// the socket does not take is copied.
func (m *Muxer) flushBatch() {
	b := &m.batch
	c := b.conn
	if c == nil {
		return
	}
	b.conn = nil
	if !c.takesNow() || !c.write(b.from, b.to, b.end) {
		m.keep(c, b.from, b.to, b.end)
	}
	for _, head := range b.heads[:b.n] {
		m.tx.Push(head, 0)
	}
	m.settle(c)
}

// hostRefuses acts on a write of guest memory ranges that failed.
func (m *Muxer) hostRefuses(c *conn, from, to int, err error) {
	if errno(err) == unix.EFAULT {
		m.txBufs.Touch(from, to) // the guest's memory is gone: end the session
	}
	m.writeFailed(c, err)
}

// keep copies payload that the host socket does not take now; when the program
// reads no more, it counts as forwarded instead.
func (m *Muxer) keep(c *conn, from, to int, end bool) {
	if c.deaf || c.fd < 0 {
		m.discard(c, int(m.txBufs.Bytes(from, to)))
		return
	}
	c.keep(from, to, end)
}

// discard counts bytes of the guest that no program will ever read.
func (m *Muxer) discard(c *conn, n int) {
	c.Forwarded(n)
	m.stats.Discarded.Add(uint64(n))
}
