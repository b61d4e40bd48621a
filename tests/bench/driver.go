package main

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// driver is a guest's socket driver and its programs in one thread. What a packet
// needs is laid out beforehand, so that it costs next to nothing: what is measured is
// the device.
//
// One goroutine, locked to its thread, runs it; all others use do.
type driver struct {
	rx, tx  *ring
	slots   []slot       // of tx, by head
	free    []uint16     // slots, the last one first: its memory is warm
	replies []csm.Header // packets without payload that wait for a slot
	buffers [][]byte     // of rx, by head
	taken   []uint16     // heads of rx that are not posted

	conns   map[ports]*conn
	last    *conn   // that a packet came for
	read    []*conn // that have consumed bytes in this turn
	senders []*conn // that send without end, one behind the other
	turnOf  int     // whose turn it is among senders
	chunk   int     // bytes of payload of each of their packets
	sending bool
	check   bool // payload is written and looked at: see pattern

	// What the guest's programs do.
	accepts bool          // they take every connection
	onRead  func(c *conn) // bytes have come
	onOpen  func(c *conn) // the host has accepted
	onGone  func(c *conn) // nothing is left of it

	call   int         // the eventfd of both rings' interrupts, and of wake
	woken  atomic.Bool // there are calls, or stop is set
	counts counts
	strays int   // packets of no connection
	err    error // what the device did wrong

	mu      sync.Mutex
	calls   []func()
	stopped bool
	done    chan struct{}
}

// counts are what the driver has seen of the device.
type counts struct {
	packets    uint64 // of both directions
	interrupts uint64
}

type ports struct{ guest, host uint32 }

// slot is the room of one packet in the tx ring.
type slot struct {
	wire      []byte     // the header's memory
	sent      csm.Header // what is there
	payload   []byte
	header    virtqueuetest.Desc
	payloadAt uint64
	table     guestmem.Span // of an indirect chain
	tableAt   uint64
	n         int // bytes of payload for which the chain is laid out; -1: not at all
}

// rxBatch is how many packets Linux takes before its programs run, more or less.
const rxBatch = 64

// newDriver takes over the rings of a guest whose device is running.
func newDriver(tb testing.TB, f *vhostusertest.Frontend, g *vhostusertest.Guest) *driver {
	tb.Helper()
	d := &driver{
		rx: newRing(g.Memory, g.Rx()), tx: newRing(g.Memory, g.Tx()),
		conns: make(map[ports]*conn), done: make(chan struct{}),
		onRead: func(*conn) {}, onOpen: func(*conn) {}, onGone: func(*conn) {},
	}
	d.interruptsBy(tb, f)
	d.layOut(g.Memory)
	for i := range d.buffers {
		d.rx.post(uint16(i))
	}
	d.rx.kick()
	go d.run()
	tb.Cleanup(d.stop)
	return d
}

// interruptsBy makes both rings interrupt by one eventfd, which the driver's thread
// sleeps on in a read: that is the cheapest wait there is.
func (d *driver) interruptsBy(tb testing.TB, f *vhostusertest.Frontend) {
	tb.Helper()
	d.call = eventfd(tb)
	f.SetVringCall(vhostusertest.RxIndex, d.call)
	f.SetVringCall(vhostusertest.TxIndex, d.call)
	f.Barrier()
	if err := unix.SetNonblock(d.call, false); err != nil { // a backend may have made it so
		tb.Fatal("fcntl:", err)
	}
}

// layOut prepares the buffers of both rings.
func (d *driver) layOut(mem *virtqueuetest.Memory) {
	const page, buffer = 4096, 64 << 10
	for i := range int(d.rx.size) {
		at := mem.Alloc(muxertest.LinuxRxBuffer, page)
		d.buffers = append(d.buffers, mem.Bytes(at, muxertest.LinuxRxBuffer))
		putDesc(d.rx.desc, i, virtqueuetest.Desc{Addr: at, Len: muxertest.LinuxRxBuffer, Flags: virtqueuetest.Write})
	}
	slots := int(d.tx.size)
	if !d.tx.indirect {
		slots /= chainDescs
	}
	for i := range slots {
		at, tableAt, payloadAt := mem.Alloc(64, 64), mem.Alloc(64, 64), mem.Alloc(buffer, buffer)
		d.slots = append(d.slots, slot{
			wire: mem.Bytes(at, csm.HeaderSize), payload: mem.Bytes(payloadAt, buffer),
			header:    virtqueuetest.Desc{Addr: at, Len: csm.HeaderSize},
			payloadAt: payloadAt,
			table:     guestmem.NewSpan(mem.Bytes(tableAt, 16*chainDescs)), tableAt: tableAt,
			n: -1,
		})
		clear(d.slots[i].payload) // there are pages now
		d.free = append(d.free, uint16(slots-1-i))
	}
}

// chainDescs is how many descriptors a packet with payload has, as Linux 6.1 lays it
// out; 6.12 gives more than 32 KiB two, which not every backend takes.
const chainDescs = 2

// chain lays the descriptors of slot i out for n bytes of payload, and returns their
// head.
func (d *driver) chain(i uint16, n int) (head uint16) {
	s := &d.slots[i]
	head = i
	if !d.tx.indirect {
		head *= chainDescs
	}
	if s.n == n {
		return head
	}
	s.n = n
	header, payload := s.header, virtqueuetest.Desc{Addr: s.payloadAt, Len: uint32(n)}
	switch {
	case n == 0:
		putDesc(d.tx.desc, int(head), header)
	case d.tx.indirect:
		header.Flags, header.Next = virtqueuetest.Next, 1
		putDesc(s.table, 0, header)
		putDesc(s.table, 1, payload)
		putDesc(d.tx.desc, int(head), virtqueuetest.Desc{Addr: s.tableAt, Len: 16 * chainDescs, Flags: virtqueuetest.Indirect})
	default:
		header.Flags, header.Next = virtqueuetest.Next, head+1
		putDesc(d.tx.desc, int(head), header)
		putDesc(d.tx.desc, int(head)+1, payload)
	}
	return head
}

// run is the driver's thread.
func (d *driver) run() {
	defer close(d.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var y yields
	for {
		y.round()
		if d.woken.Load() && !d.serveCalls() {
			return
		}
		if d.turn() {
			continue
		}
		// Both, whatever the first one says.
		rx, tx := d.rx.arm(), d.tx.arm()
		if !rx && !tx {
			d.sleep()
		}
		d.rx.disarm()
		d.tx.disarm()
	}
}

// sleep waits for an interrupt or a call.
func (d *driver) sleep() {
	if d.woken.Load() {
		return
	}
	d.counts.interrupts += await(d.call)
}

// do runs f on the driver's thread and waits for it.
func (d *driver) do(f func()) {
	ran := make(chan struct{})
	d.mu.Lock()
	d.calls = append(d.calls, func() { f(); close(ran) })
	d.mu.Unlock()
	d.wake()
	<-ran
}

func (d *driver) wake() {
	d.woken.Store(true)
	signal(d.call)
}

// stop ends the driver as a power cut does. Stopping twice is harmless.
func (d *driver) stop() {
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	d.wake()
	<-d.done
}

// serveCalls runs what others asked for, and reports whether the driver goes on.
func (d *driver) serveCalls() bool {
	d.mu.Lock()
	d.woken.Store(false)
	calls, stopped := d.calls, d.stopped
	d.calls = nil
	d.mu.Unlock()
	d.counts.interrupts -= min(d.counts.interrupts, 1) // the wake
	for _, f := range calls {
		f()
	}
	return !stopped
}

// turn does all there is to do once, and reports whether there was anything.
func (d *driver) turn() (progress bool) {
	for head, _, ok := d.tx.next(); ok; head, _, ok = d.tx.next() {
		if !d.tx.indirect {
			head /= chainDescs
		}
		d.free = append(d.free, head)
		progress = true
	}
	for range rxBatch {
		head, n, ok := d.rx.next()
		if !ok {
			break
		}
		d.receive(d.buffers[head], n)
		d.refill(head)
		progress = true
	}
	d.runReaders()
	d.sendReplies()
	if d.sending {
		progress = d.sendChunks() || progress
	}
	d.tx.kick()
	return progress
}

// refill posts a receive buffer again; the device learns of them as in Linux, once
// fewer than half of them are left (virtio_vsock_rx_fill).
func (d *driver) refill(head uint16) {
	d.taken = append(d.taken, head)
	if posted := int(d.rx.size) - len(d.taken); posted >= int(d.rx.size)/2 {
		return
	}
	for _, head := range d.taken {
		d.rx.post(head)
	}
	d.taken = d.taken[:0]
	d.rx.kick()
}

// receive handles a packet of the device.
func (d *driver) receive(b []byte, n uint32) {
	d.counts.packets++
	var h csm.Header
	h.Decode((*[csm.HeaderSize]byte)(b))
	if n < csm.HeaderSize || n != csm.HeaderSize+h.Len && h.Op == csm.OpRW {
		d.fail("%v of %d bytes in a buffer of which %d are used", h.Op, h.Len, n)
		return
	}
	c := d.connOf(ports{guest: h.DstPort, host: h.SrcPort})
	if c == nil {
		d.stray(&h)
		return
	}
	c.peerBufAlloc, c.peerFwdCnt = h.BufAlloc, h.FwdCnt
	switch h.Op {
	case csm.OpRW:
		d.consume(c, b[csm.HeaderSize:n])
	case csm.OpResponse:
		c.open = true
		d.onOpen(c)
	case csm.OpCreditRequest:
		d.reply(c.header(csm.OpCreditUpdate, 0))
	case csm.OpShutdown:
		// Nobody has anything unread, so an end of both directions is answered at once.
		if c.hostShut |= h.Flags; c.hostShut == csm.ShutdownBoth {
			d.reply(c.header(csm.OpRST, 0))
			d.forget(c)
		}
	case csm.OpRST:
		d.forget(c)
	}
}

// stray handles a packet of no connection.
func (d *driver) stray(h *csm.Header) {
	switch {
	case h.Op == csm.OpRequest && d.accepts:
		c := &conn{guestPort: h.DstPort, hostPort: h.SrcPort, open: true, peerBufAlloc: h.BufAlloc, peerFwdCnt: h.FwdCnt}
		d.conns[ports{c.guestPort, c.hostPort}] = c
		d.reply(c.header(csm.OpResponse, 0))
	case h.Op != csm.OpRST:
		d.strays++
		d.reply(csm.Header{SrcCID: guestCID, DstCID: csm.HostCID, SrcPort: h.DstPort, DstPort: h.SrcPort, Type: h.Type, Op: csm.OpRST})
	}
}

// dial asks the host for a connection.
func (d *driver) dial(c *conn) {
	d.conns[ports{c.guestPort, c.hostPort}] = c
	d.reply(c.header(csm.OpRequest, 0))
}

// shutdown says that a connection's program has closed it.
func (d *driver) shutdown(c *conn) {
	h := c.header(csm.OpShutdown, 0)
	h.Flags = csm.ShutdownBoth
	c.shut = true
	d.reply(h)
}

// consume takes payload for the connection's program.
func (d *driver) consume(c *conn, payload []byte) {
	if d.check && !matches(payload, c.received) {
		d.fail("bytes from %d on are not what was sent", c.received)
	}
	c.fwdCnt += uint32(len(payload))
	c.received += uint64(len(payload))
	if !c.dirty {
		c.dirty = true
		d.read = append(d.read, c)
	}
}

// runReaders has the programs read all there is for them, of which Linux 6.12 tells by a
// CREDIT_UPDATE each time, and then do what they do with it.
func (d *driver) runReaders() {
	for _, c := range d.read {
		c.dirty = false
		if c.fwdCnt != c.lastFwdCnt {
			d.reply(c.header(csm.OpCreditUpdate, 0))
		}
		d.onRead(c)
	}
	d.read = d.read[:0]
}

// connOf returns the connection of a packet, nil if there is none.
func (d *driver) connOf(p ports) *conn {
	if c := d.last; c != nil && c.guestPort == p.guest && c.hostPort == p.host {
		return c
	}
	c := d.conns[p]
	if c != nil {
		d.last = c
	}
	return c
}

func (d *driver) forget(c *conn) {
	c.open = false
	d.last = nil
	delete(d.conns, ports{c.guestPort, c.hostPort})
	d.onGone(c)
}

// reply sends a packet without payload, as soon as there is room.
func (d *driver) reply(h csm.Header) { d.replies = append(d.replies, h) }

func (d *driver) sendReplies() {
	n := 0
	for ; n < len(d.replies) && len(d.free) > 0; n++ {
		d.post(&d.replies[n], d.takeSlot())
	}
	d.replies = append(d.replies[:0], d.replies[n:]...)
}

func (d *driver) takeSlot() uint16 {
	i := d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	return i
}

// post sends the packet that h begins, with what is in the slot as payload.
func (d *driver) post(h *csm.Header, i uint16) {
	if s := &d.slots[i]; s.sent != *h {
		s.sent = *h
		h.Encode((*[csm.HeaderSize]byte)(s.wire))
	}
	d.tx.post(d.chain(i, int(h.Len)))
	d.counts.packets++
}

// sendChunks has each sender in turn send until its credit ends, as programs on one
// processor do, and reports whether any could.
func (d *driver) sendChunks() (progress bool) {
	for range d.senders {
		if d.turnOf >= len(d.senders) {
			d.turnOf = 0
		}
		c := d.senders[d.turnOf]
		for c.open && c.space() > 0 && len(d.free) > 0 {
			if c.left == 0 {
				c.left = d.chunk
			}
			n := min(c.left, int(c.space()))
			d.send(c, n)
			c.left -= n
			progress = true
		}
		if len(d.free) == 0 {
			break // it is the same one's turn
		}
		d.turnOf++
	}
	return progress
}

// send sends n bytes of payload, for which there must be credit and a slot.
func (d *driver) send(c *conn, n int) {
	i := d.takeSlot()
	if d.check {
		fill(d.slots[i].payload[:n], c.sent)
	}
	h := c.header(csm.OpRW, n)
	d.post(&h, i)
	c.txCnt += uint32(n)
	c.sent += uint64(n)
}

// fail notes what the device did wrong, the first time.
func (d *driver) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}
