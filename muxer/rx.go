package muxer

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

const (
	// rxPacketBudget and rxByteBudget bound one turn of the rx ring; see rxTurn.
	rxPacketBudget = 256
	rxByteBudget   = 512 << 10
	// rxBatchChains bounds how many receive buffers one read fills.
	rxBatchChains = 80
	// rxBatchRanges bounds the ranges of one read before the last buffer, and
	// rxRanges with it: the kernel takes no more.
	rxBatchRanges = rxRanges - 128
	rxRanges      = 1024
)

// A guest that was asked for credit is asked again, less and less often, while
// host bytes wait for it: soon where its unread packets are what is in the way,
// for older Linux guests tell of bytes only; late where its buffer is full, of
// which Linux tells unasked and others may not.
const (
	minAskPackets = 5 * time.Millisecond
	maxAskPackets = 160 * time.Millisecond
	minAskBytes   = 250 * time.Millisecond
	maxAskBytes   = 4 * time.Second
)

// rxSlot is a receive buffer that was popped and is to take one packet.
type rxSlot struct {
	head           uint16
	headFrom       int // the header's ranges in rxHead
	headTo         int
	room           int // payload bytes
	ranges, rangeN int // the payload's ranges in rxBufs
}

// serveRx sends what is due to the guest, a bounded amount, each connection in
// its turn, and reports whether more can be sent at once.
func (m *Muxer) serveRx() (more bool) {
	bytes := rxByteBudget
	m.rxLeft, m.rxUnfit = m.rxTurn(), m.rx.Size()
	for m.rxLeft > 0 && bytes > 0 && m.rxUnfit > 0 {
		if m.ready.Len() == 0 {
			if m.ready.Synced() {
				return false
			}
			m.resync()
			continue
		}
		if m.rx.Empty() && !m.awaitBuffers() {
			return false
		}
		item, _ := m.ready.Pop()
		p, b := m.serve(item)
		m.rxLeft -= max(p, 1)
		bytes -= b
	}
	return true
}

// rxTurn returns how many packets one turn sends: the driver is interrupted at its end,
// and is to take them and post their buffers again while the next turn goes on. Linux
// posts none before half of the ring is taken. Where connections share the ring, smaller
// pieces keep it moving: with 16 of them a quarter carries a fifth more bytes than half,
// and an eighth fewer again.
func (m *Muxer) rxTurn() int {
	share := 2
	if m.ready.Len() > 1 {
		share = 4
	}
	return min(rxPacketBudget, m.rx.Size()/share+1)
}

// awaitBuffers asks for a kick when the driver adds receive buffers, and reports
// whether it has added some meanwhile.
func (m *Muxer) awaitBuffers() bool {
	if m.rx.ArmKick() {
		return true
	}
	if !m.rxWait.runs && m.rxAwaited() {
		m.setRxStall(true)
		m.stats.RxRingStalls.Inc()
	}
	return false
}

// serve gives one item its turn: one control packet, or one read's worth of
// payload. It returns what it took of the turn's budget.
func (m *Muxer) serve(item rxItem) (packets, bytes int) {
	c := item.conn
	if c == nil {
		return m.sendReset(item), 0
	}
	c.queued = false
	m.leaveTurn(c)
	if c.stage != stageOpen {
		return 0, 0
	}
	if c.Due(m.pressed()) {
		return m.sendControl(c), 0
	}
	if c.wantsRead() {
		return c.pump()
	}
	return 0, 0
}

func (m *Muxer) sendReset(item rxItem) int {
	chain, ok := m.takeRx()
	if !ok {
		m.ready.PushReset(item)
		return 0
	}
	r := item.reset
	m.hdr = csm.Header{
		SrcCID: r.cid, DstCID: m.cid.active, SrcPort: r.key.host, DstPort: r.key.guest,
		Type: r.typ, Op: csm.OpRST,
	}
	m.sendHeader(chain)
	return 1
}

func (m *Muxer) sendControl(c *conn) int {
	chain, ok := m.takeRx()
	if !ok {
		m.schedule(c)
		return 0
	}
	m.address(c)
	c.Next(&m.hdr, m.pressed())
	m.sendHeader(chain)
	m.sent(c, m.hdr.Op)
	m.settle(c)
	return 1
}

// sent starts the clock for what the guest has to answer.
func (m *Muxer) sent(c *conn, op csm.Op) {
	switch {
	case op == csm.OpResponse:
		c.answered(AnswerResponse)
	case op == csm.OpRequest:
		c.requested()
		c.asked, c.hostAt = true, c.waitUntil
		m.afterGuest(c, requestTimeout)
	case op == csm.OpShutdown && c.State() == csm.Closing:
		m.afterGuest(c, shutdownTimeout)
	}
}

// address fills the fields of m.hdr that are the same for every packet of c.
func (m *Muxer) address(c *conn) {
	m.hdr = csm.Header{
		SrcCID: csm.HostCID, DstCID: m.cid.active, SrcPort: c.key.host, DstPort: c.key.guest, Type: c.typ,
	}
}

// takeRx pops the next receive buffer that holds a header. Others go back unused,
// a ring's worth in a turn at most: a driver may add them as fast.
func (m *Muxer) takeRx() (virtqueue.Chain, bool) {
	for m.rxUnfit > 0 {
		m.rxBufs.Reset()
		chain, ok := m.rx.Pop(&m.rxBufs)
		if !ok || usable(&chain) {
			return chain, ok
		}
		m.returnUnfit(&chain)
	}
	return virtqueue.Chain{}, false
}

func (m *Muxer) returnUnfit(chain *virtqueue.Chain) {
	m.rx.Push(chain.Head, 0)
	m.rxUnfit--
}

func usable(chain *virtqueue.Chain) bool {
	return chain.Err == nil && chain.Split == chain.From && chain.WriteBytes >= csm.HeaderSize
}

// sendHeader puts m.hdr into a receive buffer and uses it.
func (m *Muxer) sendHeader(chain virtqueue.Chain) {
	m.hdr.Encode(&m.wire)
	m.rxBufs.CopyIn(chain.From, chain.To, m.wire[:])
	m.traceRx(0, 0, 0)
	m.rx.Push(chain.Head, csm.HeaderSize)
	m.stats.RxPackets[m.hdr.Op].Inc()
}

// reserve pops receive buffers for up to n bytes of payload in at most packets
// packets, the first 44 bytes of each kept for its header. It returns how many
// bytes there is room for.
func (m *Muxer) reserve(n, packets int) (room int) {
	m.rxTake = m.rxTake[:0]
	m.rxBufs.Reset()
	m.rxHead.Reset()
	for room < n && m.rxUnfit > 0 && len(m.rxTake) < min(packets, rxBatchChains) && m.rxBufs.Len() < rxBatchRanges {
		chain, ok := m.rx.Pop(&m.rxBufs)
		if !ok {
			break
		}
		if !usable(&chain) || chain.WriteBytes == csm.HeaderSize {
			m.rxBufs.Truncate(chain.From)
			if len(m.rxTake) > 0 {
				m.rx.Unpop(1) // buffers are used in order; this one's turn comes
				break
			}
			m.returnUnfit(&chain)
			continue
		}
		room += m.reserveSlot(&chain, n-room)
	}
	return room
}

// reserved returns the end of the reserved room in rxBufs, which it begins.
func (m *Muxer) reserved() int {
	last := &m.rxTake[len(m.rxTake)-1]
	return last.ranges + last.rangeN
}

// reserveSlot keeps a chain's first 44 bytes aside and leaves up to n bytes of
// room behind them; it returns how much. Of a chain in very many pieces only those
// count that fit into one read: a message is not received by two.
func (m *Muxer) reserveSlot(chain *virtqueue.Chain, n int) int {
	s := rxSlot{head: chain.Head, headFrom: m.rxHead.Len(), ranges: chain.From}
	s.room = min(n, csm.MaxPayload, int(min(chain.WriteBytes, 1<<30))-csm.HeaderSize)
	m.rxHead.AppendHead(&m.rxBufs, chain.From, chain.To, csm.HeaderSize)
	s.headTo = m.rxHead.Len()
	m.rxBufs.Skip(chain.From, chain.To, csm.HeaderSize)
	end := m.rxBufs.Limit(chain.From, chain.To, uint64(s.room))
	if end > rxRanges {
		end = rxRanges
		s.room = int(m.rxBufs.Bytes(chain.From, end))
	}
	s.rangeN = end - chain.From
	m.rxBufs.Truncate(end)
	m.rxTake = append(m.rxTake, s)
	return s.room
}

// fill heads the n bytes that were read into the reserved buffers, uses the
// buffers that got some, gives the others back, and returns how many it used. end
// tells that a message ends with the last byte.
func (m *Muxer) fill(c *conn, n int, end bool) (packets int) {
	m.stats.RxBytes.Add(uint64(n))
	m.address(c)
	hold := m.pressed()
	for _, s := range m.rxTake {
		if n == 0 {
			break
		}
		size := min(n, s.room)
		c.SendRW(&m.hdr, size, end && size == n, hold)
		m.hdr.Encode(&m.wire)
		m.rxHead.CopyIn(s.headFrom, s.headTo, m.wire[:])
		m.traceRx(s.ranges, s.ranges+s.rangeN, size)
		m.rx.Push(s.head, uint32(csm.HeaderSize+size))
		n -= size
		packets++
	}
	m.rx.Unpop(len(m.rxTake) - packets)
	m.stats.RxPackets[csm.OpRW].Add(uint64(packets))
	return packets
}

// stall has the bytes of a host socket wait for the guest's credit.
func (m *Muxer) stall(c *conn) {
	c.setStalled(true)
	if c.PacketBound() {
		m.stats.PacketStalls.Inc()
		c.askAfter = minAskPackets
	} else {
		m.stats.CreditStalls.Inc()
		c.askAfter = minAskBytes
	}
	c.AskCredit()
	m.afterGuest(c, c.askAfter)
	m.settle(c)
}

// askAgain asks a guest anew whose program had not read when it answered: it may
// not tell of its own accord when it has.
func (m *Muxer) askAgain(c *conn) {
	if c.PacketBound() {
		c.askAfter = min(2*c.askAfter, maxAskPackets)
	} else {
		c.askAfter = min(2*c.askAfter, maxAskBytes)
	}
	c.AskCreditAgain()
	m.afterGuest(c, c.askAfter)
	m.settle(c)
}

// readFailed acts on a read that brought nothing. ECONNRESET only tells that the
// program closed with bytes of ours unread; what it sent comes before or after.
func (m *Muxer) readFailed(c *conn, err error) {
	switch errno(err) {
	case 0:
		m.hostEnded(c)
	case unix.EAGAIN:
		c.readable = false
	case unix.ECONNRESET:
		m.schedule(c)
	case unix.ENOBUFS, unix.ENOMEM:
		m.awaitMemory(c)
	case unix.EFAULT:
		m.rxBufs.Touch(0, m.rxBufs.Len()) // the guest's memory is gone: end the session
		fallthrough
	default:
		m.sites.host.Warn(m.log, m.loop.Now(), "a host socket failed", err)
		m.kill(c, ResetHost)
	}
}
