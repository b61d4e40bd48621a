package muxertest

import (
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// Options describes a driver.
type Options struct {
	CID      uint64 // the guest's address; 0 means 3
	Buffers  int    // receive buffers to keep posted; 0 means as many as fit, less than 0 none
	BufAlloc uint32 // buffer space in bytes that Header offers; 0 means 256 KiB as Linux does
	Timeout  time.Duration
	Framing  Framing
	Events   *virtqueuetest.Ring // the event ring; nil: the frontend configures none
	ReadCID  func() uint64       // reads the config space at TRANSPORT_RESET; nil: CID stays
}

// Packet is a packet of either direction.
type Packet struct {
	csm.Header
	Payload []byte
}

// Driver is a guest's virtio-vsock driver without any protocol above packets.
// One goroutine uses it.
type Driver struct {
	tb     testing.TB
	mem    *virtqueuetest.Memory
	rx, tx *virtqueuetest.Ring
	o      Options

	rxRooms []*room // by head of the rx ring
	rxFree  []*room // not posted
	posted  int
	txRooms []*room // by head of the tx ring
	events  events
	small   []*room // not in the ring, for packets without much payload
	large   []*room // not in the ring, for any packet
	wire    [csm.HeaderSize]byte
	payload []byte
}

// smallRoom is the memory in bytes of a packet with little payload.
const smallRoom = 1 << 10

// NewDriver returns a driver on rings that the device serves or is about to.
// Its receive buffers are posted and the device is kicked.
func NewDriver(tb testing.TB, mem *virtqueuetest.Memory, rx, tx *virtqueuetest.Ring, o Options) *Driver {
	tb.Helper()
	if o.CID == 0 {
		o.CID = 3
	}
	if o.BufAlloc == 0 {
		o.BufAlloc = 256 << 10
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	if o.Framing.Rx == nil {
		o.Framing.Rx = []int{LinuxRxBuffer}
	}
	if o.Framing.Tx == nil {
		o.Framing.Tx = LinuxTx
	}
	if o.Buffers == 0 {
		o.Buffers = rx.Config().Size / len(o.Framing.Rx)
	}
	d := &Driver{
		tb: tb, mem: mem, rx: rx, tx: tx, o: o,
		rxRooms: make([]*room, rx.Config().Size),
		txRooms: make([]*room, tx.Config().Size),
		payload: make([]byte, 1<<20),
	}
	d.PostBuffers(o.Buffers)
	if o.Events != nil {
		d.PostEvents(linuxEventBuffers)
	}
	return d
}

// Header returns a header for a packet of the guest, with the credit that a
// guest offers which has consumed nothing.
func (d *Driver) Header(guestPort, hostPort uint32, op csm.Op) csm.Header {
	return csm.Header{
		SrcCID: d.o.CID, DstCID: csm.HostCID, SrcPort: guestPort, DstPort: hostPort,
		Type: csm.TypeStream, Op: op, BufAlloc: d.o.BufAlloc,
	}
}

// PostBuffers posts n receive buffers more and kicks the device.
func (d *Driver) PostBuffers(n int) {
	for range n {
		r := d.takeRxRoom()
		r.layOut(d.o.Framing.Rx, d.o.Framing.Gap, true)
		d.rxRooms[d.rx.Add(r.segs...)] = r
		d.posted++
	}
	if n > 0 {
		d.rx.Kick()
	}
}

func (d *Driver) takeRxRoom() *room {
	if n := len(d.rxFree); n > 0 {
		r := d.rxFree[n-1]
		d.rxFree = d.rxFree[:n-1]
		return r
	}
	n := span(d.o.Framing.Rx, d.o.Framing.Gap)
	return &room{gpa: d.mem.Alloc(uint64(n), 1), bytes: n}
}

// Posted returns how many receive buffers the device has.
func (d *Driver) Posted() int { return d.posted }

// refill posts receive buffers again once half of them are used, as Linux does.
func (d *Driver) refill() {
	if d.o.Buffers > 0 && d.posted <= d.o.Buffers/2 {
		d.PostBuffers(d.o.Buffers - d.posted)
	}
}

// Send sends a packet and kicks the device. h.Len is the payload's length unless
// it was set to something else before. It waits while the ring is full.
func (d *Driver) Send(h csm.Header, payload []byte) {
	d.tb.Helper()
	d.Add(h, payload)
	d.Kick()
}

// Add puts a packet into the tx ring; the device does not see it before Kick. It
// kicks and waits while the ring is full.
func (d *Driver) Add(h csm.Header, payload []byte) {
	d.tb.Helper()
	for deadline := time.Now().Add(d.o.Timeout); !d.TryAdd(h, payload); {
		d.Kick()
		if !d.waitTx(time.Until(deadline)) {
			d.tb.Fatalf("muxertest: the device left the tx ring full for %v", d.o.Timeout)
		}
	}
}

// TryAdd is Add, but reports whether there was room.
func (d *Driver) TryAdd(h csm.Header, payload []byte) bool {
	if h.Len == 0 {
		h.Len = uint32(len(payload))
	}
	d.wireOf(&h)
	return d.tryAdd(csm.HeaderSize+len(payload), payload)
}

func (d *Driver) wireOf(h *csm.Header) { h.Encode(&d.wire) }

// tryAdd adds d.wire and payload.
func (d *Driver) tryAdd(size int, payload []byte) bool {
	pieces := d.o.Framing.Tx(size)
	d.Reap()
	if d.tx.Free() < len(pieces) {
		return false
	}
	r := d.takeTxRoom(span(pieces, d.o.Framing.Gap))
	r.layOut(pieces, d.o.Framing.Gap, false)
	r.copyIn(d.mem, 0, d.wire[:min(size, csm.HeaderSize)])
	r.copyIn(d.mem, csm.HeaderSize, payload)
	direct := d.o.Framing.Direct
	if direct < 0 || len(pieces) == 1 || !d.tx.Config().Indirect {
		direct = len(pieces)
	}
	d.txRooms[d.tx.AddMixed(min(direct, len(pieces)), r.segs...)] = r
	return true
}

// SendBytes sends any bytes in place of a packet, fewer than a header too.
func (d *Driver) SendBytes(p []byte) {
	d.tb.Helper()
	d.Reap()
	r := d.takeTxRoom(max(len(p), 1))
	r.layOut([]int{len(p)}, 0, false)
	r.copyIn(d.mem, 0, p)
	d.txRooms[d.tx.Add(r.segs...)] = r
	d.Kick()
}

func (d *Driver) takeTxRoom(n int) *room {
	pool, size := &d.small, smallRoom
	if n > smallRoom {
		pool, size = &d.large, csm.HeaderSize+csm.MaxPayload+4<<10
	}
	if n > size {
		return &room{gpa: d.mem.Alloc(uint64(n), 1), bytes: n}
	}
	if k := len(*pool); k > 0 {
		r := (*pool)[k-1]
		*pool = (*pool)[:k-1]
		return r
	}
	return &room{gpa: d.mem.Alloc(uint64(size), 1), bytes: size}
}

// Kick makes what was added available and kicks the device if it wants that.
func (d *Driver) Kick() { d.tx.Kick() }

// Reap takes the packets back that the device is done with.
func (d *Driver) Reap() {
	for {
		e, ok := d.tx.Used()
		if !ok {
			return
		}
		if e.Len != 0 {
			d.tb.Errorf("muxertest: the device claims to have written %d bytes into a packet of ours", e.Len)
		}
		r := d.txRooms[e.ID]
		if r == nil {
			d.tb.Errorf("muxertest: the device used descriptor %d of the tx ring, which it did not have", e.ID)
			continue
		}
		d.txRooms[e.ID] = nil
		if r.bytes == smallRoom {
			d.small = append(d.small, r)
		} else {
			d.large = append(d.large, r)
		}
	}
}

// InFlight returns how many descriptors of the tx ring the device holds.
func (d *Driver) InFlight() int {
	d.Reap()
	return d.tx.Config().Size - d.tx.Free()
}

// WaitTx waits until the device has used every packet, and reports whether it
// did before the time-out.
func (d *Driver) WaitTx(timeout time.Duration) bool {
	for deadline := time.Now().Add(timeout); d.InFlight() > 0; {
		if !d.waitTx(time.Until(deadline)) {
			return d.InFlight() == 0
		}
	}
	return true
}

func (d *Driver) waitTx(timeout time.Duration) bool {
	if timeout <= 0 {
		return false
	}
	return d.tx.ArmInterrupt() || d.tx.WaitInterrupt(timeout) || d.lostInterrupt(d.tx, "tx")
}

// lostInterrupt reports whether there is a used chain, of which the device would
// have had to tell.
func (d *Driver) lostInterrupt(r *virtqueuetest.Ring, name string) bool {
	if !r.ArmInterrupt() {
		return false
	}
	d.tb.Errorf("muxertest: the device used a chain of the %s ring and did not interrupt", name)
	return true
}

// TryRecv returns the next packet of the device, if there is one. The payload is
// valid until the next call.
func (d *Driver) TryRecv() (p Packet, ok bool) {
	e, ok := d.rx.Used()
	if !ok {
		return Packet{}, false
	}
	d.posted--
	r := d.rxRooms[e.ID]
	d.rxRooms[e.ID] = nil
	if r == nil {
		d.tb.Errorf("muxertest: the device used descriptor %d of the rx ring, which it did not have", e.ID)
		return Packet{}, false
	}
	d.rxFree = append(d.rxFree, r)
	if e.Len < csm.HeaderSize {
		d.tb.Errorf("muxertest: %d bytes received, shorter than a header", e.Len)
	}
	r.copyOut(d.mem, 0, d.wire[:])
	p.Header.Decode(&d.wire)
	if e.Len != csm.HeaderSize+p.Len {
		d.tb.Errorf("muxertest: %v with len %d in a chain of which %d bytes are used", p.Op, p.Len, e.Len)
	}
	if !d.isMine(p.DstCID) {
		d.tb.Errorf("muxertest: %v for CID %d", p.Op, p.DstCID)
	}
	p.Payload = d.payload[:min(p.Len, uint32(len(d.payload)))]
	r.copyOut(d.mem, csm.HeaderSize, p.Payload)
	d.refill()
	return p, true
}

// Recv waits for the next packet of the device.
func (d *Driver) Recv(timeout time.Duration) (Packet, bool) {
	d.tb.Helper()
	for deadline := time.Now().Add(timeout); ; {
		if p, ok := d.TryRecv(); ok {
			return p, true
		}
		if d.rx.ArmInterrupt() || d.rx.WaitInterrupt(time.Until(deadline)) {
			continue
		}
		if time.Now().After(deadline) && !d.lostInterrupt(d.rx, "rx") {
			return Packet{}, false
		}
	}
}

// Expect waits for the next packet and fails the test unless it has this
// operation.
func (d *Driver) Expect(op csm.Op) Packet {
	d.tb.Helper()
	p, ok := d.Recv(d.o.Timeout)
	if !ok {
		d.tb.Fatalf("muxertest: no packet within %v, want %v", d.o.Timeout, op)
	}
	if p.Op != op {
		d.tb.Fatalf("muxertest: received %v %+v, want %v", p.Op, p.Header, op)
	}
	return p
}

// ExpectFor is Expect with the ports of a connection.
func (d *Driver) ExpectFor(guestPort, hostPort uint32, op csm.Op) Packet {
	d.tb.Helper()
	p := d.Expect(op)
	if p.DstPort != guestPort || p.SrcPort != hostPort {
		d.tb.Fatalf("muxertest: %v from port %d to port %d, want %d to %d", p.Op, p.SrcPort, p.DstPort, hostPort, guestPort)
	}
	return p
}

// barrierPort is the host port of the packets that Barrier sends.
const barrierPort = 0xbabab00f

// Barrier sends a packet for which the device owes an RST and returns what came
// before that: whatever was owed for earlier packets and stood in the same line.
// RSTs leave in order, before all else.
func (d *Driver) Barrier() (before []Packet) {
	d.tb.Helper()
	d.Send(d.Header(barrierPort, barrierPort, csm.OpCreditRequest), nil)
	for {
		p, ok := d.Recv(d.o.Timeout)
		if !ok {
			d.tb.Fatalf("muxertest: no RST for a packet of no connection within %v", d.o.Timeout)
		}
		if p.SrcPort == barrierPort {
			return before
		}
		p.Payload = append([]byte(nil), p.Payload...)
		before = append(before, p)
	}
}

// ExpectSilence fails the test if any packet comes within d.
func (d *Driver) ExpectSilence(timeout time.Duration) {
	d.tb.Helper()
	if p, ok := d.Recv(timeout); ok {
		d.tb.Fatalf("muxertest: received %v %+v, want nothing", p.Op, p.Header)
	}
}
