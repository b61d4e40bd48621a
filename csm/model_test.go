package csm_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// model is a connection as virtio v1.4 §5.10.6 and the credit rules describe it,
// with nothing clever in it: counters never wrap, every unread packet is listed,
// and what is due is worked out anew each time.
type model struct {
	state   csm.State
	owesRST bool

	requestDue, responseDue bool
	answerDue               bool // a CREDIT_REQUEST of the guest waits for news of our buffer
	askDue, asked           bool // our own CREDIT_REQUEST is due; it was made due and no news came

	guestShut, hostShut  uint32 // what each side has shut
	toldShut, passedShut uint32 // what the guest was told, what the host socket was told

	// towards the guest
	sent, consumed uint64
	window         uint32   // the buffer that the guest says it has
	unread         []uint64 // where each RW packet ends that the guest has not consumed

	// from the guest
	buffer                 uint32
	taken, forwarded, told uint64
}

// Limits of what is believed of a guest; they only ever send less.
const (
	believedWindow  = 1 << 30
	believedPackets = 1024
)

// hear takes the credit that every packet of the guest carries.
func (m *model) hear(h *csm.Header) {
	window := min(h.BufAlloc, believedWindow)
	news := window != m.window
	m.window = window
	// The only count of all those that end in these 32 bits that can be true.
	count := m.consumed&^0xffffffff | uint64(h.FwdCnt)
	if count < m.consumed {
		count += 1 << 32
	}
	if count > m.consumed && count <= m.sent {
		m.consumed, news = count, true
	}
	for len(m.unread) > 0 && m.unread[0] <= m.consumed {
		m.unread = m.unread[1:]
	}
	m.asked = m.asked && !news
}

func (m *model) receive(h *csm.Header) csm.Reaction {
	if m.state == csm.Dead {
		return csm.Nothing
	}
	m.hear(h)
	switch {
	case h.Op == csm.OpRST:
		m.end(false)
		return csm.Gone
	case h.Op == csm.OpResponse && m.state == csm.Connecting && !m.requestDue:
		m.state = csm.Established
		return csm.Opened
	case m.state == csm.Accepting && (h.Op == csm.OpCreditUpdate || h.Op == csm.OpCreditRequest):
		return csm.Nothing // Linux tells of a buffer size before it is connected; RESPONSE tells ours
	case m.state == csm.Connecting || m.state == csm.Accepting:
		return m.violated()
	case h.Op == csm.OpResponse, h.Op == csm.OpCreditUpdate:
		return csm.Nothing
	case h.Op == csm.OpCreditRequest:
		m.answerDue = true
		return csm.Nothing
	case h.Op == csm.OpShutdown:
		m.guestShut |= h.Flags & 3
		m.endIfDone()
		return csm.Shut
	case h.Op == csm.OpRW:
		return m.receiveRW(uint64(h.Len))
	}
	return m.violated() // a second REQUEST, INVALID, and what nobody knows
}

func (m *model) receiveRW(n uint64) csm.Reaction {
	if m.guestShut&2 != 0 || m.waiting()+n > uint64(m.buffer) {
		return m.violated()
	}
	m.taken += n
	if m.hostShut&1 != 0 {
		m.forwarded += n
		return csm.Discarded
	}
	return csm.Payload
}

func (m *model) waiting() uint64 { return m.taken - m.forwarded }

func (m *model) violated() csm.Reaction {
	m.end(true)
	return csm.Violated
}

func (m *model) end(owesRST bool) {
	m.state, m.owesRST = csm.Dead, owesRST
	m.requestDue, m.responseDue, m.answerDue, m.askDue = false, false, false, false
}

func (m *model) endIfDone() {
	if m.state != csm.Dead && m.guestShut == 3 && m.waiting() == 0 {
		m.end(true)
	}
}

func (m *model) forward(n uint64) {
	m.forwarded += n
	m.endIfDone()
}

// shutHost: the host side has shut directions for good.
func (m *model) shutHost(flags uint32) {
	if m.state != csm.Established {
		return
	}
	m.hostShut |= flags
	if m.hostShut&1 != 0 {
		m.forward(m.waiting())
	}
}

func (m *model) hostShutdownDue() uint32 {
	due := m.guestShut
	if m.waiting() > 0 {
		due &= 1
	}
	due &^= m.passedShut
	m.passedShut |= due
	return due
}

func (m *model) rxSpace() (bytes, packets int) {
	if m.state != csm.Established || m.responseDue || m.guestShut&1 != 0 || m.hostShut&2 != 0 {
		return 0, 0
	}
	bytes = int(m.window) - int(m.sent-m.consumed)
	packets = min(max(1, int(m.window)/1024), believedPackets) - len(m.unread)
	if bytes <= 0 || packets <= 0 {
		return 0, 0
	}
	return bytes, packets
}

func (m *model) packetBound() bool {
	return int(m.window) > int(m.sent-m.consumed) && len(m.unread) >= min(max(1, int(m.window)/1024), believedPackets)
}

func (m *model) ask() bool {
	if m.state != csm.Established || m.asked {
		return false
	}
	m.asked, m.askDue = true, true
	return true
}

// keepsQuiet: memory is short, and the program has not read what it has.
func (m *model) keepsQuiet(hold bool) bool { return hold && m.waiting() > 0 }

// updateDue is the rule by which a guest that never asks hears of free space.
func (m *model) updateDue(hold bool) bool {
	if m.state != csm.Established || m.responseDue || m.guestShut&2 != 0 || m.keepsQuiet(hold) {
		return false
	}
	news := m.forwarded - m.told
	usable := min(uint64(m.buffer), uint64(m.window)) // Linux sends no further ahead than it could receive
	return news > 0 && (m.taken-m.told+64<<10 > usable || news >= usable/4)
}

// next returns what is due first: op is OpInvalid when nothing is.
func (m *model) next(hold bool) (op csm.Op, flags uint32) {
	switch {
	case m.requestDue:
		return csm.OpRequest, 0
	case m.responseDue:
		return csm.OpResponse, 0
	case m.state == csm.Established && m.hostShut != m.toldShut:
		return csm.OpShutdown, m.hostShut
	case m.answerDue || m.updateDue(hold):
		return csm.OpCreditUpdate, 0
	case m.askDue:
		return csm.OpCreditRequest, 0
	}
	return csm.OpInvalid, 0
}

// emit accounts for a packet that leaves and returns its credit fields.
func (m *model) emit(op csm.Op, n int, hold bool) (bufAlloc, fwdCnt uint32) {
	switch op {
	case csm.OpRequest:
		m.requestDue = false
	case csm.OpResponse:
		m.responseDue = false
	case csm.OpShutdown:
		m.toldShut = m.hostShut
		if m.toldShut == 3 {
			m.state = csm.Closing
		}
	case csm.OpCreditUpdate:
		m.answerDue = false
	case csm.OpCreditRequest:
		m.askDue = false
	case csm.OpRW:
		m.sent += uint64(n)
		m.unread = append(m.unread, m.sent)
	}
	if !m.keepsQuiet(hold) {
		m.told = m.forwarded
	}
	return m.buffer, uint32(m.told)
}

// script is the source of every choice of a trial; choices are 0 behind its end.
type script struct{ b []byte }

func (s *script) pick(n int) int {
	if len(s.b) == 0 {
		return 0
	}
	v := int(s.b[0])
	s.b = s.b[1:]
	if n > 256 && len(s.b) > 0 {
		v = v<<8 | int(s.b[0])
		s.b = s.b[1:]
	}
	return v % n
}

// trial drives a Conn and the model through one script.
type trial struct {
	t    testing.TB
	s    script
	conn csm.Conn
	m    model
	data []byte // the whole script
	loud bool   // keep a log: only a trial that has failed is run again for it
	log  []string

	alloc    uint32 // what the guest says of its buffer
	read     uint64 // what the guest has read
	honest   bool   // it never sent beyond the credit that it was told
	lastTold uint64
	ended    bool // SHUTDOWN(SEND) went out
	wasGone  bool
}

var (
	guestBuffers = []uint32{262144, 262144, 262144, 65536, 4096, 2048, 1024, 1023, 1, 0, 1<<30 + 5, 0xffffffff}
	ourBuffers   = []uint32{262144, 262144, 65536, 65536, 1000}
	rxStarts     = []uint64{0, 0xfffffff0, 1<<32 - 1, 1<<33 - 70000}
	txStarts     = []uint64{0, 0xfffffff0, 1<<32 - 1, 1<<33 - 200000}
)

func newTrial(t testing.TB, data []byte, loud bool) *trial {
	tr := &trial{t: t, s: script{data}, data: data, loud: loud, honest: true}
	tr.alloc = guestBuffers[tr.s.pick(len(guestBuffers))]
	ours := ourBuffers[tr.s.pick(len(ourBuffers))]
	rx, tx := rxStarts[tr.s.pick(len(rxStarts))], txStarts[tr.s.pick(len(txStarts))]
	tr.m = model{
		buffer: ours, sent: rx, consumed: rx, taken: tx, forwarded: tx, told: tx,
	}
	if tr.s.pick(2) == 0 {
		tr.note("host-initiated")
		tr.conn = csm.NewHostInitiated(ours)
		tr.m.state, tr.m.requestDue = csm.Connecting, true
	} else {
		tr.note("guest-initiated, window %d", tr.alloc)
		tr.conn = csm.NewGuestInitiated(&csm.Header{Op: csm.OpRequest, BufAlloc: tr.alloc}, ours)
		tr.m.state, tr.m.window = csm.Accepting, min(tr.alloc, believedWindow)
	}
	tr.conn.StartCounters(rx, uint32(tx))
	tr.read, tr.lastTold = rx, tx
	return tr
}

func (tr *trial) note(format string, args ...any) {
	if tr.loud {
		tr.log = append(tr.log, fmt.Sprintf(format, args...))
	}
}

func (tr *trial) fail(format string, args ...any) {
	tr.t.Helper()
	if !tr.loud {
		newTrial(tr.t, tr.data, true).run()
	}
	for _, line := range tr.log[max(0, len(tr.log)-40):] {
		tr.t.Log(line)
	}
	tr.t.Fatalf(format, args...)
}

func (tr *trial) run() {
	tr.t.Helper()
	for after := 0; len(tr.s.b) > 0 && after < 12; {
		tr.step()
		tr.compare()
		if tr.m.state == csm.Dead {
			after++ // the dead stay dead
		}
	}
}

func (tr *trial) step() {
	tr.t.Helper()
	event := tr.s.pick(32)
	opening := tr.m.state == csm.Connecting || tr.m.state == csm.Accepting
	if opening && event > 6 && tr.s.pick(16) != 0 {
		event = 20 // most guests wait
	}
	switch event {
	case 0, 1, 2, 3, 4, 5, 6:
		tr.next()
	case 7, 8, 9, 10:
		tr.sendRW()
	case 11, 12, 13, 14, 15:
		tr.guestRW()
	case 16, 17, 18:
		tr.guestReads()
		tr.guest(csm.OpCreditUpdate, 0, 0)
	case 19:
		tr.guest(csm.OpCreditRequest, 0, 0)
	case 20, 21:
		tr.open()
	case 22, 23, 24:
		tr.forwarded()
	case 25:
		if got, want := tr.conn.AskCredit(), tr.m.ask(); got != want {
			tr.fail("AskCredit %t, want %t", got, want)
		}
		tr.note("AskCredit")
	case 26:
		if tr.s.pick(4) != 0 {
			return
		}
		tr.guest(csm.OpShutdown, []uint32{0, 1, 2, 3, 4, 0xffffffff, 0xfffffffc, 2}[tr.s.pick(8)], 0)
	case 27:
		if tr.s.pick(4) == 0 {
			tr.hostShuts()
		}
	case 28, 29:
		tr.shutHost()
	case 30:
		tr.rare()
	case 31:
		tr.alloc = guestBuffers[tr.s.pick(len(guestBuffers))]
		tr.note("the guest's buffer becomes %d", tr.alloc)
	}
}

// rare takes the events that mostly end a connection.
func (tr *trial) rare() {
	switch tr.s.pick(32) {
	case 0:
		tr.guest(csm.OpRST, 0, 0)
	case 1:
		tr.guest(csm.OpRequest, 0, 0)
	case 2:
		tr.guest(csm.Op(tr.s.pick(65536)), 0, 0)
	case 3:
		tr.note("Kill")
		tr.conn.Kill()
		if tr.m.state != csm.Dead {
			tr.m.end(true)
		}
	case 4:
		tr.note("Forget")
		tr.conn.Forget()
		tr.m.end(false)
	case 5:
		tr.guest(csm.OpRW, 0, uint32(uint64(tr.m.buffer)-min(tr.m.waiting(), uint64(tr.m.buffer)))+1+uint32(tr.s.pick(1<<16)))
	case 6:
		tr.guest(csm.OpRW, 0, 0xffffffff)
	case 7, 8, 9, 10, 11, 12, 13, 14, 15: // calm, so that a connection gets far
	default:
		tr.lie()
	}
}

// lie sends credit that cannot be true, or that is not.
func (tr *trial) lie() {
	alloc, read := tr.alloc, tr.read
	switch tr.s.pick(5) {
	case 0:
		tr.read = tr.m.sent + 1 + uint64(tr.s.pick(1<<16)) // ahead
	case 1:
		tr.read = tr.m.consumed - 1 - uint64(tr.s.pick(1<<16)) // backward
	case 2:
		tr.read = tr.m.sent + 1<<31
	case 3:
		tr.alloc = uint32(tr.s.pick(1<<16)) << 16
	case 4:
		tr.read = tr.m.sent // all of it, though it was not read
	}
	tr.guest(csm.OpCreditUpdate, 0, 0)
	tr.alloc, tr.read = alloc, read
}

// guest passes a packet of the guest to both.
func (tr *trial) guest(op csm.Op, flags, n uint32) {
	tr.t.Helper()
	h := csm.Header{Op: op, Flags: flags, Len: n, BufAlloc: tr.alloc, FwdCnt: uint32(tr.read)}
	tr.note("guest: %v flags %#x len %d buf_alloc %d fwd_cnt %#x", op, flags, n, h.BufAlloc, h.FwdCnt)
	if op == csm.OpRW && tr.m.taken+uint64(n)-tr.m.told > uint64(tr.m.buffer) {
		tr.honest = false
	}
	got, want := tr.conn.Receive(&h), tr.m.receive(&h)
	if got != want {
		tr.fail("reaction %d, want %d", got, want)
	}
	tr.wasGone = tr.wasGone || got == csm.Gone
}

// guestRW sends payload within the credit, mostly as the guest knows it, up to
// its last byte.
func (tr *trial) guestRW() {
	free := uint64(tr.m.buffer) - min(tr.m.taken-tr.m.told, uint64(tr.m.buffer)) // as the guest sees it
	if tr.s.pick(16) == 0 {
		free = uint64(tr.m.buffer) - tr.m.waiting() // more than it was told, no more than is there
	}
	n := min(free, uint64([]int{0, 1, 100, 4096, 65536, 65536, 262144}[tr.s.pick(7)]))
	tr.guest(csm.OpRW, 0, uint32(n))
}

func (tr *trial) guestReads() {
	if left := tr.m.sent - min(tr.read, tr.m.sent); left > 0 {
		tr.read += min(left, uint64([]int{0, 1, 3732, 65536, 1 << 30}[tr.s.pick(5)]))
		tr.note("the guest has read %d", tr.read)
	}
}

// open brings the handshake forward.
func (tr *trial) open() {
	switch tr.m.state {
	case csm.Connecting:
		tr.guest(csm.OpResponse, 0, 0)
	case csm.Accepting:
		tr.note("HostConnected")
		tr.conn.HostConnected()
		tr.m.state, tr.m.responseDue = csm.Established, true
	default:
		if tr.s.pick(8) == 0 {
			tr.guest(csm.OpResponse, 0, 0)
		}
	}
}

func (tr *trial) forwarded() {
	n := int(tr.m.waiting())
	if tr.s.pick(2) == 0 {
		n = min(n, 1+tr.s.pick(1<<16))
	}
	tr.note("Forwarded(%d)", n)
	tr.conn.Forwarded(n)
	tr.m.forward(uint64(n))
}

func (tr *trial) hostShuts() {
	switch tr.s.pick(3) {
	case 0:
		tr.note("HostEnded")
		tr.conn.HostEnded()
		tr.m.shutHost(2)
	case 1:
		tr.note("HostDeaf")
		tr.conn.HostDeaf()
		tr.m.shutHost(1)
	case 2:
		tr.note("HostClosed")
		tr.conn.HostClosed()
		tr.m.shutHost(3)
	}
}

func (tr *trial) shutHost() {
	waiting := tr.m.waiting()
	passed := tr.m.passedShut
	got, want := tr.conn.HostShutdownDue(), tr.m.hostShutdownDue()
	tr.note("HostShutdownDue %d", got)
	if got != want {
		tr.fail("HostShutdownDue %d, want %d", got, want)
	}
	if got&csm.ShutdownSend != 0 && waiting > 0 {
		tr.fail("the host is told the end with %d bytes on the way", waiting)
	}
	if got&passed != 0 {
		tr.fail("the host is told %d twice", got&passed)
	}
}

// next lets what is due first leave.
func (tr *trial) next() {
	tr.t.Helper()
	hold := tr.s.pick(4) == 0
	op, flags := tr.m.next(hold)
	h := csm.Header{Len: 99, Flags: 99}
	if ok := tr.conn.Next(&h, hold); ok != (op != csm.OpInvalid) {
		tr.fail("Next(hold %t) %t %v, want %v", hold, ok, h.Op, op)
	}
	if op == csm.OpInvalid {
		return
	}
	bufAlloc, fwdCnt := tr.m.emit(op, 0, hold)
	tr.emitted(&h, csm.Header{Op: op, Flags: flags, BufAlloc: bufAlloc, FwdCnt: fwdCnt}, hold)
	if op == csm.OpShutdown && flags&csm.ShutdownSend != 0 {
		tr.ended = true
	}
}

// sendRW sends payload to the guest, within what it takes.
func (tr *trial) sendRW() {
	tr.t.Helper()
	bytes, packets := tr.m.rxSpace()
	if bytes == 0 {
		return
	}
	if tr.ended {
		tr.fail("data is to leave behind SHUTDOWN(SEND)")
	}
	count := 1
	if tr.s.pick(4) == 0 {
		count = packets
	}
	size := []int{1, 100, 3732, 65536, 1 << 30}[tr.s.pick(5)]
	hold := tr.s.pick(4) == 0
	for range count {
		n := min(bytes, size)
		if n == 0 {
			break
		}
		bytes -= n
		h := csm.Header{Len: 99, Flags: 99}
		tr.conn.SendRW(&h, n, false, hold)
		bufAlloc, fwdCnt := tr.m.emit(csm.OpRW, n, hold)
		tr.emitted(&h, csm.Header{Op: csm.OpRW, Len: uint32(n), BufAlloc: bufAlloc, FwdCnt: fwdCnt}, hold)
	}
	if inFlight := tr.m.sent - tr.m.consumed; inFlight > uint64(tr.m.window) {
		tr.fail("%d bytes in flight, the guest takes %d", inFlight, tr.m.window)
	}
	if n := len(tr.m.unread); n > max(1, int(tr.m.window)/1024) {
		tr.fail("%d packets in flight, the guest's buffer is %d", n, tr.m.window)
	}
}

// emitted holds a packet that leaves against the model's.
func (tr *trial) emitted(got *csm.Header, want csm.Header, hold bool) {
	tr.t.Helper()
	tr.note("sent: %v flags %d len %d buf_alloc %d fwd_cnt %#x (hold %t)", got.Op, got.Flags, got.Len, got.BufAlloc, got.FwdCnt, hold)
	if *got != want {
		tr.fail("sent %+v, want %+v", *got, want)
	}
	if got.Op == csm.OpRST || tr.wasGone {
		tr.fail("a packet leaves for a guest that has reset")
	}
	told := tr.lastTold + uint64(got.FwdCnt-uint32(tr.lastTold))
	if told > tr.m.forwarded {
		tr.fail("fwd_cnt %d is ahead of the %d bytes that were forwarded", told, tr.m.forwarded)
	}
	tr.lastTold = told
}

// view is everything that can be seen of a connection.
type view struct {
	state               csm.State
	owesRST             bool
	buffered            int
	guestShut, hostShut uint32
	guestReads          bool
	bytes, packets      int // RxSpace
	due, dueWhenHeld    bool
}

// compare holds everything that can be seen of the connection against the model.
func (tr *trial) compare() {
	tr.t.Helper()
	c, m := &tr.conn, &tr.m
	bytes, packets := c.RxSpace()
	wantBytes, wantPackets := m.rxSpace()
	opDue, _ := m.next(false)
	opHeld, _ := m.next(true)
	got := view{
		c.State(), c.OwesRST(), c.Buffered(), c.GuestShut(), c.HostShut(), c.GuestReads(),
		bytes, packets, c.Due(false), c.Due(true),
	}
	want := view{
		m.state, m.owesRST, int(m.waiting()), m.guestShut, m.hostShut, m.guestShut&1 == 0,
		wantBytes, wantPackets, opDue != csm.OpInvalid, opHeld != csm.OpInvalid,
	}
	if got != want {
		tr.fail("the connection is\n%+v, want\n%+v", got, want)
	}
	if m.state == csm.Established && c.PacketBound() != m.packetBound() {
		tr.fail("PacketBound %t", c.PacketBound())
	}
	tr.checkPromises()
}

// checkPromises holds the connection against what a guest relies on, whatever
// the model says.
func (tr *trial) checkPromises() {
	tr.t.Helper()
	c, m := &tr.conn, &tr.m
	if c.GuestShut() == csm.ShutdownBoth && c.Buffered() == 0 && c.State() != csm.Dead {
		tr.fail("the guest has shut both directions, everything is forwarded, and it gets no RST")
	}
	if tr.wasGone && (c.OwesRST() || c.State() != csm.Dead || c.Due(false)) {
		tr.fail("an RST is to be answered")
	}
	reads := c.State() == csm.Established && !m.responseDue && m.guestShut&csm.ShutdownSend == 0 && c.Buffered() == 0
	if reads && tr.honest && !c.Due(false) {
		// Everything that will ever be told was told: the guest must see room.
		if seen := int64(m.buffer) - int64(m.taken-tr.lastTold); seen < min(64<<10, int64(m.buffer)) {
			tr.fail("the host has read everything, and the guest is left with %d bytes of room", seen)
		}
	}
}

// TestConnAgainstModel runs random scripts.
func TestConnAgainstModel(t *testing.T) {
	trials := 2000
	if testing.Short() {
		trials = 300
	}
	for seed := range uint64(trials) {
		r := rand.New(rand.NewPCG(seed, 3))
		newTrial(t, random(r, 40+r.IntN(4000)), false).run()
	}
}

// FuzzConn runs scripts that the fuzzer makes up.
func FuzzConn(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 20, 7, 0, 3, 0, 16, 3})                                // host-initiated, data, read
	f.Add([]byte{0, 0, 1, 1, 1, 20, 0, 0, 11, 4, 11, 4, 22, 1, 0, 1, 26, 3, 28, 0, 1})       // guest-initiated, near the wrap
	f.Add([]byte{8, 2, 2, 2, 1, 20, 0, 1, 7, 0, 0, 0, 7, 0, 0, 0, 25, 0, 1, 31, 0, 16, 0})   // a window of one byte
	f.Add([]byte{0, 0, 3, 3, 1, 20, 0, 1, 11, 5, 11, 5, 11, 5, 11, 5, 0, 0, 22, 1, 0, 1})    // our window filled
	f.Add([]byte{0, 0, 0, 0, 1, 20, 0, 1, 27, 2, 0, 1, 11, 2, 26, 1, 30, 0})                 // host closes, guest goes on
	f.Add([]byte{10, 0, 2, 2, 1, 20, 0, 1, 7, 0, 4, 0, 30, 7, 0, 9, 9, 30, 7, 2, 30, 7, 4})  // lies
	f.Add([]byte{6, 0, 0, 0, 1, 20, 0, 1, 7, 0, 0, 0, 7, 1, 0, 0, 16, 1, 7, 1, 0, 0, 16, 4}) // one packet at a time
	r := rand.New(rand.NewPCG(1, 1))
	for range 8 {
		f.Add(random(r, 300))
	}
	f.Fuzz(func(t *testing.T, data []byte) { newTrial(t, data[:min(len(data), 8<<10)], false).run() })
}
