package device

import (
	"slices"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// userAddr is where the frontend has a guest address.
func userAddr(gpa uint64) uint64 { return virtqueuetest.UserAddr(gpa) }

const (
	guestCID = 3
	rooms    = 24
	roomSize = csm.HeaderSize + csm.MaxPayload
	// maxDrivers bounds the descriptors of former rings, which end with the test.
	maxDrivers = 32
)

// ring is a driver's ring with the memory of its chains.
type ring struct {
	*virtqueuetest.Ring
	index    int
	rooms    []uint64        // guest addresses of rooms without a packet
	held     map[uint32]room // by head: what the device has
	at       uint32          // where it starts next, as the frontend knows it
	running  bool            // as the frontend sees it
	disabled bool            // likewise
	called   bool            // by VHOST_USER_BACKEND_VRING_CALL
	armed    bool            // the device must interrupt when it uses a chain
	seen     uint16          // how far the driver has seen chains used
	used     bool            // the device has used more
	usedAt   time.Duration   // when that was noted, by the loop's clock
}

// room is a chain's memory.
type room struct {
	gpa      uint64
	writable uint32 // bytes
}

// newRing returns ring i; old, if not nil, is the one whose place it takes.
func (m *machine) newRing(i int, old *ring) *ring {
	o := m.options
	r := &ring{index: i, held: make(map[uint32]room)}
	if old != nil {
		c := old.Config()
		o.Desc, o.Avail, o.Used = c.Desc, c.Avail, c.Used
		clear(m.mem.Bytes(o.Desc, 16*uint64(c.Size)))
		r.rooms = old.rooms
		for _, held := range old.held {
			r.rooms = append(r.rooms, held.gpa)
		}
		slices.Sort(r.rooms) // for the same program has the same ones each time
		m.baseline.fds += 2  // the old ones end with the test
	} else {
		for range rooms {
			r.rooms = append(r.rooms, m.mem.Alloc(roomSize, pageSize))
		}
	}
	r.Ring = virtqueuetest.NewRing(m.t, m.mem, o)
	r.at = r.Base()
	return r
}

// add adds a chain of n bytes in the given number of pieces, and returns its
// room; ok is false where there is none left.
func (r *ring) add(n, pieces int, write bool) (gpa uint64, ok bool) {
	pieces = min(pieces, n)
	if len(r.rooms) == 0 || r.Free() < pieces {
		return 0, false
	}
	gpa = r.rooms[len(r.rooms)-1]
	r.rooms = r.rooms[:len(r.rooms)-1]
	var segs []virtqueuetest.Segment
	for i := range pieces {
		from, to := n*i/pieces, n*(i+1)/pieces
		segs = append(segs, virtqueuetest.Segment{Addr: gpa + uint64(from), Len: uint32(to - from), Write: write})
	}
	direct := len(segs)
	if r.Config().Indirect && pieces > 1 {
		direct = 0
	}
	held := room{gpa: gpa}
	if write {
		held.writable = uint32(n)
	}
	r.held[uint32(r.AddMixed(direct, segs...))] = held
	return gpa, true
}

// kick makes what was added available, and kicks if the device wants it.
func (m *machine) kick(r *ring) {
	if !m.inBand {
		r.Kick()
		return
	}
	r.Publish()
	if r.ShouldKick() {
		m.forceKick(r)
	}
}

// forceKick kicks the device, wanted or not. Where a message does it, it would
// start a ring that was stopped.
func (m *machine) forceKick(r *ring) {
	switch {
	case !m.inBand:
		r.ForceKick()
	case r.running:
		m.tell(vhostuser.MsgVringKick, vhostusertest.State(uint32(r.index), 0))
	}
}

// takeAll takes the chains back that the device has used, and checks that it has
// interrupted the driver where that was due.
func (m *machine) takeAll(r *ring, taken func(gpa uint64, n uint32)) {
	interrupted := r.Interrupts() > 0 || r.called
	r.called = false
	for armed := r.armed; ; armed = false {
		for {
			e, ok := r.Used()
			if !ok {
				break
			}
			if armed && !interrupted && !m.mayHold(r) && !m.wild && !r.disabled && r.running {
				m.t.Fatalf("ring %d: a chain was used without an interrupt", r.index)
			}
			if _, held := r.held[e.ID]; !held && m.wild {
				m.goHostile() // the frontend said that the ring begins elsewhere
				return
			}
			gpa := m.take(r, e)
			taken(gpa, e.Len)
		}
		if r.armed = true; !r.ArmInterrupt() {
			r.seen, r.used = r.UsedIdx(), false
			return
		}
	}
}

// How long the device may hold an interrupt of the tx ring, and one of the rx ring as long
// as it has not rested.
const (
	txHoldLimit = time.Millisecond
	rxHoldLimit = 50 * time.Microsecond
)

// noteUsed notes when the device has used a chain that the driver has not seen.
func (m *machine) noteUsed() {
	m.served = m.now
	for _, index := range [...]int{vhostusertest.RxIndex, vhostusertest.TxIndex} {
		if r := m.rings[index]; !m.wild && !r.used && r.UsedIdx() != r.seen {
			r.used, r.usedAt = true, m.now
		}
	}
}

// mayHold reports whether the device may still hold the interrupt for a used chain.
func (m *machine) mayHold(r *ring) bool {
	switch held := m.served - r.usedAt; r.index {
	case vhostusertest.TxIndex:
		return !r.used || held < txHoldLimit
	case vhostusertest.RxIndex:
		return !m.rested && (!r.used || held < rxHoldLimit)
	}
	return false
}

// take takes a chain back.
func (m *machine) take(r *ring, e virtqueuetest.Elem) (gpa uint64) {
	held, ok := r.held[e.ID]
	if !ok {
		m.t.Fatalf("ring %d: chain %d was used, which the device did not have", r.index, e.ID)
	}
	if e.Len > held.writable {
		m.t.Fatalf("ring %d: %d bytes written into a chain of %d", r.index, e.Len, held.writable)
	}
	delete(r.held, e.ID)
	r.rooms = append(r.rooms, held.gpa)
	m.moved++
	m.checkLogged(r, held.gpa, e.Len)
	return held.gpa
}

// conn is a connection as the guest sees it.
type conn struct {
	guest, host uint32
	typ         csm.Type
	stream              // towards the host
	open        bool    // the host is there
	left        bool    // the guest is there no more, without a word
	misused     bool    // the guest, or what happened to it, broke a rule
	peer        *stream // from the host, once it is known

	hostAlloc, hostFwd uint32
	received, fwd      int
	told               int // fwd in the latest packet
	alloc              int
	expired            int // of the machine, when it began
	message            int // bytes so far of the message that is being received
	messages           int // received
	shut, hostShut     uint32
}

// ownFirst is where the first bytes of streams begin. What breaks rules sends
// lower ones first, so that it is known for nobody's.
const ownFirst = 0x80

// stream is what one end sends: its bytes, told apart by their first one, and
// where messages end.
type stream struct {
	seed byte
	sent int
	ends []int // lengths of messages; of the last that has not ended, so far
	open bool  // the last message has not ended
}

// at returns the byte at an offset.
func (s *stream) at(i int) byte { return s.seed + byte(i) + byte(i>>8) }

// produce fills p with what is sent next.
func (s *stream) produce(p []byte, last bool) {
	for i := range p {
		p[i] = s.at(s.sent + i)
	}
	s.sent += len(p)
	if !s.open {
		s.ends = append(s.ends, 0)
	}
	s.ends[len(s.ends)-1] += len(p)
	s.open = !last
}

// newStream gives a stream a first byte of its own.
func (m *machine) newStream() stream {
	m.seeds++
	return stream{seed: ownFirst + byte(m.seeds)}
}

type address struct{ guest, host uint32 }

// conn picks one of the guest's connections.
func (m *machine) conn(p *program) *conn {
	n := p.next()
	if len(m.order) == 0 {
		return nil
	}
	return m.order[int(n)%len(m.order)]
}

func (m *machine) addConn(a address, typ csm.Type, alloc int) *conn {
	c := &conn{guest: a.guest, host: a.host, typ: typ, alloc: alloc, expired: m.expired, stream: m.newStream()}
	if old := m.conns[a]; old != nil {
		old.open, old.misused, c.misused = false, true, true
	}
	m.conns[a] = c
	m.order = append(m.order, c)
	return c
}

// header returns a header for a packet of c.
func (m *machine) header(c *conn, op csm.Op) csm.Header {
	return csm.Header{
		SrcCID: m.cid, DstCID: csm.HostCID, SrcPort: c.guest, DstPort: c.host, Type: c.typ, Op: op,
		BufAlloc: uint32(c.alloc), FwdCnt: uint32(c.fwd),
	}
}

// send puts a packet into the tx ring, and reports whether there was room.
func (m *machine) send(h csm.Header, n, pieces int, fill func([]byte)) bool {
	if m.hostile {
		return false
	}
	m.reap()
	r := m.rings[vhostusertest.TxIndex]
	gpa, ok := r.add(csm.HeaderSize+n, pieces, false)
	if !ok {
		return false
	}
	if h.Len == 0 {
		h.Len = uint32(n)
	}
	p := m.mem.Bytes(gpa, uint64(csm.HeaderSize+n))
	h.Encode((*[csm.HeaderSize]byte)(p))
	if fill != nil {
		fill(p[csm.HeaderSize:])
	}
	if c := m.conns[address{h.SrcPort, h.DstPort}]; c != nil {
		c.told = int(h.FwdCnt)
	}
	m.kick(r)
	return true
}

// reap takes the tx chains back that the device has used.
func (m *machine) reap() { m.takeAll(m.rings[vhostusertest.TxIndex], func(uint64, uint32) {}) }

// request connects to a host port.
func (m *machine) request(p *program) {
	typ := csm.Type(1 + p.below(2))
	a := address{guest: 1024 + uint32(len(m.order)), host: uint32(p.below(ports))}
	if len(m.order) == maxConns {
		return
	}
	c := m.addConn(a, typ, 1024<<p.below(9))
	if !m.send(m.header(c, csm.OpRequest), 0, 1, nil) {
		c.misused = true
	}
}

// sendPayload sends what credit allows.
func (m *machine) sendPayload(p *program) {
	c, n, pieces, last := m.conn(p), p.u16(), 1+p.below(4), p.below(4) > 0
	if c == nil || !c.open || c.shut&csm.ShutdownSend != 0 || c.hostShut&csm.ShutdownRcv != 0 {
		return
	}
	n = min(n, int(c.hostAlloc)-(c.sent-int(c.hostFwd)))
	if n <= 0 {
		return
	}
	if c.typ == csm.TypeSeqpacket && len(c.ends) > 0 && c.stream.open && c.ends[len(c.ends)-1]+n > int(c.hostAlloc) {
		return
	}
	h := m.header(c, csm.OpRW)
	if c.typ == csm.TypeSeqpacket && last {
		h.Flags = csm.SeqEOM
	}
	m.send(h, n, pieces, func(b []byte) { c.produce(b, last) })
}

// say sends another packet of a connection.
func (m *machine) say(p *program) {
	c, what := m.conn(p), p.below(6)
	if c == nil || !c.open {
		return
	}
	h := m.header(c, csm.OpCreditUpdate)
	switch what {
	case 1:
		h.Op = csm.OpCreditRequest
	case 2, 3, 4:
		h.Op, h.Flags = csm.OpShutdown, uint32(what-1)
		c.shut |= h.Flags
	case 5:
		h.Op = csm.OpRST
		c.open, c.misused = false, true
		delete(m.conns, address{c.guest, c.host})
	}
	m.send(h, 0, 1, nil)
}

// postBuffers posts receive buffers.
func (m *machine) postBuffers(p *program) {
	n, size, pieces := p.below(8), p.u16(), 1+p.below(3)
	if m.hostile {
		return
	}
	m.receive()
	r := m.rings[vhostusertest.RxIndex]
	for range n + 1 {
		if _, ok := r.add(csm.HeaderSize+size, pieces, true); !ok {
			break
		}
	}
	m.kick(r)
}

// receive takes the packets that have come.
func (m *machine) receive() {
	m.takeAll(m.rings[vhostusertest.RxIndex], func(gpa uint64, n uint32) {
		if n == 0 {
			return // the device could not use it
		}
		if n < csm.HeaderSize {
			m.t.Fatalf("%d bytes came, which are no packet", n)
		}
		b := m.mem.Bytes(gpa, uint64(n))
		var h csm.Header
		h.Decode((*[csm.HeaderSize]byte)(b))
		if int(h.Len) != len(b)-csm.HeaderSize {
			m.t.Errorf("packet of %d bytes has len %d", len(b), h.Len)
		}
		m.handle(&h, b[csm.HeaderSize:])
	})
}

// postEvents fills the event ring, if there is one.
func (m *machine) postEvents() {
	if len(m.rings) <= vhostusertest.EventIndex || m.hostile {
		return
	}
	r := m.rings[vhostusertest.EventIndex]
	for r.Free() > 0 {
		if _, ok := r.add(8, 1, true); !ok {
			break
		}
	}
	m.kick(r)
}

// receiveEvents drops the guest's connections when it is told to.
func (m *machine) receiveEvents() {
	if len(m.rings) <= vhostusertest.EventIndex {
		return
	}
	came := false
	m.takeAll(m.rings[vhostusertest.EventIndex], func(uint64, uint32) { came = true })
	if came {
		m.abandon()
		m.cid = m.configured
		m.postEvents()
	}
}

// handle is what the guest does with a packet.
func (m *machine) handle(h *csm.Header, payload []byte) {
	a := address{guest: h.DstPort, host: h.SrcPort}
	c := m.conns[a]
	if h.Op == csm.OpRequest && c == nil && len(m.order) < maxConns {
		c = m.addConn(a, h.Type, 256<<10)
		c.open, c.hostAlloc, c.hostFwd = true, h.BufAlloc, h.FwdCnt
		if !m.send(m.header(c, csm.OpResponse), 0, 1, nil) {
			c.open, c.misused = false, true
		}
		return
	}
	if c == nil {
		return
	}
	c.hostAlloc, c.hostFwd = h.BufAlloc, h.FwdCnt
	if int(c.hostFwd) > c.sent && !c.misused && !m.wild && h.Op != csm.OpRST {
		m.t.Errorf("%v acknowledges %d bytes of %d", h.Op, c.hostFwd, c.sent)
	}
	switch h.Op {
	case csm.OpResponse:
		c.open = true
	case csm.OpRST:
		c.open = false
		delete(m.conns, a)
	case csm.OpShutdown:
		c.hostShut |= h.Flags
		if h.Flags&csm.ShutdownSend != 0 {
			m.checkEnd(c)
		}
	case csm.OpCreditRequest:
		m.send(m.header(c, csm.OpCreditUpdate), 0, 1, nil)
	case csm.OpRW:
		m.receivePayload(c, h, payload)
	}
}

// receivePayload checks credit, and that the bytes are those the host has sent.
func (m *machine) receivePayload(c *conn, h *csm.Header, p []byte) {
	if c.misused || m.wild {
		return
	}
	if c.hostShut&csm.ShutdownSend != 0 {
		m.t.Errorf("RW behind SHUTDOWN for ports %d, %d", c.guest, c.host)
	}
	if unread := c.received - c.told + len(p); unread > c.alloc {
		m.t.Errorf("credit exceeded: %d bytes unread, %d allocated", unread, c.alloc)
	}
	if c.received == 0 && len(p) > 0 {
		if p[0] < ownFirst && m.anonymous || m.isMisused(p[0]) {
			c.misused = true
			return
		}
		c.peer = m.streamOf(p[0])
	}
	m.compare(c.peer, c.received, p)
	c.received += len(p)
	c.message += len(p)
	if c.typ == csm.TypeSeqpacket && h.Flags&csm.SeqEOM != 0 {
		m.compareMessage(c.peer, c.messages, c.message)
		c.messages, c.message = c.messages+1, 0
	}
	c.fwd = c.received - c.received%4096 // keeps some of it
}

// checkEnd checks that a host program that has ended its stream was heard out.
func (m *machine) checkEnd(c *conn) {
	if c.misused || m.wild || c.shut&csm.ShutdownRcv != 0 {
		return
	}
	for _, h := range m.clients {
		if c.peer == &h.stream && !h.misused && c.received != h.sent {
			m.t.Errorf("the guest got %d bytes of %d before SHUTDOWN", c.received, h.sent)
		}
	}
}

// compare checks that p is what s has at an offset.
func (m *machine) compare(s *stream, offset int, p []byte) {
	if s == nil && len(p) > 0 {
		m.t.Fatalf("bytes came that nobody sent: %x", p[:min(len(p), 32)])
	}
	if len(p) == 0 {
		return
	}
	if offset+len(p) > s.sent {
		m.t.Fatalf("%d bytes came of %d", offset+len(p), s.sent)
	}
	for i, b := range p {
		if b != s.at(offset+i) {
			m.t.Fatalf("byte %d is %#x, was sent as %#x", offset+i, b, s.at(offset+i))
		}
	}
}

// compareMessage checks the length of message i of s.
func (m *machine) compareMessage(s *stream, i, n int) {
	if s != nil && (i >= len(s.ends) || s.ends[i] != n) {
		m.t.Fatalf("message %d has %d bytes, lengths were %v", i, n, s.ends)
	}
}

// anyPacket sends any header.
func (m *machine) anyPacket(p *program) {
	var h csm.Header
	if c := m.conn(p); c != nil {
		h = m.header(c, csm.Op(p.next()))
		c.misused = true
		m.misuse(c)
	} else {
		h = csm.Header{SrcCID: m.cid, DstCID: csm.HostCID, SrcPort: uint32(p.next()), Op: csm.Op(p.next()), Type: csm.TypeStream}
	}
	mask, payload := p.next(), p.u16()
	for i, field := range []func(v uint64){
		func(v uint64) { h.SrcCID = v },
		func(v uint64) { h.DstCID = v },
		func(v uint64) { h.DstPort = uint32(v) },
		func(v uint64) { h.Len = uint32(v) },
		func(v uint64) { h.Type = csm.Type(v) },
		func(v uint64) { h.Flags = uint32(v) },
		func(v uint64) { h.BufAlloc = uint32(v) },
		func(v uint64) { h.FwdCnt = uint32(v) },
	} {
		if mask>>i&1 != 0 {
			field(p.u64())
		}
	}
	if c := m.conns[address{h.SrcPort, h.DstPort}]; c != nil {
		c.misused = true
		m.misuse(c)
	}
	m.anonymous = true
	m.send(h, payload, 1+p.below(3), func(b []byte) { clear(b) })
}

// anyWord writes a word of a ring.
func (m *machine) anyWord(p *program) {
	r := m.rings[p.below(len(m.rings))]
	part, at, n, v := p.below(3), p.u16(), 1+p.below(8), p.u64()
	if m.gone {
		return
	}
	m.goHostile()
	c := r.Config()
	start, size := c.Desc, 16*c.Size
	switch part {
	case 1:
		start, size = c.Avail, 4+2*c.Size
	case 2:
		start, size = c.Used, 4
	}
	b := m.mem.Bytes(start+uint64(at%size), uint64(min(n, size-at%size)))
	for i := range b {
		b[i] = byte(v >> (8 * i))
	}
	m.forceKick(r)
}

// anyChain writes a descriptor, or some, and makes it available.
func (m *machine) anyChain(p *program) {
	r := m.rings[p.below(len(m.rings))]
	if m.gone {
		return
	}
	m.goHostile()
	n := 1 + p.below(3)
	var packed []virtqueuetest.PackedDesc
	first := p.below(r.Config().Size)
	for i := range n {
		gpa := memory[0].GuestAddr + uint64(p.u16())<<7
		length, flags, next := uint32(p.u16()), uint16(p.next()), uint16(p.next())
		if flags&8 != 0 {
			gpa, flags = p.u64(), flags&^8
		}
		packed = append(packed, virtqueuetest.PackedDesc{Addr: gpa, Len: length, ID: next, Flags: flags & 7})
		if !r.Config().Packed {
			r.SetDesc(uint16((first+i)%r.Config().Size), virtqueuetest.Desc{Addr: gpa, Len: length, Flags: flags, Next: next})
		}
	}
	if r.Config().Packed {
		r.PostSlots(packed...)
	} else {
		r.Post(uint16(first))
	}
	m.forceKick(r)
}
